"""What tools share, and tools run as programs."""

import ast
import importlib
import json
import pkgutil
from pathlib import Path

import pytest
from data_helpers import write_coco
from process_helpers import run_program
from tool_helpers import write_metrics

from pair_detr import data, tools

TOOLS = [
    module.name for module in pkgutil.iter_modules(tools.__path__, "pair_detr.tools.") if "common" not in module.name
] + [f"pair_detr.studies.{name}" for name in ("compositions", "matching", "positions", "probe_sizes", "text_masks")]


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
        if file.relative_to(package).parts[0] in (
            "tools",
            "studies",
            "visualization",
            "drawing",
            "report",
            "prediction",
            "app",
        ):
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
        "check_dataset": (["tool_val", "--config-file", str(tmp_path / "my.yaml")], "tool_val: 2 images (1 without"),
    }[tool]
    if tool == "check_dataset":
        file = write_coco(tmp_path / "data", [{"image_id": 1, "bbox": [5, 5, 20, 15]}], [(60, 40)] * 2)
        entry = {"NAME": "tool_val", "FORMAT": "coco", "JSON": str(file), "IMAGES": str(tmp_path / "data")}
        (tmp_path / "my.yaml").write_text(json.dumps({"DATASETS": {"REGISTER": [entry]}}))
    run = run_program("-m", f"pair_detr.tools.{tool}", *arguments, output=tmp_path)
    assert run.returncode == 0, run.stderr
    assert expected in run.stdout
