"""The loaders: batches that follow from the seed alone, whatever the workers, processes and resumes."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import tiny_dataset_cfg
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from pair_detr.data import build_test_loader, build_train_loader, load_training_dicts

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    return tiny_dataset_cfg(tmp_path)


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
    whole = list(itertools.islice(build_train_loader(cfg).batch_sampler, 4))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append(list(itertools.islice(build_train_loader(cfg).batch_sampler, 4)))
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
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 2, .* 3 processes: set a positive multiple of 3"):
        build_train_loader(cfg)


def test_test_loader(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 64
    items = [item for batch in build_test_loader(cfg, "tiny") for item in batch]
    assert [item["image_id"] for item in items] == list(range(1, 11))
    assert items[0]["image"].shape == (3, 30, 20) and items[1]["image"].shape == (3, 20, 30)
    cfg.TEST.IMS_PER_BATCH = 4
    assert [len(batch) for batch in build_test_loader(cfg, "tiny")] == [4, 4, 2]
    (tmp_path / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 10 images do not exist: .*3\.png"):
        build_test_loader(cfg, "tiny")


def test_images_without_the_key_annotations_are_background(cfg: CfgNode, tmp_path: Path) -> None:
    dicts = load_training_dicts(cfg)
    bare = [{k: v for k, v in record.items() if k != "annotations"} for record in dicts]
    for name, mixed in {"first": [bare[0], *dicts[1:]], "last": [*dicts[:-1], bare[-1]]}.items():
        DatasetCatalog.register(name, lambda mixed=mixed: mixed)
        MetadataCatalog.get(name).thing_classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
        cfg.DATASETS.TRAIN = (name,)
        loaded = load_training_dicts(cfg)
        assert sum(record["annotations"] == [] for record in loaded) >= 1
        batch = next(iter(build_train_loader(cfg, loaded)))
        assert all("instances" in item for item in batch)
