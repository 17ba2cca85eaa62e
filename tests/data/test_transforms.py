"""Augmentation, and the mapper that applies it."""

import collections
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import edit, make_cfg, tiny_dataset_cfg, write_voc
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from PIL import Image

from pair_detr.data import DetectionMapper, build_augmentation, build_train_loader
from pair_detr.data.datasets.pascal_voc import load_voc

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    return tiny_dataset_cfg(tmp_path)


def augment(cfg: CfgNode, image: np.ndarray, seed: int, is_train: bool = True) -> tuple[np.ndarray, T.TransformList]:
    np.random.seed(seed)
    augmented = T.AugInput(image)
    transforms = T.AugmentationList(build_augmentation(cfg, is_train))(augmented)
    return augmented.image, transforms


def test_boxes_follow_the_pixels(cfg: CfgNode) -> None:
    """A white rectangle on black: the box found in the augmented image is the augmented box."""
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (120, 160), 300
    cfg.INPUT.RESIZE_CROP.SCALES, cfg.INPUT.RESIZE_CROP.SIZE_RANGE = [100, 140], [60, 120]
    cfg.INPUT.FLIP_BOTH_AXES = True
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    image[20:50, 30:90] = 255
    visible = 0
    for seed in range(40):
        augmented, transforms = augment(cfg, image, seed)
        height, width = augmented.shape[:2]
        box = transforms.apply_box(np.array([[30.0, 20.0, 90.0, 50.0]]))[0]
        left, top, right, bottom = np.clip(box, 0, [width, height, width, height])
        rows, columns = np.nonzero(augmented[..., 0] > 127)
        if min(right - left, bottom - top) < 4:
            continue
        visible += 1
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # Bilinear resizing moves an edge by up to a pixel.
        assert np.abs(np.array(found) - [left, top, right, bottom]).max() <= 1.5
    assert visible > 30


def kinds(transforms: T.TransformList) -> list[str]:
    flat = []
    for t in transforms.transforms:
        flat.extend(kinds(t) if isinstance(t, T.TransformList) else [type(t).__name__])
    return [kind for kind in flat if kind != "NoOpTransform"]


def test_the_two_branches_of_detr(cfg: CfgNode) -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.RESIZE_CROP.PROB = 0.3
    counts: dict[tuple[str, ...], int] = collections.Counter()
    short_sides = set()
    for seed in range(300):
        augmented, transforms = augment(cfg, image, seed)
        counts[tuple(kinds(transforms))] += 1
        assert max(augmented.shape[:2]) <= 64
        if max(augmented.shape[:2]) < 64:
            short_sides.add(min(augmented.shape[:2]))
        crops = [t for part in transforms.transforms for t in getattr(part, "transforms", [part])]
        for crop in (t for t in crops if type(t).__name__ == "CropTransform"):
            assert 24 <= crop.w <= 40 and 24 <= crop.h <= 40
    plain, cropped = ("ResizeTransform",), ("ResizeTransform", "CropTransform", "ResizeTransform")
    assert set(counts) == {plain, cropped}
    assert 60 <= counts[cropped] <= 120
    assert {32, 40, 48} & short_sides >= {32, 40} and short_sides <= {32, 40, 48}
    cfg.INPUT.RESIZE_CROP.ENABLED = False
    assert all(kinds(augment(cfg, image, seed)[1]) == ["ResizeTransform"] for seed in range(20))


def test_the_resize_before_the_crop_is_limited_for_thin_images_alone(cfg: CfgNode) -> None:
    """DETR crops from an image of any length: RandomResize([400, 500, 600]) has no max_size there."""
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.PROB, cfg.INPUT.MAX_SIZE_TRAIN = "none", 1.0, 45
    cfg.INPUT.RESIZE_CROP.SCALES = [50]

    def first_resize(height: int, width: int, seed: int = 0) -> tuple[int, int]:
        augmented, transforms = augment(cfg, np.zeros((height, width, 3), dtype=np.uint8), seed)
        assert max(augmented.shape) <= 45
        return transforms.transforms[0].new_h, transforms.transforms[0].new_w

    # Also where what the model gets is smaller, up to twice as long as high.
    assert {first_resize(40, 80, seed) for seed in range(10)} == {(50, 100)}
    assert first_resize(40, 120) == (33, 100)
    assert first_resize(20, 3000) == (1, 100)
    cfg = make_cfg()
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.PROB = "none", 1.0
    sizes = set()
    for seed in range(20):
        for height, width in ((240, 530), (20, 3000)):
            transforms = augment(cfg, np.zeros((height, width, 3), dtype=np.uint8), seed)[1]
            sizes.add((transforms.transforms[0].new_h, transforms.transforms[0].new_w))
    # DETR's three, int(scale / 240 * 530 + 0.5) wide, and what fits into its 1333.
    assert sizes == {(400, 883), (500, 1104), (600, 1325), (9, 1333)}


