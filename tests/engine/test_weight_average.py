"""The average of the weights: its values, and where it takes the place of the weights themselves."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.engine import HookBase
from engine_helpers import tiny_config, tiny_options, write_dataset
from torch import Tensor, nn

from pair_detr.checkpoint.checkpointer import TRAINED, AtomicCheckpointer
from pair_detr.checkpoint.weights import CheckpointError, load_weights, read_weights
from pair_detr.engine import Trainer, argument_parser, main
from pair_detr.engine.weight_average import WeightAverage

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_weight_average")


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.engine.launch.setup_logger", lambda *_, **__: None)
    monkeypatch.setattr("pair_detr.engine.launch.default_setup", lambda *_: None)


class Recorder(HookBase):
    """The weights after each step, and the losses."""

    def __init__(self) -> None:
        self.weights: list[State] = []
        self.losses: list[float] = []

    def after_step(self) -> None:
        self.weights.append(copy.deepcopy(self.trainer.checkpointer.model.state_dict()))
        self.trainer.flush_metrics()
        self.losses.append(self.trainer.storage.latest()["total_loss"][0])


def trained(dataset: dict[str, str], folder: Path, resume: bool = False, **changes: Any) -> tuple[Trainer, Recorder]:
    torch.manual_seed(0)
    changes = {"SOLVER__EMA_DECAY": 0.5, "SOLVER__BASE_LR": 1e-2} | changes
    trainer, recorder = Trainer(tiny_config(dataset, folder, **changes)), Recorder()
    trainer.register_hooks([recorder])
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer, recorder


def average_of(states: list[State], decay: float) -> State:
    """The first is taken as it is; then the decay grows from 2/11 to its end."""
    average = {name: x.double() for name, x in states[0].items()}
    for step, state in enumerate(states[1:], start=1):
        weight = min(decay, (1 + step) / (10 + step))
        average = {name: weight * x + (1 - weight) * state[name].double() for name, x in average.items()}
    return average


def floats(state: State) -> State:
    return {name: x for name, x in state.items() if x.is_floating_point()}


def assert_close(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, value in floats(found).items():
        torch.testing.assert_close(value.double(), expected[name].double(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.2, 0.9, 0.9999])
def test_values(decay: float) -> None:
    """Statistics of batch norms are averaged alike."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average, states = WeightAverage(model, decay), []
    for step in range(8):
        model(torch.randn(5, 3) * step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.after_step()
        states.append(copy.deepcopy(model.state_dict()))
        assert_close(average.model.state_dict(), average_of(states, decay))
    assert average.state_dict()["steps"] == 8
    # Continued elsewhere.
    other = WeightAverage(copy.deepcopy(model), decay)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    for of in (average, other):
        of.after_step()
    assert_close(other.model.state_dict(), average.model.state_dict())


def test_checkpoints_have_both(dataset: dict[str, str], tmp_path: Path) -> None:
    trainer, recorder = trained(dataset, tmp_path)
    content = torch.load(tmp_path / "model_0000005.pth")
    final = torch.load(tmp_path / "model_final.pth")
    assert sorted(final) == ["model", "pair_detr"]
    assert_close(final["model"], content["model"])
    assert_close(content["model"], average_of(recorder.weights, 0.5))
    assert_close(content[TRAINED], recorder.weights[-1])
    assert content["average_steps"] == 6
    name = "detector.query_embed.weight"
    assert (content["model"][name] - content[TRAINED][name]).abs().max() > 1e-4
    # An unchanged training: the average has no part in it.
    _, plain = trained(dataset, tmp_path / "plain", SOLVER__EMA_DECAY=0.0)
    assert plain.losses == recorder.losses
    assert_close(plain.weights[-1], recorder.weights[-1])
    assert TRAINED not in torch.load(tmp_path / "plain" / "model_0000005.pth")
    assert trainer.weight_average is not None


def test_resuming_gives_the_same(dataset: dict[str, str], tmp_path: Path) -> None:
    _, whole = trained(dataset, tmp_path / "whole")
    trained(dataset, tmp_path / "parts", SOLVER__MAX_ITER=3)
    _, rest = trained(dataset, tmp_path / "parts", resume=True)
    assert rest.losses == whole.losses[3:]
    found, expected = (torch.load(tmp_path / name / "model_0000005.pth") for name in ("parts", "whole"))
    for part in ("model", TRAINED):
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), name
    assert found["average_steps"] == 6


