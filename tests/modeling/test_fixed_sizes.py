"""Fixed sizes, large-scale jitter and colors: from the image to the model and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from PIL import Image
from torchvision.transforms import functional as F

from pair_detr.data import DetectionMapper, build_augmentation, check_input
from pair_detr.data.transforms import RandomColorJitter
from pair_detr.predictor import Predictor
from pair_detr.structures import Predictions

FIXED = (64, 96)


def augment(cfg: CfgNode, image: np.ndarray, is_train: bool = True) -> tuple[np.ndarray, T.TransformList]:
    augmented = T.AugInput(image)
    transforms = T.AugmentationList(build_augmentation(cfg, is_train))(augmented)
    return augmented.image, transforms


def fixed_cfg(**changes: Any) -> CfgNode:
    cfg = tiny_cfg()
    cfg.INPUT.FIXED_SIZE = FIXED
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
    cfg.merge_from_list([value for key, change in changes.items() for value in (key.replace("__", "."), change)])
    return cfg


@pytest.mark.parametrize(("size", "expected"), [((32, 96), (32, 96)), ((200, 100), (64, 32)), ((10, 12), (64, 77))])
def test_images_are_as_large_as_fits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    for is_train in (True, False):
        assert augment(fixed_cfg(), np.zeros((*size, 3), dtype=np.uint8), is_train)[0].shape[:2] == expected


@pytest.mark.parametrize("size", [(40, 60), (90, 20), (300, 333), (64, 96)])
def test_boxes_come_back_to_the_pixels_they_came_from(tmp_path: Path, size: tuple[int, int]) -> None:
    """Ground truth through the training's mapper and targets, then as a prediction through the postprocessing."""
    height, width = size
    Image.new("RGB", (width, height)).save(tmp_path / "image.png")
    boxes = [[0.0, 0.0, width, height], [3.0, 5.0, width / 2, height - 1.0]]
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1} for box in boxes]
    record = {"file_name": str(tmp_path / "image.png"), "width": width, "height": height, "annotations": annotations}
    cfg = fixed_cfg()
    model = build(cfg)
    given = DetectionMapper(cfg, is_train=True)(record)
    targets = model.pack_targets([given, given], model.preprocess([given, given]))
    assert targets.boxes.max() <= 1
    logits = torch.full((1, 2, 2, 3), -9.0)
    logits[..., 1] = torch.tensor([5.0, 4.0])
    predictions = Predictions(logits=logits, boxes=targets.boxes.view(1, 2, 2, 4))
    items = [DetectionMapper(cfg, is_train=False)(record)] * 2
    for result in model.postprocess(predictions, model.preprocess(items), items):
        torch.testing.assert_close(result["instances"].pred_boxes.tensor[:2], torch.tensor(boxes), atol=1e-3, rtol=0)