@pytest.mark.parametrize(
    ("flip", "both", "expected"),
    [
        ("none", False, {()}),
        ("horizontal", False, {(), ("HFlipTransform",)}),
        ("vertical", False, {(), ("VFlipTransform",)}),
        (
            *("horizontal", True),
            {(), ("HFlipTransform",), ("VFlipTransform",), ("HFlipTransform", "VFlipTransform")},
        ),
    ],
)
def test_flips(cfg: CfgNode, flip: str, both: bool, expected: set) -> None:
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FLIP_BOTH_AXES = flip, both
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    counts = collections.Counter(
        tuple(kind for kind in kinds(augment(cfg, image, seed)[1]) if "Flip" in kind) for seed in range(120)
    )
    assert set(counts) == expected
    assert min(counts.values()) > 0.6 * 120 / len(expected)


def test_test_time_resize_is_fixed(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 30, 36
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    assert {augment(cfg, image, seed, is_train=False)[0].shape for seed in range(5)} == {(27, 36, 3)}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.RANDOM_FLIP", "sideways"),
        ("INPUT.CROP.ENABLED", True),
        ("INPUT.RESIZE_CROP.PROB", 1.5),
        ("INPUT.RESIZE_CROP.SCALES", []),
        ("INPUT.RESIZE_CROP.SIZE_RANGE", [600, 384]),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    ],
)
def test_bad_augmentation_keys(cfg: CfgNode, key: str, value: object) -> None:
    cfg.merge_from_list([key, value])
    expected = {
        "INPUT.CROP.ENABLED": r"INPUT\.CROP\.ENABLED is True, .* is INPUT\.RESIZE_CROP: ",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "INPUT.MIN_SIZE_TRAIN",
    }
    with pytest.raises(ValueError, match=expected.get(key, key)):
        DetectionMapper(cfg, is_train=True)


# ---- mapper ----


def record(file: Path, boxes: list[list[float]], size: tuple[int, int], **more: object) -> dict:
    annotations = [{"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, **more} for i, b in enumerate(boxes)]
    return {"file_name": str(file), "image_id": 1, "width": size[0], "height": size[1], "annotations": annotations}


def test_mapper_output(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = (20,), "none", False
    Image.new("RGB", (60, 40), (255, 128, 0)).save(tmp_path / "red.png")
    given = record(tmp_path / "red.png", [[6, 8, 60, 40], [-10, 0, 30, 50]], (60, 40))
    given["annotations"].append(given["annotations"][0] | {"iscrowd": 1})
    mapped = DetectionMapper(cfg, is_train=True)(given)
    assert mapped["image"].shape == (3, 20, 30) and mapped["image"].dtype == torch.uint8
    assert mapped["image"][:, 3, 3].tolist() == [255, 128, 0]
    assert mapped["file_name"] == given["file_name"] and (mapped["height"], mapped["width"]) == (40, 60)
    instances = mapped["instances"]
    assert instances.image_size == (20, 30)
    # Half the size; clipped to the image; no crowd.
    assert instances.gt_boxes.tensor.tolist() == [[3, 4, 30, 20], [0, 0, 15, 20]]
    assert instances.gt_classes.tolist() == [0, 1]
    assert len(given["annotations"]) == 3
    test = DetectionMapper(cfg, is_train=False)(given)
    assert "instances" not in test and "annotations" not in test


def test_boxes_outside_of_the_crop_are_left_out(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.RESIZE_CROP.PROB, cfg.INPUT.RANDOM_FLIP = 1.0, "none"
    Image.new("RGB", (80, 80)).save(tmp_path / "black.png")
    corners = [[0, 0, 8, 8], [72, 72, 80, 80]]
    mapper = DetectionMapper(cfg, is_train=True)
    numbers = set()
    for seed in range(30):
        np.random.seed(seed)
        instances = mapper(record(tmp_path / "black.png", corners, (80, 80)))["instances"]
        assert (instances.gt_boxes.tensor[:, 2:] > instances.gt_boxes.tensor[:, :2]).all()
        assert len(instances.gt_classes) == len(instances.gt_boxes)
        numbers.add(len(instances))
    assert 0 in numbers and len(numbers) > 1


def test_image_of_another_size_is_named(cfg: CfgNode, tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc")
    edit(root / "Annotations" / "a.xml", "<width>40</width>", "<width>41</width>")
    given = load_voc(str(root), "train", ["cat", "dog"])[0]
    for is_train in (True, False):
        with pytest.raises(
            SizeMismatchError, match=r"a\.jpg, got \(40, 30\), expect \(41, 30\).*<size>.*width and height"
        ):
            DetectionMapper(cfg, is_train)(given)


@pytest.mark.parametrize("content", ["truncated", "text", "empty", "missing", "folder"])
def test_unreadable_image_is_named(cfg: CfgNode, tmp_path: Path, content: str) -> None:
    file = tmp_path / "victim.jpg"
    if content == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:1500])
    elif content == "folder":
        file.mkdir()
    elif content != "missing":
        file.write_text("not an image" if content == "text" else "")
    for is_train in (True, False):
        with pytest.raises(OSError, match=r"victim\.jpg cannot be read as an image .*Remove it from the dataset"):
            DetectionMapper(cfg, is_train)(record(file, [], (64, 64)))


def test_unreadable_image_is_named_by_a_worker(cfg: CfgNode, tmp_path: Path) -> None:
    for image in range(1, 11):
        (tmp_path / f"{image}.png").write_bytes(b"")
    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(OSError, match=r"\.png cannot be read as an image"):
        next(iter(build_train_loader(cfg)))
