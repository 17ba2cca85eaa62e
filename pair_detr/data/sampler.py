"""Batches of training images in an order that follows from a seed and the position alone."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

# Separate streams of random numbers from one seed.
_ORDER, _SAMPLE = 0, 1


class TrainingBatchSampler(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches, the same for any number of loader workers and after any resume.

    All processes walk through the same stream: epoch after epoch, each shuffled anew. Images are collected into batches
    of one group (landscape or portrait), and the batches are dealt to the processes in turn. A batch is a list of pairs
    (index of the image, seed of its augmentation).

    Args:
        size: number of images.
        batch_size: images of a batch in one process.
        seed: the same in all processes.
        rank: this process.
        world_size: number of processes.
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