def test_with_and_without_an_average(dataset: dict[str, str], tmp_path: Path) -> None:
    """A training that is resumed without one goes on with its own weights; with one, it starts from these."""
    _, whole = trained(dataset, tmp_path / "whole")
    trained(dataset, tmp_path / "off", SOLVER__MAX_ITER=3)
    _, off = trained(dataset, tmp_path / "off", resume=True, SOLVER__EMA_DECAY=0.0)
    trained(dataset, tmp_path / "on", SOLVER__MAX_ITER=3, SOLVER__EMA_DECAY=0.0)
    _, on = trained(dataset, tmp_path / "on", resume=True)
    assert off.losses == on.losses == whole.losses[3:]
    assert_close(torch.load(tmp_path / "on" / "model_final.pth")["model"], average_of(on.weights, 0.5))


def test_what_starts_from_a_checkpoint_takes_the_average(dataset: dict[str, str], tmp_path: Path) -> None:
    trained(dataset, tmp_path / "first")
    file = tmp_path / "first" / "model_final.pth"
    average = torch.load(file)["model"]
    trainer = Trainer(tiny_config(dataset, tmp_path / "second", MODEL__WEIGHTS=str(file), SOLVER__EMA_DECAY=0.5))
    trainer.resume_or_load(resume=False)
    assert_close(trainer.model.state_dict(), average)
    model = Trainer.build_model(tiny_config(dataset, tmp_path / "third"))
    load_weights(model, read_weights(str(file)), complete=True)
    assert_close(model.state_dict(), average)
    # As an evaluation resumes.
    model = Trainer.build_model(tiny_config(dataset, tmp_path / "third"))
    AtomicCheckpointer(model, str(tmp_path / "first")).resume_or_load("", resume=True)
    assert_close(model.state_dict(), average)


def test_evaluations_are_of_the_average(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a training, at its end, and by --eval-only; the results are those of the training."""
    seen: list[State] = []

    def test(cfg: Any, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        seen.append(copy.deepcopy(model.state_dict()))
        return {"bbox": {"AP": float(len(seen))}}

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    changes = {"DATASETS__TEST": (dataset["NAME"],), "TEST__EVAL_PERIOD": 2}
    trainer, recorder = trained(dataset, tmp_path, **changes)
    assert len(seen) == 3
    for state, steps in zip(seen, (2, 4, 6), strict=True):
        assert_close(state, average_of(recorder.weights[:steps], 0.5))
    assert trainer._last_eval_results == {"bbox": {"AP": 3.0}}
    options = tiny_options(dataset, tmp_path, SOLVER__EMA_DECAY=0.5, **changes)
    for weights in (["--resume"], ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]):
        flags = [x for x in weights if x == "--resume"]
        main(argument_parser().parse_args(["--eval-only", *flags, *options, *([] if flags else weights)]))
        assert_close(seen[-1], seen[2])


def test_other_models_and_diverged_weights_are_refused(dataset: dict[str, str], tmp_path: Path) -> None:
    trainer, _ = trained(dataset, tmp_path, SOLVER__MAX_ITER=2)
    path = tmp_path / "model_0000001.pth"
    content = torch.load(path)
    whole = copy.deepcopy(content)
    del content["model"]["detector.query_embed.weight"], content[TRAINED]["detector.query_embed.weight"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not of this model"):
        trainer.checkpointer.load(str(path))
    whole[TRAINED]["detector.query_embed.weight"][0, 0] = math.nan
    torch.save(whole, path)
    with pytest.raises(CheckpointError, match="diverged"):
        trainer.checkpointer.load(str(path))
