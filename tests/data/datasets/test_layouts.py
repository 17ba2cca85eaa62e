"""FORMAT auto: folders as annotation programs and archives leave them."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_helpers import make_cfg, restored_catalogs, voc_annotation, voc_object, write_coco, write_image
from detectron2.data import MetadataCatalog

from pair_detr.data import load_dataset, register_from_config
from pair_detr.data.datasets import from_config
from pair_detr.data.datasets.layout_names import split_named_by
from pair_detr.data.datasets.layouts import find_splits
from pair_detr.utils import messages

BOX = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0}]
SIZES = [(40, 30), (20, 20), (30, 30)]


@pytest.fixture(autouse=True)
def _catalogs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(from_config, "_expanded", {})
    monkeypatch.setattr(from_config, "_registered", {})
    monkeypatch.setattr(messages, "_logged", set())
    with restored_catalogs():
        yield


def register(root: Path, **split: Any) -> None:
    register_from_config(make_cfg(REGISTER=[{"NAME": "found", "FORMAT": "auto", "ROOT": str(root), **split}]))


def sizes_of(name: str) -> list[tuple[int, int]]:
    return [(record["width"], record["height"]) for record in load_dataset(name)]


def boxes_of(name: str) -> int:
    return sum(len(record["annotations"]) for record in load_dataset(name))


def write_yolo(root: Path, split: str, count: int) -> None:
    for kind in ("images", "labels"):
        (root / split / kind).mkdir(parents=True)
    for number in range(count):
        write_image(root / split / "images" / f"{number}.jpg", 40, 30)
        (root / split / "labels" / f"{number}.txt").write_text("1 0.5 0.5 0.2 0.2\n", encoding="utf-8")


def write_flat_voc(root: Path, names: list[str]) -> None:
    root.mkdir(parents=True)
    for number, name in enumerate(names):
        write_image(root / f"{number}.jpg", 40, 30)
        text = voc_annotation(40, 30, voc_object(name, "1", "2", "20", "22"))
        (root / f"{number}.xml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("valid", "val"),
        ("Validation-Set_3", "val"),
        ("found_test", "test"),
        ("trainval", "train"),
        ("constraint", None),
        ("latest", None),
        ("train_and_test", None),
    ],
)
def test_words_of_names(name: str, split: str | None) -> None:
    assert split_named_by(name) == split


def test_one_coco_file_for_each_split(tmp_path: Path) -> None:
    """As COCO itself: files in annotations, images elsewhere and with the same names in both splits."""
    for split, sizes in (("train2017", SIZES), ("val2017", SIZES[:2])):
        file = write_coco(tmp_path / split, BOX, sizes)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        file.rename(tmp_path / "annotations" / f"instances_{split}.json")
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    register(tmp_path)
    assert sizes_of("found_train") == SIZES
    assert sizes_of("found_val") == SIZES[:2]
    assert load_dataset("found_val")[0]["file_name"] == str(tmp_path / "val2017" / "1.png")
    assert MetadataCatalog.get("found_val").thing_classes == ["cat", "dog"]


def test_exports_of_roboflow(tmp_path: Path) -> None:
    """A folder in an archive of its own, one file a split, and "valid"; category 0 is none."""
    for split, sizes in (("train", SIZES), ("valid", SIZES[:2]), ("test", SIZES[:1])):
        file = write_coco(tmp_path / "export.coco" / split, BOX, sizes)
        content = json.loads(file.read_text(encoding="utf-8"))
        for category in content["categories"]:
            category["supercategory"] = "pets"
        content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        (file.parent / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
        file.unlink()
    register(tmp_path)
    assert [len(load_dataset(f"found_{split}")) for split in ("train", "val", "test")] == [3, 2, 1]
    assert MetadataCatalog.get("found_train").thing_classes == ["cat", "dog"]


def test_one_coco_file_is_divided(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_coco(tmp_path, BOX, SIZES)
    with caplog.at_level(logging.INFO):
        register(tmp_path, SPLIT={"VAL": 0.34})
    assert len(load_dataset("found_train")) == 2
    assert len(load_dataset("found_val")) == 1
    # Another split of the same name would be another data set.
    with pytest.raises(ValueError, match='"found" is already registered as'):
        register(tmp_path, SPLIT={"VAL": 0.5})
    # What it says can be pasted.
    (line,) = [line for line in caplog.text.splitlines() if line.startswith("- {")]
    assert yaml.safe_load(line) == [
        {
            "NAME": "found",
            "FORMAT": "coco",
            "JSON": str(tmp_path / "annotations.json"),
            "IMAGES": str(tmp_path),
            "SPLIT": {"VAL": 0.34},
        }
    ]


@pytest.mark.parametrize("name", ["data.yaml", "cards.yml"])
def test_yolo_with_a_yaml_file_of_any_name(name: str, tmp_path: Path) -> None:
    """Roboflow writes ../train/images; a test set that is named, but not there, is left out."""
    write_yolo(tmp_path, "train", 3)
    write_yolo(tmp_path, "valid", 1)
    content = {"train": "../train/images", "val": "../valid/images", "test": "../test/images", "names": ["a", "b"]}
    (tmp_path / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    register(tmp_path)
    assert (boxes_of("found_train"), boxes_of("found_val")) == (3, 1)
    assert "found_test" not in find_splits(tmp_path)
    assert MetadataCatalog.get("found_train").thing_classes == ["a", "b"]


def test_yolo_of_label_studio(tmp_path: Path) -> None:
    write_yolo(tmp_path, ".", 4)
    (tmp_path / "classes.txt").write_text("ace\nking\n", encoding="utf-8")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "ace"}]}', encoding="utf-8")
    register(tmp_path)
    assert (len(load_dataset("found_train")), len(load_dataset("found_val"))) == (3, 1)
    assert MetadataCatalog.get("found_train").thing_classes == ["ace", "king"]


def test_a_random_split_says_which_named_ones_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_yolo(tmp_path, "train", 4)
    write_yolo(tmp_path, "valid", 1)
    content = {"train": "train/images", "val": "valid/images", "names": ["a", "b"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    entry = {"NAME": "own", "FORMAT": "yolo", "ROOT": str(tmp_path), "SPLIT": {"VAL": 0.25}}
    register_from_config(make_cfg(REGISTER=[entry]))
    assert '"own" is divided out of train' in caplog.text
    assert "its val is left out. To use the splits of the file, name them." in caplog.text


def test_voc_with_lists_and_without(tmp_path: Path) -> None:
    write_flat_voc(tmp_path / "flat", ["cat", "dog", "cat"])
    root = tmp_path / "voc"
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        (root / folder).mkdir(parents=True)
        for file in (tmp_path / "flat").glob(f"*{suffix}"):
            shutil.copy(file, root / folder)
    assert find_splits(root) == {"all": {"FORMAT": "voc", "ROOT": str(root)}}
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("0\n1\n", encoding="utf-8")
    (root / "ImageSets" / "Main" / "test.txt").write_text("2\n", encoding="utf-8")
    register(root)
    assert (len(load_dataset("found_train")), len(load_dataset("found_test"))) == (2, 1)


def test_flat_voc_in_a_folder_for_each_split(tmp_path: Path) -> None:
    """All have the classes of all, in one order."""
    write_flat_voc(tmp_path / "train", ["dog", "cat"])
    write_flat_voc(tmp_path / "valid", ["bird"])
    register(tmp_path)
    assert (boxes_of("found_train"), boxes_of("found_val")) == (2, 1)
    for name in ("found_train", "found_val"):
        assert MetadataCatalog.get(name).thing_classes == ["bird", "cat", "dog"]
    assert load_dataset("found_val")[0]["annotations"][0]["category_id"] == 0


def test_flat_voc_in_one_folder(tmp_path: Path) -> None:
    write_flat_voc(tmp_path / "cards", ["cat", "dog", "cat", "dog"])
    register(tmp_path, SPLIT={"VAL": 0.5, "SEED": 3})
    assert (len(load_dataset("found_train")), len(load_dataset("found_val"))) == (2, 2)


def test_image_folders(tmp_path: Path) -> None:
    for name in ("train/ace", "train/king", "val/ace", "val/king"):
        (tmp_path / name).mkdir(parents=True)
        write_image(tmp_path / name / "1.jpg", 20, 20)
    register(tmp_path)
    assert [record["pos_category_ids"] for record in load_dataset("found_val")] == [[0], [1]]
    assert find_splits(tmp_path / "val") == {"all": {"FORMAT": "image_folder", "ROOT": str(tmp_path / "val")}}


def test_nothing_that_is_known(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"REGISTER\[0\]: .*gone does not exist; correct the path"):
        register(tmp_path / "gone")
    write_image(tmp_path / "1.jpg", 20, 20)
    (tmp_path / "readme.md").touch()
    with pytest.raises(FileNotFoundError, match=r"no data in a known format: it has 1\.jpg, readme\.md\. Looked for"):
        register(tmp_path)


def test_files_of_several_meanings(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "train", BOX, SIZES)
    shutil.copy(file, file.parent / "keypoints.json")
    with pytest.raises(ValueError, match=r"several files .* not clear .*annotations\.json, .*keypoints\.json"):
        register(tmp_path)


def test_data_of_several_formats(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", BOX, SIZES)
    write_yolo(tmp_path, "train", 3)
    (tmp_path / "data.yaml").write_text("{train: train/images, names: [a, b]}", encoding="utf-8")
    with pytest.raises(ValueError, match="several formats") as caught:
        register(tmp_path)
    entries = yaml.safe_load(str(caught.value).split("\n", 1)[1])
    assert [entry["FORMAT"] for entry in entries] == ["coco", "yolo"]


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    file = write_coco(tmp_path, BOX, SIZES)
    for image in tmp_path.glob("*.png"):
        image.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file.name}: its images \(1\.png, .* neither next to it nor"):
        register(tmp_path)


def test_folders_with_images_of_the_same_names(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "a", BOX, SIZES)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    file.rename(tmp_path / "labels.json")
    (tmp_path / "b" / file.name).unlink()
    with pytest.raises(ValueError, match="several folders have images of its names"):
        register(tmp_path)
