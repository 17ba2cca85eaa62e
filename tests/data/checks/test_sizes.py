"""Sizes of images and boxes in words."""

from typing import Any

from detectron2.structures import BoxMode

from pair_detr.data.checks.sizes import describe_sizes


def record(width: int, height: int, *boxes: tuple[float, ...], mode: BoxMode = BoxMode.XYWH_ABS) -> dict[str, Any]:
    annotations = [{"bbox": list(box), "bbox_mode": mode, "category_id": 0} for box in boxes]
    return {"width": width, "height": height, "annotations": annotations}


def test_sizes_by_hand() -> None:
    """Sides relative to images of 100x100: 10, 20, 50, 100 and 32%; an unusable box and a crowd do not count."""
    records = [
        record(100, 100, (0, 0, 10, 10), (0, 0, 20, 20), (0, 0, 50, 50), (0, 0, 99, 99)),
        record(200, 50, (10, 0, 42, 32), mode=BoxMode.XYXY_ABS),
        record(10, 20, (0, 0, 100, 100)),
    ]
    records[1]["annotations"].append(records[1]["annotations"][0] | {"iscrowd": 1})
    assert describe_sizes(records, [{}, {}, {0: "outside"}]).splitlines() == [
        "images from 10x20 to 200x50 pixels, median 100x100",
        "boxes: 40% small (below 32x32 pixels), 40% medium (below 96x96), 20% large; median side 32% of the image's",
    ]


def test_what_is_not_there_is_not_described() -> None:
    assert describe_sizes([{"file_name": "a.jpg"}], [{}]) == ""
    assert describe_sizes([record(30, 20)], [{}]) == "images from 30x20 to 30x20 pixels, median 30x20"
