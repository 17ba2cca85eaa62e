"""Pictures of detections in the files of TensorBoard."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, write_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pair_detr.engine import Trainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_pictures")


def shown(folder: Path) -> dict[str, list[tuple[int, int, int]]]:
    """Iteration and size of the pictures by their tags."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: [(x.step, x.width, x.height) for x in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.mark.parametrize("count", [0, 2])
def test_after_each_evaluation(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(Trainer, "test", staticmethod(lambda *_: {"bbox": {"AP": 1.0}}))
    changes = {"DATASETS__TEST": (dataset["NAME"],), "TEST__EVAL_PERIOD": 2, "SOLVER__MAX_ITER": 4}
    weights = {}
    for name, pictures in (("plain", 0), ("drawn", count)):
        torch.manual_seed(0)
        trainer = Trainer(tiny_config(dataset, tmp_path / name, TEST__PICTURES=pictures, **changes))
        trainer.train()
        weights[name] = trainer.model.state_dict()
    found = shown(tmp_path / "drawn")
    assert set(found) == {f"engine_pictures/{i}" for i in range(count)}
    for pictures in found.values():
        assert [step for step, *_ in pictures] == [1, 4]
        # As the images have.
        assert all(side == 32 for _, *sides in pictures for side in sides)
    # The training is what it is without.
    assert all(torch.equal(value, weights["plain"][name]) for name, value in weights["drawn"].items())
