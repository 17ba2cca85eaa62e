"""Losses and results in programs that keep track of experiments, which are not installed here, but imitated."""

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from detectron2.utils.events import EventStorage
from engine_helpers import default_config

from pair_detr.engine.trackers import build_trackers


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the imitations are called with."""
    calls: list[tuple[str, Any]] = []
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    run = SimpleNamespace(
        log=lambda values, step: calls.append(("log", (values, step))), finish=lambda: calls.append(("finish", None))
    )
    wandb.init = lambda **options: calls.append(("init", options)) or run
    mlflow.start_run = lambda run_name: calls.append(("start", run_name)) or run
    mlflow.log_text = lambda text, file: calls.append(("text", (text, file)))
    mlflow.log_metrics = lambda values, step: calls.append(("log", (values, step)))
    mlflow.end_run = lambda: calls.append(("finish", None))
    for module in (wandb, mlflow):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_each_value_once_and_in_order(calls: list[tuple[str, Any]], tmp_path: Path, name: str) -> None:
    cfg = default_config()
    cfg.TRACKERS, cfg.OUTPUT_DIR = (name,), str(tmp_path / "my_run")
    (writer,) = build_trackers(cfg)
    with EventStorage() as storage:
        writer.write()
        assert not calls
        storage.put_scalar("total_loss", 3.0, cur_iter=0)
        storage.put_scalars(**{"bbox/AP": 40.0, "bbox/APl": math.nan, "bbox/AP-cat (big)": 1.0}, cur_iter=4)
        writer.write()
        writer.write()
        storage.put_scalar("total_loss", 1.0, cur_iter=8)
        writer.write()
    writer.close()
    last = "bbox/AP-cat _big_" if name == "mlflow" else "bbox/AP-cat (big)"
    logged = [content for kind, content in calls if kind == "log"]
    # The median of both losses.
    assert logged == [({"total_loss": 3.0}, 0), ({"bbox/AP": 40.0, last: 1.0}, 4), ({"total_loss": 2.0}, 8)]
    assert [kind for kind, _ in calls][-1] == "finish"
    if name == "wandb":
        options = calls[0][1]
        assert options["name"] == "my_run" and options["config"]["SOLVER.BASE_LR"] == cfg.SOLVER.BASE_LR
    else:
        assert calls[0] == ("start", "my_run")
        assert calls[1][1] == (cfg.dump(), "config.yaml")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    cfg = default_config()
    cfg.TRACKERS = (name,)
    with pytest.raises(ImportError, match=rf"TRACKERS names {name}, .*'pip install {name}', or set TRACKERS to \(\)"):
        build_trackers(cfg)


def test_nothing_is_imported_unasked() -> None:
    assert build_trackers(default_config()) == []
    assert "wandb" not in sys.modules and "mlflow" not in sys.modules
