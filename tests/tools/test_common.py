"""The tool that times steps, and tools run as programs."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import run_program
from tool_helpers import write_metrics

from pair_detr import data, tools
from pair_detr.analysis.speed import make_batch, measure
from pair_detr.tools import benchmark

TOOLS = [
    module.name for module in pkgutil.iter_modules(tools.__path__, "pair_detr.tools.") if "common" not in module.name
] + ["pair_detr.studies.matching"]


def test_measure_times_in_turn_and_leaves_the_warm_up_out() -> None:
    calls: list[str] = []
    seconds = measure([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3, device="cpu")
    assert calls == ["a", "b"] * 5
    assert seconds.shape == (3, 2)
    assert (seconds > 0).all()


def test_random_batch_has_boxes_inside_of_the_image() -> None:
    batch = make_batch(2, (40, 80), boxes=5, num_classes=3)
    for item in batch:
        boxes = item["instances"].gt_boxes
        assert item["image"].shape == (3, 40, 80)
        assert len(boxes) == 5
        assert boxes.nonempty().all()
        assert boxes.inside_box((40, 80)).all()
        assert item["instances"].gt_classes.max() < 3


@pytest.mark.parametrize("options", [[], ["--inference"]])
def test_benchmark_reports_ratios(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Not caplog: Detectron2's setup_logger stops the propagation that it needs.
    messages: list[str] = []
    monkeypatch.setattr(benchmark.logger, "info", lambda text, *values: messages.append(text % values))
    arguments = ["--size", "32", "32", "--images", "1", "--repeats", "1", "--boxes", "2"]
    configs = ["conditional_detr/quickstart", "quickstart"]
    benchmark.main([*arguments, *options, "--config-files", *configs])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in messages[0].splitlines()[3:]]
    assert [row[0] for row in rows] == configs
    assert rows[0][2] == "1.00"
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize("name", TOOLS)
def test_help_teaches_by_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tool = importlib.import_module(name)
    with pytest.raises(SystemExit, match="0"):
        tool.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: python -m {name} " in text
    assert f"usage: python -m {name} " in text
    assert "None" not in text


def test_training_draws_no_figures() -> None:
    """Which way imports of the package go is in tests/test_imports.py."""
    package = Path(data.__file__).parents[1]
    for file in package.rglob("*.py"):
        if file.relative_to(package).parts[0] in ("tools", "studies", "visualization"):
            continue
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.startswith(("cv2", "matplotlib"))], file


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
@pytest.mark.parametrize("tool", ["plot_training", "benchmark", "make_shapes", "check_dataset"])
def test_a_tool_run_as_a_program_logs_what_it_found(tool: str, tmp_path: Path) -> None:
    folder = write_metrics(tmp_path / "run", {100: 0.1, 200: 0.6})
    arguments, expected = {
        "plot_training": ([f"model={folder}", "--output", str(tmp_path / "x.png")], "| model |"),
        "benchmark": (["--help"], "--config-files"),
        "make_shapes": (
            ["--output", str(tmp_path / "shapes"), "--train", "2", "--val", "1"],
            "2 training and 1 validation",
        ),
        "check_dataset": (["shapes_val"], "shapes_val: 1 image, "),
    }[tool]
    if tool == "check_dataset":
        # It is known from the first import of the package.
        data.make_shapes(tmp_path / "shapes", 2, 1, 0)
        command = [sys.executable, "-m", f"pair_detr.tools.{tool}", *arguments]
        environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
    else:
        run = run_program("-m", f"pair_detr.tools.{tool}", *arguments, output=tmp_path)
    assert run.returncode == 0, run.stderr
    assert expected in run.stdout
