"""Datasets that people register in Python: what is accepted, and what is refused by image and annotation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, write_image
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from pair_detr.data import DetectionMapper, load_dataset, load_training_dicts
from pair_detr.data.annotation_masks import mask_fault
from pair_detr.data.checks.trainable import validate
from pair_detr.data.records import normalize_records

pytestmark = pytest.mark.usefixtures("catalogs")

OBJECT = {"bbox": [1, 2, 11, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}


def image(*annotations: Any, **changes: Any) -> dict[str, Any]:
    """A record; ... stands for a key that is left out."""
    record = {"file_name": "a.png", "image_id": 1, "width": 40, "height": 30, "annotations": list(annotations)}
    return {key: value for key, value in (record | changes).items() if value is not ...}


def annotation(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (OBJECT | changes).items() if value is not ...}


def normalized(**changes: Any) -> dict[str, Any]:
    (record,) = normalize_records("own", [image(annotation(**changes))])
    return record["annotations"][0]


def test_types_of_others_become_pythons() -> None:
    given = image(
        annotation(category_id=np.int64(1), bbox=np.array([1, 2, 11, 12]), bbox_mode=0, iscrowd=None, area=None),
        annotation(category_id=1.0, bbox=(1, 2, np.float32(11), 12), iscrowd=np.True_, area=np.float32(2)),
        annotation(category_id=np.array(1), bbox=torch.tensor([1.0, 2, 11, 12]), ignore=True),
        file_name=Path("a.png"),
        image_id=np.int32(7),
        width=np.uint16(40),
        height=30.0,
        pos_category_ids=np.array([0, 2]),
    )
    (record,) = normalize_records("own", (entry for entry in (given,)))
    own = {"bbox": [1, 2, 11, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    assert record == {
        "file_name": "a.png",
        "image_id": 7,
        "width": 40,
        "height": 30,
        "pos_category_ids": [0, 2],
        "annotations": [own | {"iscrowd": 0}, own | {"iscrowd": 1, "area": 2}, own | {"iscrowd": 1, "ignore": 1}],
    }
    assert [type(record[key]) for key in ("file_name", "image_id", "width", "height")] == [str, int, int, int]
    for entry in record["annotations"]:
        assert type(entry["category_id"]) is type(entry["iscrowd"]) is int and type(entry["bbox_mode"]) is BoxMode
        assert type(entry["bbox"]) is list and {*map(type, entry["bbox"])} == {float}
    assert given["file_name"] == Path("a.png") and "iscrowd" not in given["annotations"][2]


def test_what_is_changed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    objects = [annotation(ignore=1), annotation(iscrowd=1, ignore=1), annotation(area=-1), annotation(area=None)]
    with caplog.at_level("INFO", logger="pair_detr"):
        (record,) = normalize_records("said", [image(*objects)])
    assert [entry["iscrowd"] for entry in record["annotations"]] == [1, 1, 0, 0]
    assert not any("area" in entry for entry in record["annotations"])
    ignored, area = caplog.messages
    assert ignored.startswith('Dataset "said": 1 object has ignore 1') and "1 object has an area that is" in area


def test_masks_as_arrays() -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[2:12, 1:11] = True
    bitmap = normalized(segmentation=mask)["segmentation"]
    assert (mask_util.decode(bitmap) == mask).all()
    assert (mask_util.decode(normalized(segmentation=torch.tensor(mask))["segmentation"]) == mask).all()
    corners = [1.0, 2.0, 11.0, 2.0, 11.0, 12.0]
    assert normalized(segmentation=np.array(corners))["segmentation"] == [corners]
    # Neither a bitmap nor a polygon.
    assert mask_fault(normalized(segmentation=mask[None])["segmentation"]) == "a polygon that is not a list of numbers"
    assert normalized(segmentation=[np.array(corners)])["segmentation"] == [corners]
    assert normalized(segmentation=([*map(np.float64, corners)],))["segmentation"] == [corners]


def test_a_model_gets_what_is_registered(tmp_path: Path) -> None:
    """From the function to the mapper, with masks and without."""
    write_image(tmp_path / "a.png", 40, 30)
    boxes = np.array([[1, 2, 11, 12], [5, 5, 30, 20]], dtype=np.float32)
    polygons = [[1, 2, 11, 2, 11, 12, 1, 12], [5, 5, 30, 5, 30, 20, 5, 20]]

    def load() -> list[dict[str, Any]]:
        objects = [
            annotation(bbox=box, category_id=np.int64(index), segmentation=[np.array(polygon)])
            for index, (box, polygon) in enumerate(zip(boxes, polygons, strict=True))
        ]
        return [image(*objects, file_name=tmp_path / "a.png", image_id=...)]

    DatasetCatalog.register("own", load)
    MetadataCatalog.get("own").thing_classes = ["cat", "dog"]
    for masks in (False, True):
        cfg = make_cfg(TRAIN=("own",))
        cfg.MODEL.MASK_ON = masks
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (30,), 40
        cfg.INPUT.RESIZE_CROP.ENABLED = False
        (record,) = load_training_dicts(cfg)
        item = DetectionMapper(cfg)(record)
        assert item["image_id"] == item["file_name"] == str(tmp_path / "a.png")
        assert item["instances"].gt_boxes.tensor.tolist() == boxes.tolist()
        assert item["instances"].gt_classes.tolist() == [0, 1]
        assert item["instances"].has("gt_masks") is masks


def test_what_is_not_known_stays_open() -> None:
    (record,) = normalize_records("own", [image(width=..., height=None, annotations=...)])
    assert record == {"file_name": "a.png", "image_id": 1}
    assert normalized(bbox=..., bbox_mode=...) == {"category_id": 1, "iscrowd": 0}
    assert normalize_records("own", []) == []


def test_invalid_boxes_are_left_to_validation(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 40, 30)
    bad = [[1, 2, 1, 12], [1, 2, float("nan"), 4], [1, 2, 3], "wide", np.zeros(4), [1, 2, None, 4]]
    relative = annotation(bbox_mode=BoxMode.XYWH_REL)
    records = [image(*(annotation(bbox=box) for box in bad), relative, OBJECT, file_name=str(tmp_path / "a.png"))]
    DatasetCatalog.register("own", lambda: records)
    (record,) = validate("own", load_dataset("own"))
    assert record["annotations"] == [OBJECT | {"iscrowd": 0}]
    assert "Dropped 7 such boxes" in caplog.text


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (None, "is a NoneType, not a list of dicts"),
        ({"images": []}, "is a dict, not a list of dicts"),
        (["a.png"], "image 0 is a str, not a dict"),
        ([image(file_name=...)], "image 0 has no file_name"),
        ([image(file_name=None)], r"image 0 has file_name None; it must be the path of a file"),
        ([image(file_name=b"a.png")], r"image 0 \(b'a.png'\) has file_name b'a.png'; it must be"),
        ([image(image_id=1.5)], r"image 0 \(a.png\) has image_id 1.5; it must be a whole number or text"),
        ([image(image_id=(1, 2))], r"has image_id \(1, 2\); it must be"),
        ([image(width=0)], r"image 0 \(a.png\) has width 0; it must be a positive whole number of pixels"),
        ([image(height=-3)], "has height -3;"),
        ([image(height=float("nan"))], "has height nan;"),
        ([image(width=40.5)], "has width 40.5;"),
        ([image(annotations={})], r"image 0 \(a.png\) has annotations of type dict; it must be a list of dicts"),
        ([image(annotations=None)], "has annotations of type NoneType;"),
        ([image(OBJECT, "box")], r"image 0 \(a.png\) has annotation 1 of type str, not a dict"),
        ([image(annotation(category_id=...))], "has annotation 0 with category_id None; it must be the index of its"),
        ([image(annotation(category_id="1"))], "has annotation 0 with category_id '1';"),
        ([image(annotation(category_id=0.5))], "has annotation 0 with category_id 0.5;"),
        ([image(annotation(category_id=True))], "has annotation 0 with category_id True;"),
        (
            [image(OBJECT, annotation(bbox_mode=...))],
            r"has annotation 1 with bbox_mode None; set it to .*BoxMode.XYXY_A",
        ),
        ([image(annotation(bbox_mode=9))], "has annotation 0 with bbox_mode 9; set it to"),
        ([image(annotation(bbox_mode="XYXY_ABS"))], "has annotation 0 with bbox_mode 'XYXY_ABS'; set it to"),
        ([image(annotation(iscrowd="many"))], "has annotation 0 with iscrowd 'many'; it must be 0 or 1"),
        ([image(pos_category_ids=["cat"])], r"image 0 \(a.png\) has pos_category_ids \['cat'\]; they must be indices"),
        ([image(pos_category_ids=None)], r"has pos_category_ids None; it must be a list"),
        ([image(), image(image_id=...)], r"1 of 2 images have no image_id, as image 1 \(a.png\)\. Give all images"),
        ([image(), image(file_name="b.png")], r"image_id 1 \(a.png, b.png\) occurs more than once\. Pred.* of its own"),
        (
            [image(image_id=...)] * 2,
            r"file_name 'a.png' \(a.png, a.png\) occurs more than once\. .* each image an image",
        ),
        ([image(image_id=np.nan)], "has image_id nan"),
    ],
)
def test_what_is_refused(records: Any, message: str) -> None:
    DatasetCatalog.register("own", lambda: records)
    with pytest.raises(ValueError, match=f'Dataset "own".* {message}'):
        load_dataset("own")


def test_ids_become_the_files(tmp_path: Path) -> None:
    records = normalize_records("own", [image(image_id=None, file_name=f"{n}.png") for n in "ab"])
    assert [record["image_id"] for record in records] == ["a.png", "b.png"]


@pytest.mark.parametrize("load", [lambda: [{}["url"]], lambda: ({}["url"] for _ in range(2))])
def test_an_error_in_the_function_names_the_data_set(load: Callable[[], Any]) -> None:
    """A generator fails only when it is used."""
    DatasetCatalog.register("own", load)
    with pytest.raises(ValueError, match="\"own\" cannot be loaded: KeyError: 'url'"):
        load_dataset("own")


def test_other_lists() -> None:
    entries = [image(), image(image_id=2)]
    for records in (tuple(entries), DatasetFromList(entries), (entry for entry in entries)):
        assert [record["image_id"] for record in normalize_records("own", records)] == [1, 2]
