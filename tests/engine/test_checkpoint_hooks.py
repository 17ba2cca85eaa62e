"""Which checkpoints are left, and when a training stops before its end."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, tiny_options, write_dataset

from pair_detr.checkpoint.checkpointer import find_checkpoint
from pair_detr.engine import Trainer, argument_parser, main, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_checkpoint_hooks")


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


def train(dataset: dict[str, str], folder: Path, resume: bool = False, **changes: Any) -> Trainer:
    trainer = Trainer(tiny_config(dataset, folder, **changes))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture
def aps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the evaluations to come find, the first first."""
    values: list[float] = []
    monkeypatch.setattr(Trainer, "test", staticmethod(lambda *_: {"bbox": {"AP": values.pop(0), "APl": math.nan}}))
    return values


def evaluated(dataset: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {"DATASETS__TEST": (dataset["NAME"],), "TEST__EVAL_PERIOD": 1, "SOLVER__CHECKPOINT_PERIOD": 1, **changes}


@pytest.mark.parametrize(("keep", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [4]), (2, [3, 4])])
def test_the_last_stay_also_after_a_resumption(
    dataset: dict[str, str], tmp_path: Path, keep: int, expected: list[int]
) -> None:
    changes = {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__KEEP_CHECKPOINTS": keep}
    train(dataset, tmp_path, SOLVER__MAX_ITER=3, **changes)
    train(dataset, tmp_path, resume=True, SOLVER__MAX_ITER=5, **changes)
    assert checkpoints(tmp_path) == [*(f"model_{i:07d}.pth" for i in expected), "model_final.pth"]


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(dataset: dict[str, str], tmp_path: Path) -> None:
    train(dataset, tmp_path, SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=1)
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    (tmp_path / "model_0000003.pth").write_bytes(b"damaged")
    trainer = train(dataset, tmp_path, resume=True, SOLVER__MAX_ITER=4)
    assert trainer.start_iter == 3
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 3


def test_the_best_is_kept_as_weights_alone(dataset: dict[str, str], tmp_path: Path, aps: list[float]) -> None:
    aps += [10.0, 30.0, 20.0, 25.0]
    trainer = train(dataset, tmp_path, SOLVER__MAX_ITER=4, **evaluated(dataset, SOLVER__KEEP_CHECKPOINTS=0))
    best, second = (torch.load(tmp_path / name) for name in ("model_best.pth", "model_0000001.pth"))
    assert all(torch.equal(best["model"][name], value) for name, value in second["model"].items())
    assert "trainer" not in best and "iteration" not in best
    # The run itself goes on from its last iteration.
    assert find_checkpoint(str(tmp_path)).path.name == "model_0000003.pth"
    assert trainer._best_model.best == (2, "bbox/AP", 30.0)
    rows = json.loads((tmp_path / "evaluations.json").read_text())
    assert [(x["iterations"], x["value"]) for x in rows] == [(1, 10.0), (2, 30.0), (3, 20.0), (4, 25.0)]


def test_metric_of_the_config_and_nan(dataset: dict[str, str], tmp_path: Path, aps: list[float]) -> None:
    aps += [1.0, 2.0]
    train(dataset, tmp_path, SOLVER__MAX_ITER=2, **evaluated(dataset, TEST__BEST_METRIC="bbox/APl"))
    assert "model_best.pth" not in checkpoints(tmp_path)
    assert [x["value"] for x in json.loads((tmp_path / "evaluations.json").read_text())] == [None, None]


def test_patience(dataset: dict[str, str], tmp_path: Path, aps: list[float]) -> None:
    """The best is the second of the evaluations; equal is not better."""
    aps += [10.0, 30.0, 20.0, 30.0, 99.0]
    changes = evaluated(dataset, TEST__PATIENCE=2, SOLVER__MAX_ITER=6)
    trainer = train(dataset, tmp_path, **changes)
    assert aps == [99.0]
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 3
    assert trainer._last_eval_results["bbox"]["AP"] == 30.0
    # It stays stopped, until there is more patience.
    train(dataset, tmp_path, resume=True, **changes)
    assert aps == [99.0]
    aps[:] = [5.0, 40.0]
    trainer = train(dataset, tmp_path, resume=True, **changes | {"TEST__PATIENCE": 4})
    assert trainer._best_model.best == (6, "bbox/AP", 40.0)


def test_patience_goes_on_after_a_resumption(dataset: dict[str, str], tmp_path: Path, aps: list[float]) -> None:
    """As without the interruption, though checkpoints are written before the evaluation of their iteration."""
    changes = evaluated(dataset, TEST__PATIENCE=3)
    aps += [30.0, 10.0]
    with pytest.raises(IndexError):
        # The third evaluation fails, after the third checkpoint.
        train(dataset, tmp_path, SOLVER__MAX_ITER=6, **changes)
    aps += [20.0, 29.0, 99.0]
    # That of the third iteration is missing, as nothing evaluates it again.
    trainer = train(dataset, tmp_path, resume=True, SOLVER__MAX_ITER=6, **changes)
    assert trainer.start_iter == 3
    assert aps == [99.0]
    assert trainer._best_model.best == (1, "bbox/AP", 30.0)
    # From an earlier checkpoint, what came later does not count.
    trainer._best_model.resume(4)
    assert not trainer._best_model.is_exhausted()
    trainer._best_model.resume(5)
    assert trainer._best_model.is_exhausted()


def test_a_new_run_starts_anew(
    dataset: dict[str, str], tmp_path: Path, aps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pair_detr.engine.launch.setup_logger", lambda *_, **__: None)
    monkeypatch.setattr("pair_detr.engine.launch.default_setup", lambda *_: None)
    for value in (50.0, 20.0):
        aps += [value, 10.0]
        options = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2, **evaluated(dataset))
        main(argument_parser().parse_args(options))
    assert {"model_best.pth", "evaluations.json"} <= {path.name for path in (tmp_path / "earlier_1").iterdir()}
    assert json.loads((tmp_path / "evaluations.json").read_text())[0]["value"] == 20.0
    assert (tmp_path / "model_best.pth").is_file()


def test_without_evaluations_there_is_no_best(dataset: dict[str, str], tmp_path: Path, aps: list[float]) -> None:
    aps += [1.0]
    train(dataset, tmp_path, SOLVER__MAX_ITER=1, **evaluated(dataset, TEST__EVAL_PERIOD=0))
    assert checkpoints(tmp_path) == ["model_0000000.pth", "model_final.pth"]


def test_two_processes_stop_together(dataset: dict[str, str], tmp_path: Path, warm_start: None) -> None:
    """The results are known to one of them. With such a rate the second evaluation is that of the first."""
    changes = evaluated(dataset, TEST__PATIENCE=1, SOLVER__MAX_ITER=5, SOLVER__BASE_LR=1e-12)
    run(argument_parser().parse_args(["--num-gpus", "2", *tiny_options(dataset, tmp_path, **changes)]))
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 1
    log = (tmp_path / "log.txt").read_text()
    assert "Stopped early" in log and "The training has ended after 2 iterations." in log
