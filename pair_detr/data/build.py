"""Loaders for training and testing."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
    trivial_batch_collator,
)
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from pair_detr.config.choices import MULTI_DATASET_SAMPLER, REPEAT_FACTOR_SAMPLER, SAMPLERS
from pair_detr.data.catalog import annotation_type_of, class_names_of, forget_dataset, load_dataset
from pair_detr.data.checks.trainable import require_boxes, require_images, validate
from pair_detr.data.class_matching import with_classes
from pair_detr.data.dataset_mapper import DetectionMapper
from pair_detr.data.dataset_mixture import load_source_dicts, source_options
from pair_detr.data.datasets.panoptic_masks import mask_file
from pair_detr.data.loader_workers import SignalSafeLoader
from pair_detr.data.model_classes import match_training_set
from pair_detr.data.mosaic import MosaicMapper
from pair_detr.data.multi_dataset import MultiDatasetMapper, build_multi_dataset_sampler
from pair_detr.data.samplers import TrainingBatchSampler, orientations, repeat_factors


class SeededDataset(Dataset):
    """Images mapped with random numbers of their own, so that augmentation depends on nothing but the seed.

    Args:
        dicts: images in Detectron2's standard format; serialized, as Python objects shared with the workers would be
            copied there bit by bit, by reference counting.
        mapper: makes the model's input of one.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._dicts = dicts
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, sample: tuple[int, int]) -> dict[str, Any]:
        index, seed = sample
        with _seeded(seed):
            return self._mapper(self._dicts[index])


