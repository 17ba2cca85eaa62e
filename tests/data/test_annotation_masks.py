"""Masks of instances: annotated forms, augmentation, and what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, write_coco, write_voc
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, BoxMode
from PIL import Image
from pycocotools import mask as mask_util
from torchvision.ops import masks_to_boxes

from pair_detr.data import DetectionMapper, check_dataset, load_training_dicts, register_coco
from pair_detr.data.annotation_masks import mask_fault, to_rle
from pair_detr.data.checks.trainable import validate
from pair_detr.tools import check_dataset as tool

pytestmark = pytest.mark.usefixtures("catalogs")

WIDTH, HEIGHT = 60, 40


def disc(x: float, y: float, radius: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths column by column, starting with a run of zeros."""
    flat = mask.flatten(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    return {**rle, "counts": rle["counts"].decode()}


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]


def cfg_for(name: str, **changes: Any) -> CfgNode:
    cfg = make_cfg(TRAIN=(name,), TEST=(name,))
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (HEIGHT,), WIDTH
    cfg.INPUT.RESIZE_CROP.ENABLED = False
    cfg.merge_from_list([value for key, change in changes.items() for value in (key.replace("__", "."), change)])
    return cfg


POLYGON = [[10, 5, 30, 5, 30, 25, 10, 25], [35.5, 10, 50, 10, 50, 20.5]]


@pytest.fixture
def three_forms(tmp_path: Path) -> list[np.ndarray]:
    """Registers "forms": polygons, run lengths in both forms, and a crowd. Returns the masks of the first three."""
    first = mask_util.decode(mask_util.merge(mask_util.frPyObjects(POLYGON, HEIGHT, WIDTH))).astype(bool)
    second, third = disc(20, 20, 12), disc(45, 25, 9)
    annotations = [
        {"image_id": 1, "bbox": box_of(first), "segmentation": POLYGON},
        {"image_id": 1, "bbox": box_of(second), "segmentation": uncompressed(second), "category_id": 2},
        {"image_id": 1, "bbox": [0, 0, 60, 40], "segmentation": uncompressed(disc(30, 20, 18)), "iscrowd": 1},
        {
            "image_id": 1,
            "bbox": box_of(third),
            "segmentation": as_text(mask_util.encode(np.asfortranarray(third.astype(np.uint8)))),
        },
    ]
    register_coco("forms", str(write_coco(tmp_path / "forms", annotations, [(WIDTH, HEIGHT)] * 2)), tmp_path / "forms")
    return [first, second, third]


