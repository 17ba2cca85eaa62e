"""Mosaics: boxes and masks are where the pixels are."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_cfg
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from pair_detr.data import DetectionMapper
from pair_detr.data.mosaic import MosaicMapper

pytestmark = pytest.mark.usefixtures("catalogs")

WIDTH, HEIGHT = 64, 48
NUM_IMAGES = 12


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def dicts(tmp_path: Path) -> list[dict]:
    """Black images with a disc each, whose red is 100 + its class: 0, 1, 2, ... Only the first one is also a crowd."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(NUM_IMAGES):
        mask = disc(*(int(value) for value in rng.integers((16, 16, 9), (48, 32, 15))))
        pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[mask] = (100 + number, 0, 0)
        file = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(file)
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        box = {"bbox": mask_util.toBbox(rle).tolist(), "bbox_mode": BoxMode.XYWH_ABS}
        annotation = {**box, "category_id": number, "iscrowd": 0, "segmentation": rle}
        record = {"file_name": str(file), "image_id": number, "width": WIDTH, "height": HEIGHT}
        records.append(
            {**record, "annotations": [annotation, annotation | {"iscrowd": int(number == 0)}][: 1 + (number == 0)]}
        )
    return records


@pytest.fixture
def cfg() -> CfgNode:
    """Mosaics alone: what comes after them leaves the canvas as it is."""
    cfg = make_cfg()
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (2 * HEIGHT,), 2 * WIDTH
    cfg.INPUT.MOSAIC.ENABLED, cfg.INPUT.MOSAIC.PROB = True, 1.0
    return cfg


