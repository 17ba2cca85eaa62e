"""The loader of several datasets at once: homogeneous batches, with sizes of image and batch for each dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from pair_detr.data.dataset_mapper import DetectionMapper
from pair_detr.data.dataset_mixture import SourceOptions, source_options
from pair_detr.data.samplers import MultiDatasetBatchSampler, TrainingBatchSampler, orientations, repeat_factors
from pair_detr.data.transforms import spare_labels


class MultiDatasetMapper:
    """Maps a dict of :func:`pair_detr.data.dataset_mixture.load_source_dicts` in the way of its dataset.

    Output is that of :class:`DetectionMapper`, plus ``dataset_source``, ``ann_type`` and, of images with labels,
    ``pos_category_ids``; the ``instances`` of these are the objects beside the labels' whose boxes are known. They are
    not cropped, which might leave nothing of what the label is about.
    """

    def __init__(self, cfg: CfgNode, options: Sequence[SourceOptions]) -> None:
        self._mappers = [DetectionMapper(_input_of(cfg, source), is_train=True) for source in options]

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        return self._mappers[dataset_dict["dataset_source"]](dataset_dict)


def build_multi_dataset_sampler(
    cfg: CfgNode,
    dicts: Sequence[dict[str, Any]],
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start_batch: int = 0,
) -> MultiDatasetBatchSampler:
    """The sampler that ``DATALOADER.DATASET_*`` describes, for images of
    :func:`pair_detr.data.dataset_mixture.load_source_dicts`.

    Raises:
        ValueError: see :func:`pair_detr.data.dataset_mixture.source_options`, or images have no size.
    """
    options = source_options(cfg)
    parts: list[list[dict[str, Any]]] = [[] for _ in options]
    for record in dicts:
        parts[record["dataset_source"]].append(record)
    streams = [
        TrainingBatchSampler(
            len(part),
            source.batch_size,
            # Datasets of one size must not be walked through in step.
            seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0]),
            groups=orientations(part) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
            repeat_factors=repeat_factors(cfg, part) if source.repeat_factors else None,
        )
        for number, (source, part) in enumerate(zip(options, parts, strict=True))
    ]
    ratios = [source.ratio for source in options]
    return MultiDatasetBatchSampler(
        streams, ratios, seed=seed, rank=rank, world_size=world_size, start_batch=start_batch
    )


def _input_of(cfg: CfgNode, source: SourceOptions) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = source.min_sizes
    cfg.INPUT.MAX_SIZE_TRAIN = source.max_size
    if source.ann_type == "image":
        spare_labels(cfg)
        # Of objects beside the labels' the boxes are enough.
        cfg.MODEL.MASK_ON = False
    return cfg
