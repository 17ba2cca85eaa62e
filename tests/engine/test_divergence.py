"""Trainings whose weights are not finite after an update: what is lost, and how they go on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, tiny_options, write_dataset

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.engine import Trainer, argument_parser, main

BIAS = "detector.class_head.bias"


class Diverging(Trainer):
    """Its weights are not finite after the update of an iteration."""

    at = 3

    def run_step(self) -> None:
        super().run_step()
        if self.iter == self.at:
            self.model.detector.class_head.bias.data[0] = math.nan


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    with restored_catalogs():
        yield write_dataset(tmp_path, "engine_divergence")


def train(cls: type[Trainer], cfg: Any, resume: bool = False) -> Trainer:
    torch.manual_seed(0)
    trainer = cls(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize(("name", "max_iter"), [("model_0000003", 6), ("model_0000003", 4)])
def test_the_last_finite_checkpoint_stays(
    dataset: dict[str, str], tmp_path: Path, name: str, max_iter: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also at the end, where a result would be expected; it is the one to resume from."""
    output = tmp_path / "out"
    options = {"SOLVER__CHECKPOINT_PERIOD": 2 if max_iter == 6 else 3, "SOLVER__MAX_ITER": max_iter}
    cfg = tiny_config(dataset, output, DATASETS__TEST=(dataset["NAME"],), **options)
    # Detectron2 goes on to the evaluation at the end, whatever happened: its error is the last.
    with pytest.raises(FloatingPointError, match=rf"{BIAS} holds NaN.*--resume"):
        train(Diverging, cfg)
    assert f"{name}.pth is not written: model.{BIAS} holds NaN or infinity" in caplog.text
    last = "model_0000001.pth" if max_iter == 6 else "model_0000002.pth"
    assert (output / "last_checkpoint").read_text() == last
    assert [path.name for path in output.glob("*.pth")] == [last]
    assert not (output / "inference").exists()

    resumed = train(Trainer, cfg, resume=True)
    expected = train(Trainer, tiny_config(dataset, tmp_path / "whole", **options)).model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_the_remedies_in_the_message_work(dataset: dict[str, str], tmp_path: Path) -> None:
    """A lower rate, clipped gradients and another type count from the last checkpoint on, or from the one before."""
    before = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16", "SOLVER__CLIP_GRADIENTS__ENABLED": False}
    cfg = tiny_config(dataset, tmp_path / "out", SOLVER__CHECKPOINT_PERIOD=1, **before)
    with pytest.raises(FloatingPointError) as diverged:
        train(Diverging, cfg)
    message = str(diverged.value)
    for remedy in ("BASE_LR", "ENABLED True", "bfloat16 rather", "add --resume", "delete that checkpoint"):
        assert remedy in message

    after = {"SOLVER__AMP__DTYPE": "bfloat16", "SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__BASE_LR": 1e-5}
    for start in (3, 2):
        trainer = Trainer(tiny_config(dataset, tmp_path / "out", **before | after))
        trainer.resume_or_load(resume=True)
        assert trainer.start_iter == start
        assert max(group["lr"] for group in trainer.optimizer.param_groups) == pytest.approx(1e-5)
        assert trainer._trainer.precision is torch.bfloat16
        assert type(trainer.optimizer).__name__ == "AdamWWithFullModelClipping"
        (tmp_path / "out" / (tmp_path / "out" / "last_checkpoint").read_text()).unlink(missing_ok=True)
    trainer.train()
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000005.pth"


def test_an_evaluation_between_two_checkpoints_stops(dataset: dict[str, str], tmp_path: Path) -> None:
    cfg = tiny_config(dataset, tmp_path / "out", DATASETS__TEST=(dataset["NAME"],), TEST__EVAL_PERIOD=4)
    with pytest.raises(FloatingPointError, match=rf"The model cannot be evaluated: {BIAS} holds NaN"):
        train(Diverging, cfg)
    assert not (tmp_path / "out" / "inference" / dataset["NAME"] / "coco_instances_results.json").exists()


@pytest.mark.parametrize("flags", [[], ["--eval-only"]])
def test_weights_that_are_not_finite_stop_before_the_data_are_read(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    output = tmp_path / "out"
    train(Trainer, tiny_config(dataset, output, SOLVER__MAX_ITER=1))
    path = output / "model_final.pth"
    content = torch.load(path)
    content["model"][BIAS][1] = math.inf
    torch.save(content, path)
    options = tiny_options(dataset, tmp_path / "next", MODEL__WEIGHTS=str(path), DATASETS__TEST=(dataset["NAME"],))
    monkeypatch.setattr("pair_detr.engine.launch.Trainer", None)
    with pytest.raises(CheckpointError, match=rf"MODEL\.WEIGHTS {path}: {BIAS} holds NaN or infinity.*earlier"):
        main(argument_parser().parse_args([*flags, *options]))
