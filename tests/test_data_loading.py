"""Augmentation, mapping, and the order of the batches."""

import collections
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, restored_catalogs, write_coco
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image

from pair_detr.data import (
    DetectionMapper,
    TrainingBatchSampler,
    build_augmentation,
    build_test_loader,
    build_train_loader,
    load_training_dicts,
    register_coco,
)


@pytest.fixture(autouse=True)
def _catalogs() -> Iterator[None]:
    with restored_catalogs():
        yield


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Ten images, every third of them upright, with a crowd and boxes; small sizes."""
    sizes = [(40, 60) if i % 3 == 0 else (60, 40) for i in range(10)]
    annotations = [{"image_id": i + 1, "bbox": [5, 10, 20, 15], "category_id": 1 + i % 2} for i in range(10)]
    annotations.append({"image_id": 1, "bbox": [0, 0, 30, 30], "iscrowd": 1})
    register_coco("tiny", str(write_coco(tmp_path, annotations, sizes)), str(tmp_path))
    cfg = make_cfg(TRAIN=("tiny",), TEST=("tiny",))
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 40, 48)
    cfg.INPUT.MAX_SIZE_TRAIN = 64
    cfg.INPUT.RESIZE_CROP.SCALES = [40, 50]
    cfg.INPUT.RESIZE_CROP.SIZE_RANGE = [24, 40]
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 7
    return cfg


# ---- augmentation ----


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
    expected = {"INPUT.CROP.ENABLED": "INPUT.CROP", "INPUT.MIN_SIZE_TRAIN_SAMPLING": "INPUT.MIN_SIZE_TRAIN"}
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
        with pytest.raises(OSError, match=r"victim\.jpg cannot be read as an image .*Remove it from the data set"):
            DetectionMapper(cfg, is_train)(record(file, [], (64, 64)))


def test_unreadable_image_is_named_by_a_worker(cfg: CfgNode, tmp_path: Path) -> None:
    for image in range(1, 11):
        (tmp_path / f"{image}.png").write_bytes(b"")
    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(OSError, match=r"\.png cannot be read as an image"):
        next(iter(build_train_loader(cfg)))


# ---- order of the batches ----


def take(sampler: TrainingBatchSampler, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(sampler, count))


def indices(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [index for batch in batches for index, _ in batch]


def test_every_epoch_shows_every_image_once_in_another_order() -> None:
    stream = indices(take(TrainingBatchSampler(12, 4, seed=1), 9))
    epochs = [stream[i : i + 12] for i in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(12))
    assert stream == indices(take(TrainingBatchSampler(12, 4, seed=1), 9))
    assert stream != indices(take(TrainingBatchSampler(12, 4, seed=2), 9))


def test_no_two_samples_share_a_seed() -> None:
    seeds = [seed for batch in take(TrainingBatchSampler(3, 2, seed=1), 200) for _, seed in batch]
    assert len(set(seeds)) == len(seeds)
    other = [seed for batch in take(TrainingBatchSampler(3, 2, seed=2), 200) for _, seed in batch]
    assert not set(seeds) & set(other)


@pytest.mark.parametrize("grouped", [False, True])
def test_processes_share_one_stream(grouped: bool) -> None:
    groups = [i % 3 // 2 for i in range(10)] if grouped else None
    whole = take(TrainingBatchSampler(10, 2, seed=5, groups=groups), 12)
    ranks = [take(TrainingBatchSampler(10, 2, seed=5, groups=groups, rank=rank, world_size=3), 4) for rank in range(3)]
    assert [ranks[i % 3][i // 3] for i in range(12)] == whole


@pytest.mark.parametrize("start", [1, 4, 23])
def test_resuming_is_exact(start: int) -> None:
    options = {"seed": 5, "groups": [i % 2 for i in range(7)], "repeat_factors": torch.linspace(1, 2, 7)}
    for rank in range(2):
        straight = take(TrainingBatchSampler(7, 2, rank=rank, world_size=2, **options), 30)
        resumed = TrainingBatchSampler(7, 2, rank=rank, world_size=2, start_batch=start, **options)
        assert take(resumed, 30 - start) == straight[start:]


def test_batches_are_of_one_orientation() -> None:
    groups = [0, 0, 0, 1, 0, 1, 0]
    batches = take(TrainingBatchSampler(7, 2, seed=0, groups=groups), 70)
    assert all(len({groups[index] for index, _ in batch}) == 1 for batch in batches)
    # Nobody is left behind: 140 samples are 20 epochs, but for a pending image of each group.
    counts = collections.Counter(indices(batches))
    assert all(19 <= counts[index] <= 21 for index in range(7))


def test_repeat_factors_hold_on_average() -> None:
    factors = torch.tensor([1.0, 2.5, 1.0, 0.0])
    counts = collections.Counter(indices(take(TrainingBatchSampler(4, 5, seed=0, repeat_factors=factors), 900)))
    assert counts[0] == pytest.approx(1000, abs=15) and counts[2] == pytest.approx(1000, abs=15)
    assert counts[1] == pytest.approx(2500, abs=30) and counts[3] == 0


def test_bad_sampler_arguments() -> None:
    for size, batch in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            TrainingBatchSampler(size, batch, seed=0)
    with pytest.raises(ValueError, match="groups has 1 entries for 2 images"):
        TrainingBatchSampler(2, 1, seed=0, groups=[0])
    for factors in ([0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="repeat_factors must not be negative"):
            TrainingBatchSampler(2, 1, seed=0, repeat_factors=torch.tensor(factors))


# ---- loaders ----


def batches_of(cfg: CfgNode, count: int, start: int = 0) -> list[list[tuple]]:
    loader = build_train_loader(cfg, start_iter=start)
    return [
        [(item["file_name"], item["image"].tolist(), item["instances"].gt_boxes.tensor.tolist()) for item in batch]
        for batch in itertools.islice(loader, count)
    ]


def test_batches_depend_on_neither_workers_nor_resuming(cfg: CfgNode) -> None:
    straight = batches_of(cfg, 8)
    np.random.seed(99)
    assert batches_of(cfg, 3, start=5) == straight[5:]
    cfg.DATALOADER.NUM_WORKERS = 2
    assert batches_of(cfg, 8) == straight
    cfg.SEED = 8
    assert batches_of(cfg, 8) != straight


def test_loading_leaves_the_random_generators_alone(cfg: CfgNode) -> None:
    def draw() -> tuple:
        return random.random(), np.random.random(), torch.rand(1).item()

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    dataset = build_train_loader(cfg).dataset
    seed()
    expected = draw()
    seed()
    dataset[0, 5]
    assert draw() == expected


def test_train_loader(cfg: CfgNode) -> None:
    loader = build_train_loader(cfg, load_training_dicts(cfg))
    assert len(loader.dataset) == 10
    batches = list(itertools.islice(loader, 20))
    upright = [{item["height"] > item["width"] for item in batch} for batch in batches]
    assert all(len(batch) == 2 for batch in batches) and all(len(kinds) == 1 for kinds in upright)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    mixed = [{item["height"] > item["width"] for item in b} for b in itertools.islice(build_train_loader(cfg), 20)]
    assert any(len(kinds) == 2 for kinds in mixed)


def test_negative_seed_is_drawn(cfg: CfgNode) -> None:
    cfg.SEED = -1
    assert build_train_loader(cfg).batch_sampler.seed != build_train_loader(cfg).batch_sampler.seed


def test_processes_divide_the_batches(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    whole = take(build_train_loader(cfg).batch_sampler, 4)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append(take(build_train_loader(cfg).batch_sampler, 4))
    # IMS_PER_BATCH is the total: both together see what one process sees.
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole


def test_repeat_factor_sampling(cfg: CfgNode) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 2.0
    # Each of both classes is in half of the images (the crowd adds "cat" to image 1, which has it): sqrt(2 / 0.5) = 2.
    assert build_train_loader(cfg).batch_sampler.repeat_factors.tolist() == [2.0] * 10


def test_bad_loader_keys(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "Shuffler"
    with pytest.raises(ValueError, match=r"SAMPLER_TRAIN is 'Shuffler'; it must be one of TrainingSampler, Repeat"):
        build_train_loader(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    sizeless = [{key: v for key, v in r.items() if key != "width"} for r in load_training_dicts(cfg)]
    with pytest.raises(ValueError, match=r"1\.png has no width and height .*ASPECT_RATIO_GROUPING to False"):
        build_train_loader(cfg, sizeless)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 2, .* 3 processes: set a multiple of 3"):
        build_train_loader(cfg)


def test_test_loader(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 64
    items = [item for batch in build_test_loader(cfg, "tiny") for item in batch]
    assert [item["image_id"] for item in items] == list(range(1, 11))
    assert items[0]["image"].shape == (3, 30, 20) and items[1]["image"].shape == (3, 20, 30)
    (tmp_path / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 10 images do not exist: .*3\.png"):
        build_test_loader(cfg, "tiny")
