"""Open vocabulary on generated shapes: what images show, what is known of it, and what is in the way of the files."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from pair_detr.config_files import load_config
from pair_detr.data import load_dataset
from pair_detr.data.datasets.open_shapes import draw_base_objects, make_open_shapes, register_open_shapes
from pair_detr.data.datasets.shape_classes import HOLDOUTS
from pair_detr.modeling.class_sampling import build_federated_sampler

COUNTS = {"num_train": 40, "num_photos": 10, "num_val": 15}
PARTS = ("train_boxes", "train_image_labels", "val")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "open_shapes"
    for holdout in HOLDOUTS.values():
        assert make_open_shapes(folder / holdout.name, holdout, **COUNTS)
    return folder


@pytest.fixture
def registered(root: Path) -> Iterator[Path]:
    with restored_catalogs():
        for name in HOLDOUTS:
            for part in PARTS:
                DatasetCatalog.pop(f"open_shapes_{name}_{part}")
                MetadataCatalog.pop(f"open_shapes_{name}_{part}")
        register_open_shapes(root)
        yield root


def drawn_pixels(file: str) -> np.ndarray:
    """(H, W), where something is drawn: the noise behind is from 96 to 156 in each channel, and no color is gray."""
    image = np.asarray(Image.open(file))
    return ((image < 96) | (image > 156)).any(2)


def union(annotations: list[dict]) -> np.ndarray:
    mask = np.zeros((96, 96), dtype=bool)
    for annotation in annotations:
        own = mask_util.decode(mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], 96, 96))).astype(bool)
        assert not (mask & own).any()
        mask |= own
    return mask


def classes_shown(dicts: list[dict], name: str) -> set[str]:
    names = MetadataCatalog.get(name).thing_classes
    return {names[annotation["category_id"]] for x in dicts for annotation in x["annotations"]}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_only_base_classes_have_boxes_in_training(holdout: str) -> None:
    train, val = (f"open_shapes_{holdout}_{part}" for part in ("train_boxes", "val"))
    novel = set(MetadataCatalog.get(train).novel_classes)
    assert len(novel) == 4 and MetadataCatalog.get(val).novel_classes == MetadataCatalog.get(train).novel_classes
    boxes = load_dataset(train)
    assert len(boxes) == 40
    assert classes_shown(boxes, train) == set(MetadataCatalog.get(train).thing_classes) - novel
    unnoted = [drawn_pixels(x["file_name"]) & ~union(x["annotations"]) for x in boxes]
    # Objects of novel classes are there.
    assert sum(mask.sum() > 60 for mask in unnoted) > 8
    assert not any((union(x["annotations"]) & ~drawn_pixels(x["file_name"])).any() for x in boxes)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_validation_has_all_boxes_and_masks(holdout: str) -> None:
    name = f"open_shapes_{holdout}_val"
    images = load_dataset(name)
    assert len(images) == 15 and all(1 <= len(x["annotations"]) <= 5 for x in images)
    assert all(np.array_equal(drawn_pixels(x["file_name"]), union(x["annotations"])) for x in images)
    assert classes_shown(images, name) & set(MetadataCatalog.get(name).novel_classes)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_photos_show_one_novel_class_each(holdout: str) -> None:
    name = f"open_shapes_{holdout}_train_image_labels"
    photos = load_dataset(name)
    names = MetadataCatalog.get(name).thing_classes
    assert names == MetadataCatalog.get(f"open_shapes_{holdout}_train_boxes").thing_classes
    labels = []
    for photo in photos:
        (label,) = photo["pos_category_ids"]
        assert photo["annotations"] == []
        labels.append(names[label])
        pixels = np.asarray(Image.open(photo["file_name"]))[drawn_pixels(photo["file_name"])]
        color = next(i for i, word in enumerate(("red", "green", "blue")) if word in labels[-1].split())
        assert (pixels.argmax(1) == color).all()
        colors = len(np.unique(pixels, axis=0))
        assert colors in ((2, 4, 6) if "striped" in labels[-1] else (1, 2, 3))
    assert sorted(Counter(labels).values()) == [2, 2, 3, 3]
    assert set(labels) == set(MetadataCatalog.get(f"open_shapes_{holdout}_val").novel_classes)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("config", ["quickstart_boxsup", "quickstart_image_labels"])
def test_novel_objects_are_no_negatives(config: str) -> None:
    cfg = load_config(f"detic/{config}")
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    taking_part = build_federated_sampler(cfg)(torch.tensor([], dtype=torch.long))
    expected = [name not in metadata.novel_classes for name in metadata.thing_classes]
    assert taking_part.tolist() == expected and expected.count(False) == 4
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).novel_classes == metadata.novel_classes


def test_crops_for_backbones_are_of_base_classes() -> None:
    holdout = HOLDOUTS["composition"]
    seen = set()
    for seed in range(60):
        image, shapes = draw_base_objects(np.random.default_rng(seed), holdout)
        for label, mask in shapes:
            own = holdout.base_classes[label]
            pixels = np.unique(image[mask], axis=0)
            assert (pixels.argmax(1) == ("red", "green", "blue").index(own.color)).all()
            assert len(pixels) == (2 if own.texture == "striped" else 1)
            seen.add(label)
    assert seen == set(range(14))


def test_the_seed_decides(root: Path, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    make_open_shapes(tmp_path / "again", HOLDOUTS["color"], **COUNTS)
    assert contents(tmp_path / "again") == contents(root / "color")
    make_open_shapes(tmp_path / "other", HOLDOUTS["color"], 2, 4, 2, seed=1)
    own, other = contents(root / "color"), contents(tmp_path / "other")
    first = [f"{part}/000000.png" for part in ("train", "photos", "val")]
    assert not {own[name] for name in first} & {other[name] for name in first}
    assert len({own[name] for name in first}) == 3


def test_images_are_replaced_and_text_weights_stay(tmp_path: Path) -> None:
    folder, holdout = tmp_path / "shape", HOLDOUTS["shape"]
    make_open_shapes(folder, holdout, 2, 4, 1)
    for name in ("texts.npy", "texts_clip.json"):
        (folder / name).write_text(name)
    assert not make_open_shapes(folder, holdout, 2, 4, 1)
    assert make_open_shapes(folder, holdout, 3, 4, 1)
    assert len(list((folder / "train").iterdir())) == 3
    assert [(folder / name).read_text() for name in ("texts.npy", "texts_clip.json")] == [
        "texts.npy",
        "texts_clip.json",
    ]
    # Another holdout's images are others.
    assert make_open_shapes(folder, HOLDOUTS["color"], 3, 4, 1)
    assert json.loads((folder / "open_shapes.json").read_text())["holdout"] == "color"


@pytest.mark.parametrize("name", ["notes.txt", "train/mine.png", "annotations/mine.json", "own/texts.npy"])
def test_what_the_user_keeps_there_is_not_lost(tmp_path: Path, name: str) -> None:
    folder, holdout = tmp_path / "shape", HOLDOUTS["shape"]
    make_open_shapes(folder, holdout, 2, 4, 1)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"years of work")
    with pytest.raises(FileExistsError, match=rf"open shapes in .* also holds what was not made .*{Path(name).name}"):
        make_open_shapes(folder, holdout, 3, 4, 1)
    assert (folder / name).read_bytes() == b"years of work" and len(list((folder / "photos").iterdir())) == 4


def test_a_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no open shapes made by pair_detr: choose another folder"):
        make_open_shapes(tmp_path, HOLDOUTS["shape"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("counts", [(0, 4, 1), (1, 3, 1), (1, 4, 0)])
def test_too_few_images(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1, 4 \(as many as there are novel classes\) and 1 are needed"):
        make_open_shapes(tmp_path / "shape", HOLDOUTS["shape"], *counts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("catalogs")
def test_missing_data_say_how_to_make_them(tmp_path: Path) -> None:
    for part in PARTS:
        for name in HOLDOUTS:
            DatasetCatalog.pop(f"open_shapes_{name}_{part}")
            MetadataCatalog.pop(f"open_shapes_{name}_{part}")
    register_open_shapes(tmp_path)
    for part in PARTS:
        with pytest.raises(FileNotFoundError, match="make_open_shapes --holdout color"):
            load_dataset(f"open_shapes_color_{part}")