def test_padding_is_a_part_of_the_image() -> None:
    """Without a mask, whatever the sizes; an image that fills the size is treated the same."""
    model = build(fixed_cfg()).eval()
    batch = make_batch([(64, 40), (30, 96)], [1, 2])
    padded = model.preprocess(batch)
    images = padded.images
    assert padded.padding_mask is None and images.shape == (2, 3, *FIXED)
    assert not images[0, :, :, 40:].any() and not images[1, :, 30:].any()
    expected = (batch[1]["image"] - model.pixel_mean) / model.pixel_std
    assert torch.equal(images[1, :, :30], expected)
    with pytest.raises(ValueError, match=r"\(65, 96\) pixels .* larger than INPUT\.FIXED_SIZE \(64, 96\)"):
        model.preprocess(make_batch([(65, 96)], [0]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_and_losses_of_a_fixed_size(variant: str) -> None:

    cfg = tiny_cfg(variant)
    cfg.INPUT.FIXED_SIZE, cfg.MODEL.MASK_ON = FIXED, True
    cfg.MODEL.BACKBONE.NAME = "build_convnet_backbone"
    batch = make_batch([(64, 40), (32, 96)], [2, 0])
    for item in batch:
        item["instances"].gt_masks = BitMasks(torch.ones(len(item["instances"]), *item["image"].shape[1:]).bool())
        item["height"], item["width"] = (2 * side for side in item["image"].shape[1:])
    model = build(cfg)
    targets = model.pack_targets(batch, model.preprocess(batch))
    assert targets.masks.shape == (2, *FIXED) and targets.masks[..., 40:].sum() == 0 and targets.masks[..., :40].all()
    assert all(torch.isfinite(loss) for loss in model.train()(batch).values())
    with torch.no_grad():
        results = model.eval()(batch)
    assert [tuple(r["instances"].pred_masks.shape[1:]) for r in results] == [(128, 80), (64, 192)]


def test_predictor_of_a_fixed_size() -> None:
    """What is found in an image alone is what is found in it once the padding has been painted by hand."""
    torch.manual_seed(0)
    # Whole numbers, so that the padding can be painted exactly.
    predictor = Predictor(fixed_cfg(MODEL__PIXEL_MEAN=[124.0, 116.0, 104.0]))
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    found = predictor(image)["instances"]
    assert found.image_size == (64, 48)
    painted = np.full((*FIXED, 3), (104, 116, 124), dtype=np.uint8)
    painted[:, :48] = image
    expected = predictor(painted)["instances"]
    # Boxes are clipped to the image alone, and left out if nothing of them is in it.
    expected.pred_boxes.clip(found.image_size)
    expected = expected[expected.pred_boxes.nonempty()]
    assert len(expected) > 10
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)


def test_large_scale_jitter_moves_boxes_with_the_pixels() -> None:
    cfg = fixed_cfg(INPUT__LARGE_SCALE_JITTER__ENABLED=True)
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    image[20:50, 30:90] = 255
    sides, visible = set(), 0
    for seed in range(60):
        np.random.seed(seed)
        augmented, transforms = augment(cfg, image)
        height, width = augmented.shape[:2]
        assert height <= 64 and width <= 96
        sides.add(height)
        left, top, right, bottom = np.clip(
            transforms.apply_box(np.array([[30.0, 20.0, 90.0, 50.0]]))[0], 0, [width, height, width, height]
        )
        if min(right - left, bottom - top) < 5:
            continue
        visible += 1
        rows, columns = np.nonzero(augmented[..., 0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(found) - [left, top, right, bottom]).max() <= 1.5
    # A tenth of the size to twice the size; from the size on, the height is the whole one.
    assert min(sides) < 16 and max(sides) == 64 and visible > 40
    assert augment(cfg, image, is_train=False)[0].shape == (64, 85, 3)


# ---- colors ----


def test_colors_change_as_torchvision_changes_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    jitter = RandomColorJitter(0.4, 0.0, 0.0, 0.0, "RGB")
    torch.manual_seed(3)
    transform = jitter.get_transform(image)
    changed = transform.apply_image(image)
    torch.manual_seed(3)
    torch.randperm(4)
    factor = torch.empty(1).uniform_(0.6, 1.4).item()
    assert np.array_equal(changed, np.asarray(F.adjust_brightness(Image.fromarray(image), factor)))
    # The same transform makes the same change, as for a batch of views.
    assert np.array_equal(changed, transform.apply_image(image))
    box = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert np.array_equal(transform.apply_box(box), box)


def test_channels_in_reverse_order_change_likewise() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    results = []
    for order, given in (("RGB", image), ("BGR", image[..., ::-1].copy())):
        torch.manual_seed(1)
        results.append(RandomColorJitter(0.4, 0.4, 0.4, 0.3, order).get_transform(given).apply_image(given))
    assert np.array_equal(results[0], results[1][..., ::-1])
    assert not np.array_equal(results[0], image)


def test_colors_by_config() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    changed = []
    for prob in (0.0, 1.0):
        cfg = fixed_cfg(INPUT__COLOR_JITTER__ENABLED=True, INPUT__COLOR_JITTER__PROB=prob)
        changed.append(not np.array_equal(augment(cfg, image)[0], image))
        assert np.array_equal(augment(cfg, image, is_train=False)[0], image)
    assert changed == [False, True]


# ---- combinations ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"INPUT.FIXED_SIZE": (640,)}, r"FIXED_SIZE is \(640,\); it must be a height and a width"),
        ({"INPUT.FIXED_SIZE": (640.5, 640)}, "FIXED_SIZE"),
        ({"INPUT.FIXED_SIZE": FIXED, "DATALOADER.DATASET_MAX_SIZES": [9]}, "DATASET_MIN_SIZES or DATASET_MAX_SIZES"),
        ({"INPUT.LARGE_SCALE_JITTER.ENABLED": True}, r"relative to INPUT\.FIXED_SIZE, which is \(\): set it"),
        (
            {"INPUT.LARGE_SCALE_JITTER.ENABLED": True, "INPUT.FIXED_SIZE": FIXED},
            "INPUT.RESIZE_CROP are two ways of cropping",
        ),
        (
            {"INPUT.LARGE_SCALE_JITTER.ENABLED": True, "INPUT.LARGE_SCALE_JITTER.SCALE_RANGE": [2.0, 0.1]},
            r"SCALE_RANGE is \[2\.0, 0\.1\]",
        ),
        ({"INPUT.MOSAIC.ENABLED": True, "INPUT.MOSAIC.PROB": 1.5}, r"MOSAIC\.PROB is 1\.5"),
        ({"INPUT.MOSAIC.ENABLED": True, "INPUT.MOSAIC.CENTER_RANGE": [0.5, 1.0]}, "CENTER_RANGE"),
        ({"INPUT.MOSAIC.ENABLED": True, "INPUT.MOSAIC.SCALE_RANGE": [0.0, 1.0]}, "SCALE_RANGE"),
        ({"INPUT.MOSAIC.ENABLED": True, "DATALOADER.SAMPLER_TRAIN": "MultiDatasetSampler"}, "MultiDatasetSampler"),
        ({"INPUT.COLOR_JITTER.ENABLED": True, "INPUT.COLOR_JITTER.HUE": 0.6}, r"HUE is 0\.6; .* 0 and 0\.5"),
        ({"INPUT.COLOR_JITTER.ENABLED": True, "INPUT.FORMAT": "HSV"}, "INPUT.FORMAT is 'HSV'"),
    ],
)
def test_keys_that_exclude_each_other(options: dict[str, object], message: str) -> None:
    cfg = make_cfg()
    check_input(cfg)
    for key, value in options.items():
        node, _, name = key.rpartition(".")
        group = cfg
        for part in node.split("."):
            group = group[part]
        group[name] = value
    with pytest.raises(ValueError, match=message):
        check_input(cfg)
