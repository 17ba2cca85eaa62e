"""The layout of Pascal VOC."""

from pathlib import Path

import pytest
from data_helpers import edit, write_voc
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.structures import BoxMode

from pair_detr.data import class_names_of, load_dataset, register_voc
from pair_detr.data.datasets.pascal_voc import load_voc

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc")


def test_voc_boxes(voc_root: Path) -> None:
    register_voc("voc", str(voc_root), "train", ["cat", "dog"])
    first, second = load_dataset("voc")
    assert Path(first["file_name"]) == voc_root / "JPEGImages" / "a.jpg"
    assert (first["image_id"], first["width"], first["height"]) == ("a", 40, 30)
    assert first["annotations"] == [
        {"category_id": 1, "bbox": [0.0, 0.0, 40.0, 30.0], "bbox_mode": BoxMode.XYXY_ABS, "difficult": 0, "iscrowd": 0},
        {"category_id": 0, "bbox": [9.0, 4.0, 20.0, 15.0], "bbox_mode": BoxMode.XYXY_ABS, "difficult": 0, "iscrowd": 0},
    ]
    expected = load_voc_instances(str(voc_root), "train", ["cat", "dog"])[0]["annotations"]
    assert first["annotations"] == [annotation | {"difficult": 0, "iscrowd": 0} for annotation in expected]
    assert Path(second["file_name"]).name == "b.png" and second["annotations"] == []


def test_voc_list_of_one_image(voc_root: Path) -> None:
    (voc_root / "ImageSets" / "Main" / "one.txt").write_text("b  -1\n\n")
    assert [d["image_id"] for d in load_voc(str(voc_root), "one", ["cat", "dog"])] == ["b"]


def test_voc_classes_from_all_splits(voc_root: Path) -> None:
    (voc_root / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    register_voc("voc_inferred", str(voc_root), "val")
    assert class_names_of("voc_inferred") == ["cat", "dog"]


def test_voc_box_without_extent_is_dropped(voc_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(voc_root / "Annotations" / "a.xml", "<xmax>20</xmax>", "<xmax>10</xmax>")
    register_voc("voc_flat", str(voc_root), "train", ["cat", "dog"])
    (record, _) = load_dataset("voc_flat")
    assert [a["category_id"] for a in record["annotations"]] == [1]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "annotation 1 of a.jpg has box [10, 5, 10, 15] (zero width)" in warning
    assert "Dropped 1 such box" in warning and "voc_flat" in warning


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>cat</name>", "<name>cow</name>", r'a\.xml: object 1 is of class "cow".*CLASSES'),
        ("<name>cat</name>", "", r"a\.xml: <name> of <object> is missing"),
        ("<xmax>20</xmax>", "<xmax>wide</xmax>", r'a\.xml: <bndbox/xmax> is "wide"'),
        ("<difficult>0</difficult>", "<difficult>no</difficult>", r'a\.xml: <difficult> is "no"'),
        ("<width>40</width>", "<width>0</width>", r"a\.xml: <size> is 0x30; write"),
        ("</annotation>", "", r"a\.xml is not valid XML"),
    ],
)
def test_voc_bad_annotation(voc_root: Path, old: str, new: str, message: str) -> None:
    edit(voc_root / "Annotations" / "a.xml", old, new)
    with pytest.raises(ValueError, match=message):
        load_voc(str(voc_root), "train", ["cat", "dog"])


def test_voc_missing_files(voc_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test\.txt.*splits: \['train'\]"):
        load_voc(str(voc_root), "test", ["cat", "dog"])
    (voc_root / "Annotations" / "b.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"Annotations lacks 1 of the 2 annotations .*: b\. Add them"):
        load_voc(str(voc_root), "train", ["cat", "dog"])
    (voc_root / "JPEGImages" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 2 images .*: b\. Add them, or remove"):
        load_voc(str(voc_root), "train", ["cat", "dog"])


def test_voc_bad_arguments(voc_root: Path) -> None:
    with pytest.raises(ValueError, match="YEAR is 2010"):
        register_voc("voc_year", str(voc_root), "train", year=2010)
    with pytest.raises(ValueError, match="occurs twice"):
        register_voc("voc_twice", str(voc_root), "train", ["cat", "cat"])