def test_every_form_gives_the_annotated_mask(three_forms: list[np.ndarray]) -> None:
    cfg = cfg_for("forms", INPUT__MASK_FORMAT="polygon")
    dicts = load_training_dicts(cfg)
    instances = DetectionMapper(cfg, is_train=True)(dicts[0])["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor.numpy().astype(bool).tolist() == np.stack(three_forms).tolist()
    assert instances.gt_classes.tolist() == [0, 1, 0]
    # An image without objects has an empty list of masks.
    empty = DetectionMapper(cfg, is_train=True)(dicts[1])["instances"]
    assert empty.gt_masks.tensor.shape == (0, HEIGHT, WIDTH)
    assert len(empty) == 0


def test_no_masks_unless_asked_for(three_forms: list[np.ndarray]) -> None:
    cfg = cfg_for("forms", MODEL__MASK_ON=False)
    instances = DetectionMapper(cfg, is_train=True)(load_training_dicts(cfg)[0])["instances"]
    assert not instances.has("gt_masks")
    assert len(instances) == 3


@pytest.fixture
def white_disc(tmp_path: Path) -> dict[str, Any]:
    """An image of a white disc and its mask; augmentation must treat both alike."""
    mask = disc(100, 90, 50, 180, 240)
    Image.fromarray(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255).save(tmp_path / "disc.png")
    x, y, w, h = box_of(mask)
    annotation = {
        "bbox": [x, y, w, h],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": uncompressed(mask),
    }
    return {"file_name": str(tmp_path / "disc.png"), "height": 180, "width": 240, "annotations": [annotation]}


@pytest.mark.parametrize("crop", [False, True])
def test_mask_box_and_pixels_stay_together(white_disc: dict[str, Any], crop: bool) -> None:
    cfg = cfg_for("none")
    cfg.INPUT.FLIP_BOTH_AXES = True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (130, 180, 290), 500
    cfg.INPUT.RESIZE_CROP.ENABLED, cfg.INPUT.RESIZE_CROP.PROB = crop, 1.0
    cfg.INPUT.RESIZE_CROP.SCALES, cfg.INPUT.RESIZE_CROP.SIZE_RANGE = [150, 210], [60, 140]
    mapper = DetectionMapper(cfg, is_train=True)
    whole = 0
    for seed in range(25):
        np.random.seed(seed)
        item = mapper(white_disc)
        instances = item["instances"]
        white = item["image"][0] > 127
        if len(instances) == 0:
            assert white.float().mean() < 0.002
            continue
        mask = instances.gt_masks.tensor[0]
        assert mask.shape == white.shape
        # They differ along the edge alone, where the image is interpolated.
        different = (mask != white).sum().item()
        assert different <= 0.75 * (mask.shape[0] + mask.shape[1])
        tight = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
        # Resizing by two moves the edge of a mask by up to a pixel.
        assert (instances.gt_boxes.tensor[0] - tight).abs().max() <= (0 if crop else 1)
        whole += 1
    assert whole > 15


def test_a_flip_is_exact(white_disc: dict[str, Any]) -> None:
    cfg = cfg_for("none", INPUT__RANDOM_FLIP="horizontal", INPUT__MIN_SIZE_TRAIN=(180,), INPUT__MAX_SIZE_TRAIN=240)
    mapper = DetectionMapper(cfg, is_train=True)
    mask = torch.from_numpy(disc(100, 90, 50, 180, 240))
    seen = set()
    for seed in range(8):
        np.random.seed(seed)
        found = mapper(white_disc)["instances"].gt_masks.tensor[0]
        flipped = torch.equal(found, mask.flip(1))
        assert flipped or torch.equal(found, mask)
        seen.add(flipped)
    assert seen == {True, False}


def test_a_crop_is_the_cropped_mask(white_disc: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.data import transforms as T

    mapper = DetectionMapper(cfg_for("none"), is_train=True)
    mask = torch.from_numpy(disc(100, 90, 50, 180, 240))
    for left, top, width, height in ((60, 50, 100, 80), (120, 100, 60, 60), (0, 0, 240, 180)):
        mapper.augmentations = T.AugmentationList([T.CropTransform(left, top, width, height)])
        instances = mapper(white_disc)["instances"]
        expected = mask[top : top + height, left : left + width]
        assert torch.equal(instances.gt_masks.tensor[0], expected)
        # The box is that of what is left of the mask, not what is left of the box.
        torch.testing.assert_close(
            instances.gt_boxes.tensor, masks_to_boxes(expected[None]) + torch.tensor([0.0, 0, 1, 1])
        )
    # The corner of the box is in the crop, but no pixel of the disc.
    mapper.augmentations = T.AugmentationList([T.CropTransform(0, 0, 60, 50)])
    item = mapper(white_disc)
    assert len(item["instances"]) == len(item["instances"].gt_masks) == 0


def test_compressed_forms_agree() -> None:
    mask = disc(20, 20, 12)
    forms = [uncompressed(mask), mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))]
    for form in forms:
        assert np.array_equal(mask_util.decode(to_rle(form, HEIGHT, WIDTH)).astype(bool), mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers, which are not pairs"),
        ([[0, 0, 5, 0, 5, 5], [1, 2, 3, 4]], "a polygon of 4 numbers; three points are 6"),
        ([[0, 0, 5, 0, 5, "5"]], "a polygon that is not a list of numbers"),
        ([[0, 0, 5, 0, 5, float("nan")]], "a polygon with a coordinate that is not finite"),
        ([0, 0, 5, 0, 5, 5], "a polygon that is not a list of numbers"),
        ({"size": [60, 40], "counts": [2400]}, "run lengths of 40x60 pixels, but the image has 60x40"),
        ({"size": [40, 60], "counts": [2401]}, "run lengths of 2401 pixels in a mask of 60x40"),
        ({"counts": [2400]}, "run lengths without size [height, width] and counts"),
        ({"size": ["40", "60"], "counts": [2400]}, "run lengths without size [height, width] and counts"),
        ({"size": [40, 60], "counts": [2410, -10]}, "run lengths that are not all whole numbers from 0 on"),
        ({"size": [40, 60], "counts": [1.5, 2398.5]}, "run lengths that are not all whole numbers from 0 on"),
        ({"size": [40, 60], "counts": ["a"]}, "run lengths that are not all whole numbers from 0 on"),
        ({"size": [40, 60], "counts": "garbage!!"}, "compressed run lengths that are not those of a mask of 60x40"),
        ({"size": [40, 60], "counts": ""}, "compressed run lengths that are not those of a mask of 60x40"),
        (as_text(mask_util.encode(np.ones((40, 60), dtype=np.uint8, order="F"))), None),
        ("M0", "a segmentation of type str, neither polygons nor run lengths"),
        (POLYGON, None),
        ({"size": [40, 60], "counts": [2400]}, None),
    ],
)
def test_faults(segmentation: Any, reason: str | None) -> None:
    assert mask_fault(segmentation, (WIDTH, HEIGHT)) == reason