def load_training_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """Images of all sets in ``DATASETS.TRAIN``, validated (see :func:`pair_detr.data.checks.trainable.validate`).

    Images without objects are left out if ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` says so. With
    ``DATALOADER.SAMPLER_TRAIN`` MultiDatasetSampler they are those of
    :func:`pair_detr.data.dataset_mixture.load_source_dicts`.

    Raises:
        KeyError, FileNotFoundError, ValueError: there is no dataset, or one cannot be loaded or trained on.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the datasets to train on.")
    if cfg.DATALOADER.SAMPLER_TRAIN == MULTI_DATASET_SAMPLER:
        return load_source_dicts(cfg)
    if labeled := [name for name in cfg.DATASETS.TRAIN if annotation_type_of(name) == "image"]:
        raise ValueError(
            f"DATASETS.TRAIN: {', '.join(labeled)} has image labels, not boxes. Set DATALOADER.SAMPLER_TRAIN to "
            f"{MULTI_DATASET_SAMPLER} to train on both, or remove it."
        )
    dicts = list(itertools.chain.from_iterable(_load_training_set(cfg, name) for name in cfg.DATASETS.TRAIN))
    require_boxes(cfg.DATASETS.TRAIN, dicts)
    # Detectron2's get_detection_dataset_dicts would filter before invalid boxes are dropped, and load everything
    # once more: these are its parts.
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    classes = class_names_of(cfg.DATASETS.TRAIN[0])
    if classes:
        print_instances_class_histogram(dicts, classes)
    return dicts


def _load_training_set(cfg: CfgNode, name: str) -> list[dict[str, Any]]:
    """Validated images with the class indices of the first training set, which may have another order of classes."""
    dicts = validate(name, load_dataset(name), masks=cfg.MODEL.MASK_ON)
    order = match_training_set(cfg.DATASETS.TRAIN[0], name)
    if order is None:
        return dicts
    if any(mask_file(record) for record in dicts):
        raise ValueError(
            f'DATASETS.TRAIN: the panoptic dataset "{name}" has the classes of "{cfg.DATASETS.TRAIN[0]}" in another '
            "order. Give the categories of both the same ids, things and stuff alike."
        )
    return with_classes(dicts, order)


def images_per_process(cfg: CfgNode) -> int:
    """Images of a batch in each process.

    Raises:
        ValueError: ``SOLVER.IMS_PER_BATCH`` cannot be divided over the processes, and over the parts of
            ``SOLVER.ACCUMULATE_STEPS`` in each.
    """
    images, processes, parts = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), cfg.SOLVER.ACCUMULATE_STEPS
    if parts < 1:
        raise ValueError(f"SOLVER.ACCUMULATE_STEPS is {parts}; it must be 1 or more.")
    if images < 1 or images % (processes * parts):
        divided = f"{processes} processes" + (f" in SOLVER.ACCUMULATE_STEPS {parts} parts each" if parts > 1 else "")
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {images}, which cannot be divided over {divided}: set a positive multiple of "
            f"{processes * parts}."
        )
    return images // processes


def build_train_loader(
    cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]] | None = None, start_iter: int = 0
) -> DataLoader:
    """Endless loader of training batches, lists of dicts as :class:`DetectionMapper` makes them.

    With ``DATALOADER.SAMPLER_TRAIN`` MultiDatasetSampler each batch is of one dataset and its dicts are as
    :class:`MultiDatasetMapper` makes them.

    The batches follow from ``SEED`` and the iteration, whatever the number of workers; with a negative ``SEED`` they
    differ from run to run. ``len(loader.dataset)`` is the number of images.

    Args:
        dataset_dicts: validated images; by default those of :func:`load_training_dicts`.
        start_iter: first iteration; the ones before it are skipped without loading.

    Raises:
        ValueError: ``SOLVER.IMS_PER_BATCH`` cannot be divided over the processes, or ``DATALOADER.SAMPLER_TRAIN`` is
            unknown; further as :func:`load_training_dicts`.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN not in SAMPLERS:
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN!r}; it must be one of {', '.join(SAMPLERS)}."
        )
    images = images_per_process(cfg)
    dicts = load_training_dicts(cfg) if dataset_dicts is None else dataset_dicts
    serialized = DatasetFromList(list(dicts), copy=False, serialize=True)
    for name in set(cfg.DATASETS.TRAIN).difference(cfg.DATASETS.TEST):
        forget_dataset(name)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    place = {"rank": comm.get_rank(), "world_size": comm.get_world_size(), "start_batch": start_iter}
    if cfg.DATALOADER.SAMPLER_TRAIN == MULTI_DATASET_SAMPLER:
        sampler: Sampler = build_multi_dataset_sampler(cfg, dicts, seed=seed, **place)
        mapper: Callable = MultiDatasetMapper(cfg, source_options(cfg))
    else:
        mapper = training_mapper(cfg, serialized)
        sampler = TrainingBatchSampler(
            len(dicts),
            images,
            seed=seed,
            groups=orientations(dicts) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
            repeat_factors=repeat_factors(cfg, dicts)
            if cfg.DATALOADER.SAMPLER_TRAIN == REPEAT_FACTOR_SAMPLER
            else None,
            **place,
        )
    workers = cfg.DATALOADER.NUM_WORKERS
    return SignalSafeLoader(
        SeededDataset(serialized, mapper),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=trivial_batch_collator,
        persistent_workers=workers > 0,
    )


def training_mapper(
    cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What makes the model's input of an image of one dataset; a mosaic takes in others of ``dataset_dicts``."""
    mapper = DetectionMapper(cfg, is_train=True)
    return MosaicMapper(cfg, mapper, dataset_dicts) if cfg.INPUT.MOSAIC.ENABLED else mapper


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Loader of one test set, ``TEST.IMS_PER_BATCH`` images at a time; the images are divided over the processes.

    Raises:
        KeyError, FileNotFoundError, ValueError: the dataset cannot be loaded, or images are missing.
    """
    dicts = load_dataset(name)
    require_images(name, dicts)
    # Detectron2's build_detection_test_loader, except for the workers.
    return SignalSafeLoader(
        MapDataset(DatasetFromList(dicts, copy=False), DetectionMapper(cfg, is_train=False)),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=InferenceSampler(len(dicts)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's CPU generator, and restores them afterwards.

    CUDA's stay untouched: without workers this runs in the process that trains, and dropout draws from them.
    """
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
