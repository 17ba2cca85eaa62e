"""Generated shapes: what is annotated is what is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from pair_detr.data import load_dataset, make_shapes, register_shapes
from pair_detr.data.datasets.shapes import CLASS_NAMES, draw_image, mask_to_polygons
from pair_detr.tools import make_shapes as tool

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    assert make_shapes(str(folder), num_train=40, num_val=5, seed=3)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_annotations_are_the_drawn_pixels(shapes: Path) -> None:
    coco = COCO(str(shapes / "annotations" / "shapes_train.json"))
    assert len(coco.imgs) == 40 and [c["name"] for c in coco.loadCats([1, 2, 3])] == list(CLASS_NAMES)
    seen = set()
    for image_info in coco.loadImgs(coco.getImgIds()):
        image = np.asarray(Image.open(shapes / "train" / image_info["file_name"]))
        assert image.shape == (96, 96, 3)
        annotations = coco.loadAnns(coco.getAnnIds(image_info["id"]))
        assert 1 <= len(annotations) <= 5
        covered = np.zeros((96, 96), dtype=int)
        for annotation in annotations:
            seen.add(annotation["category_id"])
            mask = coco.annToMask(annotation).astype(bool)
            covered += mask
            # One flat color inside of the mask, on noise outside: no drawn pixel is left out.
            colors = np.unique(image[mask], axis=0)
            assert len(colors) == 1
            same = (image == colors[0]).all(-1)
            assert (same & ~mask).sum() <= 3
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["area"] == mask.sum()
            assert max(annotation["bbox"][2:]) <= 38
        assert covered.max() == 1
    assert seen == {1, 2, 3}


def test_shapes_hide_at_most_30_percent() -> None:
    hidden_somewhere = False
    for seed in range(60):
        _, drawn = draw_image(np.random.default_rng(seed))
        for class_id, mask in drawn:
            if CLASS_NAMES[class_id] == "rectangle":
                rows, columns = np.nonzero(mask)
                box_area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
                assert mask.sum() >= 0.7 * box_area
                hidden_somewhere |= mask.sum() < box_area
            assert mask.sum() > 0.3 * 12 * 12 / 2
    assert hidden_somewhere


def test_same_seed_same_images(shapes: Path, tmp_path: Path) -> None:
    make_shapes(str(tmp_path / "again"), num_train=40, num_val=5, seed=3)
    assert contents(tmp_path / "again") == contents(shapes)
    make_shapes(str(tmp_path / "fewer"), num_train=2, num_val=1, seed=3)
    make_shapes(str(tmp_path / "other"), num_train=2, num_val=1, seed=4)
    first = "train/000000.png"
    assert contents(tmp_path / "fewer")[first] == contents(shapes)[first]
    assert contents(tmp_path / "other")[first] != contents(shapes)[first]
    assert contents(tmp_path / "fewer")["val/000000.png"] != contents(shapes)[first]


def test_complete_data_are_reused_and_others_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would keep the log of later tests from caplog.
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    folder = tmp_path / "shapes"
    tool.main(["--output", str(folder), "--train", "3", "--val", "1", "--seed", "0"])
    before = (folder / "train" / "000000.png").stat().st_mtime_ns
    assert not make_shapes(str(folder), 3, 1, 0)
    assert (folder / "train" / "000000.png").stat().st_mtime_ns == before
    assert make_shapes(str(folder), 2, 1, 0)
    assert len(list((folder / "train").iterdir())) == 2
    # Nothing temporary is left next to it.
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Image.Image.save

    def stop_at_second(self: Image.Image, fp: Path, **options: object) -> None:
        if fp.name == "000001.png":
            raise KeyboardInterrupt
        saved(self, fp, **options)

    monkeypatch.setattr(Image.Image, "save", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(str(tmp_path / "shapes"), 3, 1)
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose another folder"):
        make_shapes(str(tmp_path), 1, 1)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match="at least one"):
        make_shapes(str(tmp_path / "new"), 0, 1)


def test_registered_in_detectron2(shapes: Path) -> None:
    register_shapes(str(shapes), prefix="test_shapes")
    dicts = load_dataset("test_shapes_train")
    expected = json.loads((shapes / "annotations" / "shapes_train.json").read_text())
    assert [a["bbox"] for d in dicts for a in d["annotations"]] == [a["bbox"] for a in expected["annotations"]]
    assert Path(dicts[0]["file_name"]).is_file()
    assert len(load_dataset("test_shapes_val")) == 5


def test_missing_shapes_say_how_to_make_them(tmp_path: Path) -> None:
    register_shapes(str(tmp_path / "shapes"), prefix="absent")
    with pytest.raises(FileNotFoundError, match=r"make_shapes --output .*shapes"):
        load_dataset("absent_train")


def test_polygons_of_touching_and_separate_parts() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 0]], dtype=bool)
    polygons = mask_to_polygons(mask)
    # Hand-drawn: a single pixel, a vertical bar, and an L that touches both at a corner.
    assert polygons == [
        [0, 0, 1, 0, 1, 1, 0, 1],
        [3, 0, 4, 0, 4, 2, 3, 2],
        [1, 1, 2, 1, 2, 2, 3, 2, 3, 3, 1, 3],
    ]
    assert mask_to_polygons(np.eye(2, dtype=bool)[::-1]) == [[1, 0, 2, 0, 2, 1, 1, 1], [0, 1, 1, 1, 1, 2, 0, 2]]
    # A ring that is open at a corner alone: one outline, which goes through that corner twice.
    ring = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
    assert mask_to_polygons(ring) == [[1, 0, 3, 0, 3, 3, 0, 3, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1]]


def test_no_visible_part_has_a_hole() -> None:
    """Polygons cannot express holes, so that pycocotools would fill them."""
    for seed in range(100):
        for _, mask in draw_image(np.random.default_rng(seed))[1]:
            parts = mask_util.frPyObjects(mask_to_polygons(mask), *mask.shape)
            assert np.array_equal(mask_util.decode(mask_util.merge(parts)), mask)