def mosaic(cfg: CfgNode, dicts: list[dict], seed: int) -> dict:
    np.random.seed(seed)
    return MosaicMapper(cfg, DetectionMapper(cfg, is_train=True), dicts)(dicts[seed % NUM_IMAGES])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often masks are encoded and decoded."""
    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable) -> Callable:
        def call(*args: object) -> object:
            counts[name] += 1
            return function(*args)

        return call

    for name in ("encode", "decode"):
        monkeypatch.setattr(mask_util, name, counting(name, getattr(mask_util, name)))
    return counts


def found_mask(image: torch.Tensor, class_id: int) -> torch.Tensor:
    # The gray of the canvas has green in it; interpolated edges are of no class or of another one.
    return (image[0] == 100 + class_id) & (image[1] == 0)


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_annotated_is_what_is_seen(cfg: CfgNode, dicts: list[dict], masks: bool) -> None:
    """Without resizing, to the pixel: a box is as large as the disc's visible part or, without masks, its box's."""
    cfg.MODEL.MASK_ON = masks
    cfg.INPUT.MOSAIC.SCALE_RANGE = [1.0, 1.0]
    cut = whole = 0
    for seed in range(40):
        mapped = mosaic(cfg, dicts, seed)
        image, instances = mapped["image"], mapped["instances"]
        assert image.shape == (3, 2 * HEIGHT, 2 * WIDTH)
        classes = instances.gt_classes.tolist()
        if len(set(classes)) < len(classes):
            continue
        visible = {c for c in range(NUM_IMAGES) if found_mask(image, c).any()}
        assert visible <= set(classes) and (not masks or visible == set(classes))
        for index, class_id in enumerate(classes):
            mask = found_mask(image, class_id)
            size = mask_util.area(dicts[class_id]["annotations"][0]["segmentation"])
            cut, whole = cut + (mask.sum() < size).item(), whole + (mask.sum() == size).item()
            box = instances.gt_boxes.tensor[index].tolist()
            if masks:
                assert torch.equal(instances.gt_masks.tensor[index], mask)
            if masks or mask.sum() == size:
                rows, columns = np.nonzero(mask.numpy())
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            else:
                inside = torch.zeros_like(mask)
                left, top, right, bottom = (int(value) for value in box)
                inside[top:bottom, left:right] = True
                assert not (mask & ~inside).any()
                # A box that reached into a neighbor would hold more than the corners of the disc and black.
                assert ((image[0] == 0) | mask)[inside].all()
    assert cut > 5 and whole > 5


def test_a_mask_is_decoded_once_at_most(cfg: CfgNode, dicts: list[dict], tmp_path: Path, calls: Counter[str]) -> None:
    """Run lengths once, alone or in a mosaic; the segments of a PNG file never."""
    cfg.MODEL.MASK_ON = True
    assert len(DetectionMapper(cfg, is_train=True)(dicts[1])["instances"]) == 1
    assert calls == {"decode": 1}
    calls.clear()
    # Each has one disc that is no crowd.
    assert len(mosaic(cfg, dicts, 1)["instances"]) >= 1
    assert calls == {"decode": 4}
    calls.clear()
    Image.fromarray(disc(30, 20, 9).astype(np.uint8)).save(tmp_path / "segments.png")
    segments = {"pan_seg_file_name": str(tmp_path / "segments.png"), "segments_info": [{"id": 1}]}
    annotation = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segment_id": 1}
    panoptic = [{**dicts[0], **segments, "annotations": [annotation]}] * NUM_IMAGES
    (mask,) = DetectionMapper(cfg, is_train=True)(panoptic[0])["instances"].gt_masks.tensor
    assert mask.any()
    assert mosaic(cfg, panoptic, 1)["instances"].gt_masks.tensor.any()
    assert not calls


def test_scales(cfg: CfgNode, dicts: list[dict]) -> None:
    """Resized discs: interpolation moves an edge by up to a pixel."""
    cfg.MODEL.MASK_ON = True
    sizes = set()
    for seed in range(25):
        mapped = mosaic(cfg, dicts, seed)
        instances = mapped["instances"]
        for box, mask, class_id in zip(
            instances.gt_boxes.tensor, instances.gt_masks.tensor, instances.gt_classes.tolist(), strict=True
        ):
            if mask.sum() < 60:
                continue
            red = mapped["image"][0].float()
            # Most of the mask has the disc's color: nearest and bilinear resizing differ at its rim alone.
            assert ((red[mask] - 100 - class_id).abs() < 1).float().mean() > 0.6
            left, top, right, bottom = (int(value) for value in box)
            assert mask[top:bottom, left:right].sum() == mask.sum()
            sizes.add(round(mask.sum().item() / mask_util.area(dicts[class_id]["annotations"][0]["segmentation"]), 1))
    assert min(sizes) < 0.5 and max(sizes) > 1.5


def test_tiles_meet_at_the_point(cfg: CfgNode, dicts: list[dict]) -> None:
    """At the least scale no tile reaches the border of the canvas; gray is around, and never between."""
    cfg.INPUT.MOSAIC.SCALE_RANGE, cfg.INPUT.MOSAIC.CENTER_RANGE = [0.5, 0.5], [0.5, 0.5]
    image = mosaic(cfg, dicts, 1)["image"]
    gray = (image == 128).all(0)
    inside = torch.zeros_like(gray)
    inside[HEIGHT // 2 : 3 * HEIGHT // 2, WIDTH // 2 : 3 * WIDTH // 2] = True
    assert torch.equal(~gray, inside)


def test_other_augmentation_comes_after_it(cfg: CfgNode, dicts: list[dict]) -> None:
    cfg.INPUT.MOSAIC.SCALE_RANGE = [1.0, 1.0]
    plain = mosaic(cfg, dicts, 3)
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    flipped = next(
        mapped
        for seed in range(3, 99, NUM_IMAGES)
        if not torch.equal((mapped := mosaic(cfg, dicts, seed))["image"], plain["image"])
    )
    assert flipped["instances"].image_size == (2 * HEIGHT, 2 * WIDTH)
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FIXED_SIZE = "none", (48, 80)
    small = mosaic(cfg, dicts, 3)
    assert small["image"].shape == (3, 48, 64)
    torch.testing.assert_close(small["instances"].gt_boxes.tensor * 2, plain["instances"].gt_boxes.tensor)


def test_probability_and_what_stays(cfg: CfgNode, dicts: list[dict]) -> None:
    cfg.INPUT.MOSAIC.PROB = 0.3
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (HEIGHT,), WIDTH
    before = repr(dicts)
    mapped = [mosaic(cfg, dicts, seed) for seed in range(150)]
    share = np.mean([item["height"] == 2 * HEIGHT for item in mapped])
    assert 0.2 < share < 0.4
    assert [item["image_id"] for item in mapped[:3]] == [0, 1, 2]
    assert repr(dicts) == before
    assert all("annotations" not in item for item in mapped)


def test_images_of_several_sizes_and_without_objects(cfg: CfgNode, dicts: list[dict], tmp_path: Path) -> None:
    Image.new("RGB", (20, 90), (0, 0, 255)).save(tmp_path / "tall.png")
    tall = {"file_name": str(tmp_path / "tall.png"), "image_id": 99, "width": 20, "height": 90, "annotations": []}
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (40,), 999
    np.random.seed(0)
    mapped = MosaicMapper(cfg, DetectionMapper(cfg, is_train=True), [tall])(tall)
    assert (mapped["height"], mapped["width"]) == (180, 40)
    assert len(mapped["instances"]) == 0 and mapped["instances"].gt_masks.tensor.shape == (0, 180, 40)
    for seed in range(10):
        np.random.seed(seed)
        mapped = MosaicMapper(cfg, DetectionMapper(cfg, is_train=True), [tall, *dicts])(dicts[1])
        assert mapped["instances"].gt_masks.tensor.shape[1:] == mapped["image"].shape[1:]
