"""Images of a few pixels on one side, from the file through every augmentation and the model to the picture."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_cfg
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from PIL import Image
from tool_helpers import save_model

from pair_detr.data import DetectionMapper
from pair_detr.data.mosaic import MosaicMapper
from pair_detr.predictor import Predictor

SIZES = [(4000, 1), (1, 4000), (3000, 20), (20, 3000), (20000, 2), (1, 1)]


def record(folder: Path, width: int, height: int) -> dict:
    """A black image whose middle half, along the longer side, is white and an object."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    left, right = (width // 4, width - width // 4) if width > height else (0, width)
    top, bottom = (0, height) if width > height else (height // 4, height - height // 4)
    pixels[top:bottom, left:right] = 255
    file = folder / f"{width}x{height}.png"
    Image.fromarray(pixels).save(file)
    polygon = [left, top, right, top, right, bottom, left, bottom]
    box = {"bbox": [left, top, right, bottom], "bbox_mode": BoxMode.XYXY_ABS, "segmentation": [polygon]}
    annotations = [{**box, "category_id": 0}]
    return {"file_name": str(file), "width": width, "height": height, "image_id": 1, "annotations": annotations}


def _crop(cfg: CfgNode) -> None:
    cfg.INPUT.RESIZE_CROP.PROB = 1.0


def _fixed(cfg: CfgNode) -> None:
    cfg.INPUT.RESIZE_CROP.ENABLED = False
    cfg.INPUT.FIXED_SIZE = (512, 640)


def _large_scale_jitter(cfg: CfgNode) -> None:
    _fixed(cfg)
    cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = True


def _multi_scale(cfg: CfgNode) -> None:
    cfg.INPUT.RESIZE_CROP.ENABLED = False


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("change", [_multi_scale, _crop, _fixed, _large_scale_jitter])
def test_boxes_and_masks_are_where_the_pixels_are(
    tmp_path: Path, change: Callable[[CfgNode], None], masks: bool
) -> None:
    cfg = make_cfg()
    cfg.MODEL.MASK_ON = masks
    change(cfg)
    train, test = (DetectionMapper(cfg, is_train) for is_train in (True, False))
    for (width, height), seed in itertools.product(SIZES, range(4)):
        np.random.seed(seed)
        given = record(tmp_path, width, height)
        mapped = train(given)
        size = tuple(mapped["image"].shape[-2:])
        assert min(size) >= 1 and max(size) <= 1333 and mapped["instances"].image_size == size
        assert min(test(given)["image"].shape) >= 1
        rows, columns = np.nonzero(mapped["image"][0].numpy() > 127)
        if len(rows) == 0:
            continue
        (box,) = mapped["instances"].gt_boxes.tensor.numpy()
        # Bilinear resizing moves an edge by up to a pixel of its source: a crop of 384 pixels may become 1333.
        slack = max(1333 / 384, max(size) / max(width, height))
        assert np.abs(box - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= slack
        if masks:
            (mask,) = mapped["instances"].gt_masks.tensor
            assert mask.shape == size and (mask.numpy() == (mapped["image"][0].numpy() > 127)).mean() > 0.98


@pytest.mark.parametrize("masks", [False, True])
def test_mosaics_of_them(tmp_path: Path, masks: bool) -> None:
    cfg = make_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MOSAIC.ENABLED, cfg.INPUT.MOSAIC.PROB = masks, True, 1.0
    cfg.INPUT.MOSAIC.CENTER_RANGE = [0.05, 0.95]
    records = [record(tmp_path, *size) for size in [*SIZES[:4], (64, 48)]]
    mapper = MosaicMapper(cfg, DetectionMapper(cfg, is_train=True), records)
    objects = 0
    for first, seed in itertools.product(records, range(6)):
        np.random.seed(seed)
        mapped = mapper(first)
        height, width = mapped["image"].shape[-2:]
        boxes = mapped["instances"].gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height] * 2)).all()
        objects += len(boxes)
    assert objects > 30


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_train_on_them_and_detect_in_them(variant: str) -> None:
    cfg = tiny_cfg(variant)
    cfg.MODEL.MASK_ON = True
    model = build(cfg)
    for sizes in ([(1, 200)], [(200, 1), (60, 80)], [(3, 200), (40, 1)]):
        batch = make_batch(sizes, [0] * len(sizes))
        for item, (height, width) in zip(batch, sizes, strict=True):
            item["height"], item["width"] = 3 * height, 3 * width
        for item, result in zip(batch, model.eval()(batch), strict=True):
            instances = result["instances"]
            assert torch.isfinite(instances.pred_boxes.tensor).all()
            assert instances.pred_masks.shape[1:] == (item["height"], item["width"])


@pytest.mark.parametrize("name", ["convnext_atto", "pvt_v2_b0"])
def test_timm_models_that_fail_on_images_thinner_than_their_stride(name: str) -> None:
    pytest.importorskip("timm")
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.TIMM.NAME = "build_timm_backbone", 0, name
    backbone = build(cfg, randomize=False).detector.backbone.eval()
    with torch.no_grad():
        for height, width in ((1, 100), (100, 9), (5, 5)):
            *_, features = backbone(torch.rand(1, 3, height, width)).values()
            assert all(
                cells in (max(side // 32, 1), side // 32 + 1)
                for cells, side in zip(features.shape[-2:], (height, width), strict=True)
            )


def test_predictions_and_pictures_of_them(tmp_path: Path) -> None:
    from pair_detr.drawing.detections import draw_detections

    predictor = Predictor.from_files(*save_model(tmp_path)[1::2], options=["MODEL.DEVICE", "cpu"])
    for width, height in [*SIZES, (70000, 30)]:
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        outputs = predictor(pixels)
        assert outputs["instances"].image_size == (height, width)
        assert torch.isfinite(outputs["instances"].pred_boxes.tensor).all()
        picture = draw_detections(pixels, outputs, predictor.metadata)
        assert picture.shape == pixels.shape
