"""Several datasets in one stream of batches: shares, homogeneity, resuming, processes."""

import collections
import itertools
from pathlib import Path

import pytest
import torch
from data_helpers import make_cfg, tiny_dataset_cfg, write_image
from detectron2.config import CfgNode
from detectron2.utils import comm

from pair_detr.data import (
    build_train_loader,
    load_training_dicts,
    register_coco,
    register_image_folder,
    resolve_num_classes,
)
from pair_detr.data.samplers import MultiDatasetBatchSampler, TrainingBatchSampler

pytestmark = pytest.mark.usefixtures("catalogs")


def sampler_of(
    sizes: tuple[int, ...] = (12, 7, 30),
    batches: tuple[int, ...] = (2, 4, 3),
    ratios: tuple[float, ...] = (1, 4, 2),
    seed: int = 3,
    **place: int,
) -> MultiDatasetBatchSampler:
    streams = [
        TrainingBatchSampler(size, batch, seed=seed + i, groups=[index % 3 // 2 for index in range(size)])
        for i, (size, batch) in enumerate(zip(sizes, batches, strict=True))
    ]
    return MultiDatasetBatchSampler(streams, ratios, seed=seed, **place)


def take(sampler: MultiDatasetBatchSampler, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(sampler, count))


def source_of(index: int) -> int:
    return 0 if index < 12 else 1 if index < 19 else 2


@pytest.mark.parametrize("seed", range(2))
def test_shares_are_those_asked_for(seed: int) -> None:
    batches = take(sampler_of(seed=seed), 3000)
    images = collections.Counter(source_of(index) for batch in batches for index, _ in batch)
    iterations = collections.Counter(source_of(batch[0][0]) for batch in batches)
    # Images 1 : 4 : 2; iterations 1/2 : 4/4 : 2/3, of a sum of 13/6.
    for source, (of_images, of_iterations) in enumerate([(1 / 7, 3 / 13), (4 / 7, 6 / 13), (2 / 7, 4 / 13)]):
        assert images[source] / images.total() == pytest.approx(of_images, rel=0.01)
        assert iterations[source] / 3000 == pytest.approx(of_iterations, rel=0.01)


def test_sources_take_turns_evenly_but_not_in_a_cycle() -> None:
    chosen = sampler_of(ratios=(2, 4, 3), seed=1).sources_of(0, 9000)
    # A third each: neither long gaps nor a fixed order.
    for source in range(3):
        gaps = torch.tensor(chosen == source).nonzero().flatten().diff()
        assert gaps.max() <= 8 and len(gaps.unique()) > 1
    assert sampler_of(seed=1).sources_of(0, 50).tolist() != sampler_of(seed=2).sources_of(0, 50).tolist()
    whole = sampler_of().sources_of(0, 100)
    assert whole[37:].tolist() == sampler_of().sources_of(37, 63).tolist()


def test_batches_are_of_one_source_and_one_orientation() -> None:
    first = [0, 12, 19]
    for batch in take(sampler_of(), 300):
        sources = {source_of(index) for index, _ in batch}
        assert len(sources) == 1
        source = sources.pop()
        assert len(batch) == (2, 4, 3)[source]
        assert len({(index - first[source]) % 3 // 2 for index, _ in batch}) == 1


def test_each_source_runs_through_its_own_stream() -> None:
    batches = take(sampler_of(), 200)
    own = [batch for batch in batches if source_of(batch[0][0]) == 1]
    alone = TrainingBatchSampler(7, 4, seed=3 + 1, groups=[index % 3 // 2 for index in range(7)])
    assert [[(index - 12, seed) for index, seed in batch] for batch in own] == take(alone, len(own))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 5, 41])
def test_resuming_is_exact_and_processes_share_one_stream(start: int, world_size: int) -> None:
    whole = take(sampler_of(), 60 * world_size)
    for rank in range(world_size):
        resumed = take(sampler_of(rank=rank, world_size=world_size, start_batch=start), 60 - start)
        assert resumed == whole[rank::world_size][start:]


def test_every_process_gets_the_shares() -> None:
    chosen = sampler_of(ratios=(2, 4, 3)).sources_of(0, 24000)
    for world_size in (2, 8):
        for rank in range(world_size):
            counts = collections.Counter(chosen[rank::world_size].tolist())
            assert all(counts[source] == pytest.approx(8000 / world_size, rel=0.01) for source in range(3))


def test_bad_sampler_arguments() -> None:
    for ratios in ((), (1.0,), (1.0, 0.0, 1.0)):
        with pytest.raises(ValueError, match="3 sources with ratios"):
            sampler_of(ratios=ratios)


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Ten images with boxes of cats and dogs, and photos: four of cats, one of a dog, one of an owl."""
    cfg = tiny_dataset_cfg(tmp_path / "boxes")
    for name, count in (("Cat", 4), ("dog", 1), ("owl", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            write_image(tmp_path / "photos" / name / f"{index}.png", 50, 40)
    register_image_folder("photos", tmp_path / "photos")
    cfg.DATASETS.TRAIN = ("tiny", "photos")
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    cfg.DATALOADER.DATASET_RATIO = [1, 4]
    cfg.DATALOADER.DATASET_BS = [2, 3]
    cfg.DATALOADER.DATASET_MIN_SIZES = [[40, 48], [24]]
    cfg.DATALOADER.DATASET_MAX_SIZES = [64, 28]
    cfg.INPUT.RESIZE_CROP.PROB = 1.0
    return cfg


def contents(cfg: CfgNode, count: int, start: int = 0) -> list[list[tuple]]:
    loader = build_train_loader(cfg, start_iter=start)
    return [[(x["file_name"], x["image"].tolist()) for x in batch] for batch in itertools.islice(loader, count)]


def test_loader_marks_and_sizes_each_source(cfg: CfgNode) -> None:
    loader = build_train_loader(cfg)
    assert len(loader.dataset) == 15
    kinds = collections.Counter()
    for batch in itertools.islice(loader, 33):
        kind = {item["ann_type"] for item in batch}
        assert len(kind) == 1
        kind = kind.pop()
        kinds[kind] += 1
        assert len(batch) == {"box": 2, "image": 3}[kind]
        for item in batch:
            shape = sorted(item["image"].shape[1:])
            boxes = len(item["instances"].gt_boxes)
            if kind == "box":
                assert shape[0] in (40, 48) or shape[1] == 64
                assert boxes <= 2 and "pos_category_ids" not in item
            else:
                # 50x40 at 24, but at most 28; a crop would change the shape.
                assert shape == [22, 28] and boxes == 0 and item["dataset_source"] == 1
                assert item["pos_category_ids"] == [0 if "Cat" in item["file_name"] else 1]
    # Iterations 1/2 : 4/3.
    assert kinds["box"] == pytest.approx(9, abs=1) and kinds.total() == 33


def test_loader_resumes_and_does_not_depend_on_workers(cfg: CfgNode) -> None:
    straight = contents(cfg, 9)
    assert contents(cfg, 4, start=5) == straight[5:]
    cfg.DATALOADER.NUM_WORKERS = 2
    assert contents(cfg, 9) == straight
    cfg.SEED += 1
    assert contents(cfg, 9) != straight


def test_defaults_follow_the_keys_of_one_data_set(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RATIO", "BS", "MIN_SIZES", "MAX_SIZES"):
        setattr(cfg.DATALOADER, f"DATASET_{key}", [])
    cfg.SOLVER.IMS_PER_BATCH = 4
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    sampler = build_train_loader(cfg).batch_sampler
    assert [source.batch_size for source in sampler.sources] == [2, 2]
    chosen = sampler.sources_of(0, 1000)
    assert (chosen == 0).mean() == pytest.approx(0.5, abs=0.005)
    cfg.DATALOADER.DATASET_BS = [1, 3]
    assert [source.batch_size for source in build_train_loader(cfg).batch_sampler.sources] == [1, 3]
    cfg.SOLVER.IMS_PER_BATCH = 3
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 3, .* 2 processes"):
        build_train_loader(cfg)


def test_repeat_factors_within_a_source(cfg: CfgNode) -> None:
    cfg.DATALOADER.USE_RFS = [False, True]
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.8
    boxes, photos = build_train_loader(cfg).batch_sampler.sources
    assert boxes.repeat_factors is None
    # Cats are 4 of 5 photos that stay, the dog 1 of 5: sqrt(0.8 / 0.2) = 2.
    assert photos.repeat_factors.tolist() == [1, 1, 1, 1, 2]


def test_grouping_can_be_switched_off(cfg: CfgNode) -> None:
    assert build_train_loader(cfg).batch_sampler.sources[0].groups == [0, 1, 1] * 3 + [0]
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    assert build_train_loader(cfg).batch_sampler.sources[0].groups is None


def test_the_first_source_gives_the_classes(cfg: CfgNode) -> None:
    assert resolve_num_classes(cfg) == 2
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    with pytest.raises(ValueError, match="mixes datasets of different classes"):
        resolve_num_classes(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASET_RATIO", [1], r"DATASET_RATIO has 1 entries \[1\] for the 2 datasets"),
        ("DATASET_RATIO", [1, 0], r"DATASET_RATIO is 0 for photos; it must be positive"),
        ("DATASET_RATIO", [1, "4"], r"DATASET_RATIO is '4' for photos; it must be positive"),
        ("DATASET_RATIO", [1, float("inf")], r"DATASET_RATIO is inf for photos; it must be positive"),
        ("DATASET_BS", [2, True], r"DATASET_BS is True for photos; it must be a positive number"),
        ("DATASET_BS", [2, 0], r"DATASET_BS is 0 for photos; it must be a positive number"),
        ("DATASET_ANN", ["box", "caption"], r"DATASET_ANN is 'caption' for photos; it must be box or image"),
        ("DATASET_ANN", ["box", "box"], r"DATASET_ANN is box for photos, which has image labels"),
        ("USE_RFS", [1, True], r"USE_RFS is 1 for tiny; it must be True or False"),
        ("DATASET_MIN_SIZES", [[], [3]], r"DATASET_MIN_SIZES is \[\] for tiny"),
        ("DATASET_MIN_SIZES", [480, 240], r"DATASET_MIN_SIZES is 480 for tiny; it must be a list of sizes in pixels"),
        ("DATASET_MIN_SIZES", [[480], ["a"]], r"DATASET_MIN_SIZES is \['a'\] for photos"),
        ("DATASET_MAX_SIZES", [[1333], [667]], r"DATASET_MAX_SIZES is \[1333\] for tiny; it must be a size in pixels"),
    ],
)
def test_bad_keys(cfg: CfgNode, key: str, value: list, message: str) -> None:
    setattr(cfg.DATALOADER, key, value)
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)


def test_image_labels_of_a_single_class_are_refused(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.CLASS_AGNOSTIC = True
    with pytest.raises(ValueError, match=r"CLASS_AGNOSTIC is True, and photos has image labels.*remove it"):
        load_training_dicts(cfg)


def test_epochs_are_refused(cfg: CfgNode) -> None:
    cfg.SOLVER.EPOCHS.MAX = 3
    with pytest.raises(ValueError, match=r"EPOCHS\.MAX is 3, but datasets that are mixed have no common epoch"):
        load_training_dicts(cfg)


def test_coco_mixed_with_photos(shared_dir: Path) -> None:
    coco = shared_dir / "datasets" / "coco"
    register_coco("sample", str(coco / "annotations" / "instances_train2017.json"), str(coco / "train2017"))
    register_image_folder("photos", shared_dir / "datasets" / "photos_by_class")
    cfg = make_cfg(TRAIN=("sample", "photos"))
    cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 1, 1, 0
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    cfg.DATALOADER.DATASET_RATIO = [1, 4]
    cfg.DATALOADER.DATASET_MIN_SIZES, cfg.DATALOADER.DATASET_MAX_SIZES = [[96], [48]], [160, 80]
    items = [batch[0] for batch in itertools.islice(build_train_loader(cfg), 10)]
    assert [item["ann_type"] for item in items].count("image") == 8
    # The photos of an owl and a parrot are of no class of COCO's 80; numbers 15 and 52 are cat and hot dog.
    assert {(Path(x["file_name"]).stem, *x["pos_category_ids"]) for x in items if x["ann_type"] == "image"} == {
        ("cat_720p", 15),
        ("hot_dog", 52),
    }
