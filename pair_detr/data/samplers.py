"""Batches of training images in an order that follows from a seed and the position alone."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch import Tensor
from torch.utils.data import Sampler

from pair_detr.utils.messages import counted

# Separate streams of random numbers from one seed.
_ORDER, _SAMPLE = 0, 1


class TrainingBatchSampler(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches, the same for any number of loader workers and after any resume.

    All processes walk through the same stream: epoch after epoch, each shuffled anew. Images are collected into batches
    of one group (landscape or portrait), and the batches are dealt to the processes in turn. A batch is a list of pairs
    (index of the image, seed of its augmentation).

    Args:
        batch_size: images of a batch in one process.
        seed: the same in all processes.
        groups: (size,) group of every image; a batch holds images of one group. None: all are alike.
        repeat_factors: (size,) how often an image occurs in an epoch, on average. None: once.
        start_batch: batches to skip in each process, without any loading; the iteration to resume at.

    Raises:
        ValueError: ``size`` or ``batch_size`` is not positive, ``groups`` or ``repeat_factors`` have another length, or
            some repeat factor is negative or all are 0.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
        repeat_factors: Tensor | None = None,
        start_batch: int = 0,
    ) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"there are {size} images for batches of {batch_size}; both must be positive")
        for name, values in (("groups", groups), ("repeat_factors", repeat_factors)):
            if values is not None and len(values) != size:
                raise ValueError(f"{name} has {len(values)} entries for {size} images")
        if repeat_factors is not None and (repeat_factors.min() < 0 or repeat_factors.sum() == 0):
            raise ValueError("repeat_factors must not be negative nor all 0: the stream would never fill a batch")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.groups = groups
        self.repeat_factors = repeat_factors
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.start_batch * self.world_size + self.rank
        for batch in itertools.islice(self.batches(), first, None, self.world_size):
            yield self.seeded(batch)

    def seeded(self, batch: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Pairs of index and seed for one of :meth:`batches`.

        It is apart from these because 10 us a seed would be felt when millions of them are skipped.
        """
        return [(index, self._random_seed(_SAMPLE, position)) for position, index in batch]

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """All processes' batches, from the first on, of pairs (position in the stream, index)."""
        pending: dict[int, list[tuple[int, int]]] = {}
        for position, index in enumerate(self._indices()):
            group = 0 if self.groups is None else self.groups[index]
            batch = pending.setdefault(group, [])
            batch.append((position, index))
            if len(batch) == self.batch_size:
                yield pending.pop(group)

    def _indices(self) -> Iterator[int]:
        for epoch in itertools.count():
            generator = torch.Generator().manual_seed(self._random_seed(_ORDER, epoch))
            indices = torch.arange(self.size)
            if self.repeat_factors is not None:
                # Rounded at random, so that the average over the epochs is the factor.
                counts = (self.repeat_factors + torch.rand(self.size, generator=generator)).floor().long()
                indices = indices.repeat_interleave(counts)
            yield from indices[torch.randperm(len(indices), generator=generator)].tolist()

    def _random_seed(self, stream: int, index: int) -> int:
        return int(np.random.SeedSequence(self.seed, spawn_key=(stream, index)).generate_state(1)[0])


# Additive recurrence with the golden ratio: of all sequences of its kind it is spread the most evenly.
_STEP = (5**0.5 - 1) / 2

_CHUNK = 1 << 20


class MultiDatasetBatchSampler(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches, each from one source, the same for any number of workers and after any resume.

    Sources take turns in an even, but not periodic order, so that after n batches every source has had its share to
    within a few batches. All processes walk through the same stream, and its batches are dealt to them in turn:
    in the same iteration they may have different sources. Within a source the order is that of
    :class:`TrainingBatchSampler`. A batch is a list of pairs (index of the image, seed of its augmentation), where
    the images of all sources are counted through.

    Args:
        sources: the stream of each source, made with ``rank`` 0 of a ``world_size`` of 1 and ``start_batch`` 0.
        ratios: how many images are drawn from each source, in proportion. As batches may differ in size, a source
            gets ``ratio / batch_size`` of the iterations, in proportion.
        seed: where the order of the sources begins; the same in all processes. The rest is as for
            :class:`TrainingBatchSampler`.

    Raises:
        ValueError: there are no sources, or some ratio is not positive.
    """

    def __init__(
        self,
        sources: Sequence[TrainingBatchSampler],
        ratios: Sequence[float],
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ) -> None:
        if not sources or len(sources) != len(ratios) or not min(ratios) > 0:
            raise ValueError(
                f"{counted(len(sources), 'source')} with ratios {list(ratios)}; each needs one that is positive"
            )
        self.sources = sources
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        weights = np.array([ratio / source.batch_size for ratio, source in zip(ratios, sources, strict=True)])
        # Upper ends of the sources' intervals in [0, 1), without the last.
        self._ends = np.cumsum(weights / weights.sum())[:-1]
        self._phase = np.random.default_rng(seed).random()
        self._offsets = [0, *itertools.accumulate(source.size for source in sources)]

    def sources_of(self, first: int, count: int) -> np.ndarray:
        """(count,) source of the batches from ``first`` on, in the order of all processes' batches."""
        positions = np.arange(first, first + count)
        return np.searchsorted(self._ends, (self._phase + positions * _STEP) % 1.0, side="right")

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.start_batch * self.world_size
        skipped = np.zeros(len(self.sources), dtype=np.int64)
        for start in range(0, first, _CHUNK):
            chosen = self.sources_of(start, min(_CHUNK, first - start))
            skipped += np.bincount(chosen, minlength=len(self.sources))
        streams = [
            itertools.islice(source.batches(), int(count), None)
            for source, count in zip(self.sources, skipped, strict=True)
        ]
        for position in itertools.count(first):
            number = int(self.sources_of(position, 1)[0])
            batch = next(streams[number])
            if position % self.world_size == self.rank:
                offset = self._offsets[number]
                yield [(offset + index, seed) for index, seed in self.sources[number].seeded(batch)]


def orientations(dicts: Sequence[dict[str, Any]]) -> list[int]:
    """Whether each image is landscape: batches of one need less padding. A ValueError if one has no size."""
    for record in dicts:
        if "width" not in record or "height" not in record:
            raise ValueError(
                f"{record['file_name']} has no width and height in its dataset: add them, or set "
                "DATALOADER.ASPECT_RATIO_GROUPING to False."
            )
    return [int(record["width"] > record["height"]) for record in dicts]


def repeat_factors(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> Tensor:
    """How often each image is shown in an epoch, by the rarest class that it has as a box or as a label.

    Boxes that images with labels have in another dataset do not count.
    """
    labeled = [
        {
            "annotations": [
                *(record["annotations"] if record.get("ann_type") != "image" else ()),
                *({"category_id": i} for i in record.get("pos_category_ids", ())),
            ]
        }
        for record in dicts
    ]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        labeled, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
