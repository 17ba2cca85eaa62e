import pytest
from detectron2.structures import BoxMode

from pair_detr.recipes.data_summary import DataSummary, summarize


def record(width: int, height: int, *boxes: tuple[float, ...], **more: object) -> dict:
    annotations = [{"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, **more} for box in boxes]
    return {"width": width, "height": height, "annotations": annotations}


def test_by_hand() -> None:
    records = [
        # Sides of 20 and 40 pixels: 0.2 and 0.4 of the shorter side, 0.1 and 0.2 of the root of the area.
        record(400, 100, (0, 0, 10, 40), (5, 5, 40, 40)),
        record(400, 100, (0, 0, 80, 20)),
        record(200, 50),
    ]
    records[0]["annotations"][0]["category_id"] = records[1]["annotations"][0]["category_id"] = 1
    records[1]["annotations"].append({"bbox": [0, 0, 99, 99], "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 1})
    assert summarize(records, 7) == DataSummary(
        images=3,
        classes=7,
        objects=1.0,
        most_objects=2,
        short_side=100,
        # 4, but for the limit.
        aspect=2.0,
        box_side=0.2,
        # Of the classes 0 and 1, 0.4 and the middle of 0.2 and 0.4.
        small_side=pytest.approx(0.3),
        have_masks=False,
    )


def test_corners_are_boxes_as_well() -> None:
    corners = record(100, 100)
    corners["annotations"] = [{"bbox": [10, 10, 30, 60], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}]
    assert summarize([corners], 1).box_side == pytest.approx((20 * 50) ** 0.5 / 100)


def test_masks_are_those_of_all_objects() -> None:
    masked = record(9, 9, (0, 0, 5, 5), segmentation=[[0, 0, 5, 0, 5, 5]])
    assert summarize([masked], 1).have_masks
    assert not summarize([masked, record(9, 9, (0, 0, 5, 5))], 1).have_masks


@pytest.mark.parametrize("records", [[], [record(9, 9)], [record(9, 9, (1, 1, 0, 5))], [{"width": 9, "height": 9}]])
def test_without_boxes_nothing_is_learned(records: list[dict]) -> None:
    with pytest.raises(ValueError, match="no image has a box"):
        summarize(records, 1)


def test_a_rare_class_does_not_decide_on_the_size() -> None:
    usual = [record(100, 100, (0, 0, 50, 50)) for _ in range(60)]
    tiny = record(100, 100, (0, 0, 4, 4))
    tiny["annotations"][0]["category_id"] = 1
    assert summarize([*usual, tiny], 2).small_side == pytest.approx(0.5)
    assert summarize([*usual, tiny, tiny], 2).small_side == pytest.approx(0.04)


def test_sides_do_not_depend_on_how_an_image_is_turned() -> None:
    wide, tall = record(640, 480, (0, 0, 9, 9)), record(480, 640, (0, 0, 9, 9))
    for records in ([wide, wide], [wide, tall], [tall, tall]):
        summary = summarize(records, 1)
        assert (summary.short_side, summary.aspect) == (480, pytest.approx(4 / 3))


def test_few_long_images_do_not_make_all_larger() -> None:
    usual = [record(120, 100, (0, 0, 9, 9))] * 39
    assert summarize([*usual, record(190, 100)], 1).aspect == pytest.approx(1.2)
    assert summarize([*usual, *[record(190, 100)] * 9], 1).aspect == pytest.approx(1.9)