def test_boxes_alone_are_refused_before_training(tmp_path: Path) -> None:
    good = {"image_id": 1, "bbox": [10, 5, 40, 20], "segmentation": POLYGON}
    bare = {"image_id": 2, "bbox": [1, 2, 10, 8]}
    crowd = {"image_id": 2, "bbox": [1, 2, 10, 8], "iscrowd": 1}
    file = write_coco(tmp_path, [good, bare, crowd], [(WIDTH, HEIGHT)] * 2)
    register_coco("bare", str(file), str(tmp_path))
    match = r'"bare": annotation 0 of 2\.png has no segmentation, but MODEL\.MASK_ON needs a mask for each of its 2'
    with pytest.raises(ValueError, match=match):
        load_training_dicts(cfg_for("bare"))
    assert len(load_training_dicts(cfg_for("bare", MODEL__MASK_ON=False))) == 2
    report = check_dataset("bare")
    assert report.num_masks == 1
    assert list(map(str, report.missing_masks)) == ["annotation 0 of 2.png has no segmentation"]


def test_voc_has_no_masks(tmp_path: Path) -> None:
    from pair_detr.data import register_voc

    register_voc("pascal", str(write_voc(tmp_path / "voc")), "train", ["cat", "dog"])
    with pytest.raises(ValueError, match=r'"pascal": annotation 0 of a\.jpg has no segmentation'):
        load_training_dicts(cfg_for("pascal"))


def test_unusable_masks_are_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Registered in Python, so that nothing is left out before."""
    (tmp_path / "a.png").write_bytes(b"")
    box = {"bbox": [10, 5, 40, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [
            box | {"segmentation": [[1, 2, 3, 4]]},
            box | {"segmentation": POLYGON},
            box | {"segmentation": {"size": [10, 10], "counts": [100]}},
        ],
    }
    DatasetCatalog.register("python", lambda: [record])
    MetadataCatalog.get("python").thing_classes = ["cat"]
    kept = validate("python", [record], masks=True)
    assert kept[0]["annotations"] == [record["annotations"][1]]
    assert "annotation 0 of a.png has a polygon of 4 numbers" in caplog.text
    assert "Dropped 2 such boxes" in caplog.text
    assert validate("python", [record])[0]["annotations"] == record["annotations"]


def test_check_dataset_reports_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, short = [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4]
    box = {"image_id": 1, "bbox": [10, 5, 40, 20]}
    annotations = [
        box | {"segmentation": [odd]},
        box | {"segmentation": [POLYGON[0], short]},
        box | {"segmentation": {"size": [50, 60], "counts": [3000]}},
        box,
    ]
    register_coco("faulty", str(write_coco(tmp_path, annotations, [(WIDTH, HEIGHT)])), str(tmp_path))
    report = check_dataset("faulty")
    assert sorted(map(str, report.bad_masks)) == [
        "annotation 0 of 1.png has a polygon of 7 numbers, which are not pairs",
        "annotation 1 of 1.png has a polygon of 4 numbers; three points are 6",
        "annotation 2 of 1.png has run lengths of 60x50 pixels, but the image has 60x40",
    ]
    assert (report.num_boxes, report.num_masks, len(report.missing_masks)) == (4, 1, 1)
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    with caplog.at_level("INFO"):
        assert tool.main(["faulty"]) == 0
    assert "faulty: bad mask: annotation 0 of 1.png has a polygon of 7 numbers" in caplog.text
    assert "an object without a usable mask is left out, with its box, where MODEL.MASK_ON is True; else" in caplog.text
    assert "faulty: missing mask: annotation 3 of 1.png has no segmentation" in caplog.text
    assert "1 image, 4 boxes, 1 of them with masks" in caplog.text


def test_masks_of_real_data(shared_dir: Path) -> None:
    """A mask's pixels against pycocotools, on COCO's polygons and crowds."""
    from pycocotools.coco import COCO

    folder = shared_dir / "datasets" / "coco"
    file = folder / "annotations" / "instances_val2017.json"
    register_coco("real", str(file), str(folder / "val2017"))
    cfg = cfg_for("real", INPUT__MIN_SIZE_TRAIN=(0,), INPUT__MAX_SIZE_TRAIN=9999)
    coco = COCO(str(file))
    mapper = DetectionMapper(cfg, is_train=True)
    dicts = load_training_dicts(cfg)
    compared = 0
    for record in dicts[:8]:
        instances = mapper(record)["instances"]
        annotations = [a for a in coco.imgToAnns[record["image_id"]] if not a["iscrowd"]]
        expected = [mask for a in annotations if (mask := coco.annToMask(a)).any()]
        assert len(instances) == len(expected)
        for found, mask in zip(instances.gt_masks.tensor, expected, strict=True):
            assert np.array_equal(found.numpy(), mask.astype(bool))
            compared += 1
    assert compared > 20
