"""The order of the batches."""

import collections
import itertools

import pytest
import torch

from pair_detr.data.samplers import TrainingBatchSampler


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
