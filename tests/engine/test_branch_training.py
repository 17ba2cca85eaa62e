"""Trainings with all that converges faster: with the loader, the optimizer and checkpoints; resumed in the middle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, write_dataset

from pair_detr.engine import Trainer

ALL: dict[str, Any] = {
    "MODEL__DETR__DENSE__ENABLED": True,
    "MODEL__DETR__QUERY_SELECTION": "boxes",
    "MODEL__DETR__QUERY_GROUPS": 2,
    "MODEL__DETR__DENOISING__GROUPS": 2,
    "MODEL__DETR__DENOISING__NEGATIVES": True,
    "MODEL__DETR__BOX_REFINEMENT": "look_forward_twice",
    "MODEL__DETR__BOX_BIAS": True,
    "MODEL__DETR__PAIR__QUERIES_PER_OBJECT": 4,
    "MODEL__DETR__LOSS__CLASSIFICATION": "mal",
    "SOLVER__OPTIMIZER": "MUON",
    "SOLVER__EMA_DECAY": 0.9,
    "SOLVER__MAX_ITER": 6,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_branch_training")


class Recording(Trainer):
    """Keeps the losses of each iteration."""

    def run_step(self) -> None:
        super().run_step()
        self.flush_metrics()
        latest = self.storage.latest().items()
        self.recorded.append({name: value for name, (value, _) in latest if "loss" in name})


def train(dataset: dict[str, str], folder: Path, resume: bool = False, **changes: Any) -> Recording:
    torch.manual_seed(0)
    trainer = Recording(tiny_config(dataset, folder, **ALL | changes))
    trainer.recorded = []
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SOLVER__AMP__ENABLED": True, "MODEL__DETR__PAIR__SHARED_DECODER": True},
        {"SOLVER__ACCUMULATE_STEPS": 2, "MODEL__DETR__VARIANT": "conditional_detr", "SOLVER__OPTIMIZER": "ADAMW"},
    ],
)
def test_resuming_gives_the_same(dataset: dict[str, str], tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = train(dataset, tmp_path / "whole", **changes)
    train(dataset, tmp_path / "parts", **changes, SOLVER__MAX_ITER=3)
    parts = train(dataset, tmp_path / "parts", resume=True, **changes)
    assert parts.recorded == whole.recorded[3:]
    assert len({step["loss_denoising_box"] for step in whole.recorded}) == 6
    for name, value in whole.weight_average.model.state_dict().items():
        assert torch.equal(parts.weight_average.model.state_dict()[name], value), name


def test_branches_are_trained_and_not_evaluated(dataset: dict[str, str], tmp_path: Path) -> None:
    """The losses fall; an evaluation has the queries of inference alone."""
    changes = {"SOLVER__MAX_ITER": 60, "DATASETS__TEST": (dataset["NAME"],), "MODEL__DETR__DROPOUT": 0.0}
    trainer = train(dataset, tmp_path, **changes, SOLVER__BASE_LR=2e-3, SOLVER__MUON_MULTIPLIER=5.0)
    first, last = (
        {name: sum(step[name] for step in steps) for name in trainer.recorded[0]}
        for steps in (trainer.recorded[:5], trainer.recorded[-5:])
    )
    # What denoising has to repair is random, so that its losses of a few steps say little.
    for branch in ("", "dense_", "top_left_"):
        assert last[f"loss_{branch}box"] < first[f"loss_{branch}box"], branch
    assert last["total_loss"] < 0.9 * first["total_loss"]
    assert trainer._last_eval_results["bbox"].keys() >= {"AP"}
