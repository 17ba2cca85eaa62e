"""Detectron2's own DefaultTrainer with the overrides of docs/detectron2.md."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.engine import DefaultTrainer
from engine_helpers import tiny_config, write_dataset

from pair_detr.engine import Trainer

DOCUMENT = Path(__file__).parents[2] / "docs" / "detectron2.md"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_default_trainer")


def documented_trainer() -> type[DefaultTrainer]:
    """The class that the document tells to write."""
    program = next(
        block
        for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        if "class MyTrainer" in block
    )
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    return namespace["MyTrainer"]


def test_a_stock_one_does_not_know_the_gradient_clipping_of_detr(dataset: dict[str, str], tmp_path: Path) -> None:
    """If it did, there would be less to override: the document can be shortened then."""
    with pytest.raises(ValueError, match="'full_model' is not a valid GradientClipType"):
        DefaultTrainer(tiny_config(dataset, tmp_path))


def test_the_documented_one_trains_and_evaluates(dataset: dict[str, str], tmp_path: Path) -> None:
    changes = {"SOLVER__MAX_ITER": 2, "SOLVER__BACKBONE_MULTIPLIER": 0.5, "DATASETS__TEST": (dataset["NAME"],)}
    # Ours, which Detectron2 does not know.
    changes |= {"SOLVER__LR_SCHEDULER_NAME": "WarmupStableDecayLR", "SOLVER__STEPS": (1,)}
    cfg = tiny_config(dataset, tmp_path, **changes)
    torch.manual_seed(0)
    trainer = documented_trainer()(cfg)
    assert not isinstance(trainer, Trainer)
    trainer.resume_or_load(resume=False)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    rates = {
        "backbone" in names[parameter]: group["initial_lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates == {True: 5e-4, False: 1e-3}
    assert type(trainer.optimizer).__name__ == "AdamWWithFullModelClipping"
    trainer.train()
    assert 0 <= trainer._last_eval_results["bbox"]["AP"] <= 100
    assert (tmp_path / "model_final.pth").is_file()
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any({"loss_class", "loss_box", "loss_giou"} <= set(entry) for entry in logged)
