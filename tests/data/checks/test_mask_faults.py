"""Masks that cannot be used: what is kept without training on masks, and what is listed with it."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import make_cfg, predict, write_coco
from pycocotools import mask as mask_util

from pair_detr.data import DetectionMapper, check_dataset, load_dataset, register_coco
from pair_detr.data.annotation_masks import mask_fault, polygon_fault
from pair_detr.data.checks.trainable import validate
from pair_detr.evaluation.build import build_evaluator, require_test_set

pytestmark = pytest.mark.usefixtures("catalogs")

WIDTH, HEIGHT = 60, 40
POLYGON = [[10, 5, 50, 5, 50, 25]]


# What people's files have in place of a mask, and what is said of it.
_UNUSABLE = [
    ({"counts": [2400]}, "run lengths without size"),
    ({"size": [40, 60], "counts": [9999]}, "run lengths of 9999 pixels"),
    ({"size": [40, 60], "counts": "no run lengths"}, "compressed run lengths that are not those of a mask"),
    ([[]], "a polygon of 0 numbers"),
    ([[10, 5, 40, 20]], "a polygon of 4 numbers"),
    ([10, 5, 40, 20], "a polygon that is not a list of numbers"),
    ([[10, 5], [50, 5], [50, 25]], "a polygon of 2 numbers"),
    ([{"x": 10, "y": 5}, {"x": 50, "y": 5}], "a polygon that is not a list of numbers"),
    ([[10, 5, 50, 5, 50, math.nan]], "a polygon with a coordinate that is not finite"),
    ([[10, 5, 50, 5, 50, 1e9]], "a polygon with a coordinate far outside of any image"),
    ([[10, 5, 50, 5, 50, -math.inf]], "a polygon with a coordinate that is not finite"),
    ([[10, 5, 50, 5, 50, 10**400]], "a polygon with a coordinate far outside of any image"),
    ([[[10, 5], [50, 5], [50, 25]]], "a polygon that is not a list of numbers"),
    ([None], "a polygon that is not a list of numbers"),
    ({"size": [40, 60], "counts": ""}, "compressed run lengths that are not those of a mask"),
    ({"size": "40x60", "counts": [2400]}, "run lengths without size"),
    ({"size": [40, 60], "counts": [-1, 2401]}, "run lengths that are not all whole numbers"),
    ([[10, 5, 50, 5, 50, "far"]], "a polygon that is not a list of numbers"),
    ("10,5,50,5,50,25", "a segmentation of type str"),
    (1, "a segmentation of type int"),
]


@pytest.mark.parametrize(("segmentation", "message"), _UNUSABLE)
def test_an_unusable_mask_costs_no_box_unless_masks_are_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, segmentation: Any, message: str
) -> None:
    caplog.set_level(logging.WARNING, logger="pair_detr")
    good = {"image_id": 1, "bbox": [10, 5, 40, 20], "segmentation": POLYGON}
    file = write_coco(tmp_path, [good, good | {"segmentation": segmentation}], [(WIDTH, HEIGHT)])
    register_coco("broken", str(file), str(tmp_path))
    (boxes,) = validate("broken", load_dataset("broken"))
    assert [a["bbox"] for a in boxes["annotations"]] == [[10, 5, 40, 20]] * 2
    assert not caplog.records
    assert len(DetectionMapper(make_cfg(), is_train=True)(boxes)["instances"]) == 2

    (masks,) = validate("broken", load_dataset("broken"), masks=True)
    assert [a["segmentation"] for a in masks["annotations"]] == [POLYGON]
    assert f"annotation 1 of 1.png has {message}" in caplog.text
    assert [fault.index for fault in check_dataset("broken").bad_masks] == [1]


@pytest.mark.parametrize("masks", [False, True])
def test_boxes_are_evaluated_whatever_their_masks(tmp_path: Path, masks: bool) -> None:
    """Perfect predictions have AP 100."""
    annotations = [{"image_id": 1, "bbox": [10, 5, 40, 20], "segmentation": POLYGON}]
    annotations += [
        {"image_id": 2 + i, "bbox": [10, 5, 40, 20], "segmentation": s} for i, (s, _) in enumerate(_UNUSABLE)
    ]
    file = write_coco(tmp_path, annotations, [(WIDTH, HEIGHT)] * len(annotations))
    register_coco("broken", str(file), str(tmp_path))
    cfg = make_cfg(TEST=("broken",))
    cfg.MODEL.MASK_ON = masks
    require_test_set(cfg, "broken")
    evaluator = build_evaluator(cfg, "broken", str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(*predict(load_dataset("broken"), noise=0))
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(("size", "pixels"), [([10**8, 10**6], "1000000x100000000"), ([10**30, 1], f"1x{10**30}")])
def test_run_lengths_beyond_the_memory(size: list[int], pixels: str) -> None:
    """pycocotools would end the process; the size of the image is not always known."""
    assert mask_fault({"size": size, "counts": "abc"}) == f"run lengths of {pixels} pixels, more than any image has"


def test_polygons_of_other_numbers() -> None:
    assert polygon_fault([*map(np.float32, POLYGON[0])]) is None
    assert polygon_fault([*POLYGON[0][:-1], True]) == "a polygon that is not a list of numbers"


def test_a_mask_keeps_its_good_polygons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="pair_detr")
    annotation = {"image_id": 1, "bbox": [10, 5, 40, 20], "segmentation": [[1, 2], *POLYGON, [3]]}
    register_coco("part", str(write_coco(tmp_path, [annotation], [(WIDTH, HEIGHT)])), str(tmp_path))
    (record,) = validate("part", load_dataset("part"), masks=True)
    assert record["annotations"][0]["segmentation"] == POLYGON
    (message,) = caplog.messages
    assert message.startswith('Dataset "part": annotation 0 of 1.png has a polygon of 2 numbers; three points are 6, ')
    assert "Left 2 such polygons out of masks that have others" in message
    assert len(check_dataset("part").bad_masks) == 2
    caplog.clear()
    validate("part", load_dataset("part"))
    assert not caplog.messages


def test_a_polygon_without_the_list_around_it(tmp_path: Path) -> None:
    annotation = {"image_id": 1, "bbox": [10, 5, 40, 20], "segmentation": POLYGON[0]}
    register_coco("flat", str(write_coco(tmp_path, [annotation], [(WIDTH, HEIGHT)])), str(tmp_path))
    assert load_dataset("flat")[0]["annotations"][0]["segmentation"] == POLYGON


@pytest.mark.parametrize("runs", [[6, 3, 1], [0, 10], [2, 1, 1, 1, 5], [0, 1000, 24, 3000, 100000]])
def test_compressed_run_lengths_have_to_fill_the_mask(runs: list[int]) -> None:
    """pycocotools writes them; with others it writes past the end of the mask, or never ends."""
    size = [1, sum(runs)]
    counts = mask_util.frPyObjects({"size": size, "counts": runs}, *size)["counts"]
    assert mask_fault({"size": size, "counts": counts}) is None
    assert mask_fault({"size": size, "counts": counts.decode()}) is None
    for broken in (counts + b"0", counts[:-1], b"xx", b"~~~~", b""):
        assert "not those of a mask" in mask_fault({"size": [1, 7 + sum(runs)], "counts": broken}), broken


def test_masks_outside_of_the_image() -> None:
    outside = [100, 100, 120, 100, 120, 120]
    assert mask_fault([outside], (90, 60)) == "a mask outside of the image of 90x60 pixels"
    assert mask_fault([outside], (101, 101)) is None
    assert mask_fault([outside, [0, 0, 5, 0, 5, 5]], (90, 60)) is None
    assert mask_fault([outside]) is None
