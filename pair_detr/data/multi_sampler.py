"""Batches from several data sets, each batch from one of them."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from pair_detr.data.messages import counted
from pair_detr.data.sampler import TrainingBatchSampler

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
        seed: where the order of the sources begins; the same in all processes.
        rank: this process.
        world_size: number of processes.
        start_batch: batches to skip in each process, without any loading; the iteration to resume at.

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
