"""The command ``pair-detr``: what it lists, finds and calls."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pair_detr.tools import common
from pair_detr_cli import main
from pair_detr_cli.commands import COMMANDS, GROUPS


def run(*arguments: str) -> str | int | None:
    """Status of ``pair-detr`` with these arguments, or the text that it ends with."""
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    return ended.value.code


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pair-detr"])


def test_every_tool_is_a_command(project_root: Path) -> None:
    tools = {path.stem for path in (project_root / "pair_detr/tools").glob("*.py")} - {"__init__", "common"}
    modules = [command.module for command in COMMANDS.values()]
    assert len(modules) == len(set(modules)) == sum(map(len, GROUPS.values()))
    assert {f"pair_detr.tools.{tool}" for tool in tools} == {m for m in modules if m.startswith("pair_detr.tools")}
    for module in modules:
        assert callable(importlib.import_module(module).main)


def test_help_lists_all_commands_in_groups_and_imports_no_torch() -> None:
    code = """
import sys
from pair_detr_cli.main import main
try:
    main(["--help"])
except SystemExit as error:
    assert not error.code
print("IMPORTED", "torch" in sys.modules or "pair_detr" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "IMPORTED False" in done.stdout
    for title, group in GROUPS.items():
        section = done.stdout.split(f"\n{title}:\n")[1].split("\n\n")[0].splitlines()
        listed = section[: len(group)]
        assert [line.split(maxsplit=1) for line in listed] == [[c.name, c.summary] for c in group]
        assert max(map(len, listed)) < 80


def test_the_command_line_needs_the_standard_library_alone(project_root: Path) -> None:
    for file in (project_root / "pair_detr_cli").glob("*.py"):
        # At the top: what is imported where it is looked for may be missing.
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert roots <= {*sys.stdlib_module_names, "pair_detr_cli"}, file


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("demo", "did you mean predict?"),
        ("check_dataset", "did you mean check?"),
        ("xyz", "'pair-detr --help' lists all."),
    ],
)
def test_unknown_commands(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: there is no command '{name}';") and hint in error


@pytest.mark.parametrize("name", ["train", "eval", "predict", "check", "plot"])
def test_help_of_a_command_has_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: pair-detr {name} [-h]")
    assert text.count(f"pair-detr {name} ") >= 2
    assert "python -m" not in text


def test_modules_keep_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("pair_detr.tools.demo").main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m pair_detr.tools.demo ")
    assert "Example: python -m pair_detr.tools.demo --weights" in text
    assert common.program_name("matching", "pair_detr.studies") == "python -m pair_detr.studies.matching"


def test_status_and_errors_of_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run("train", "--config-file", "r5") == f"error: {_unknown_config()}"
    missing = str(tmp_path / "missing.json")
    assert run("withhold-boxes", missing, str(tmp_path / "out"), "--classes", "a").startswith("error: ")
    tool = SimpleNamespace(main=lambda arguments: len(arguments))
    tool.main.__module__ = "pair_detr.tools.check_dataset"
    monkeypatch.setattr(main.importlib, "import_module", lambda name: tool if "tools" in name else _errors)
    assert run("check", "a", "b", "c") == 3
    assert sys.argv == ["pair-detr check", "a", "b", "c"]


_errors = importlib.import_module("pair_detr.engine.user_errors")


def _unknown_config() -> str:
    with pytest.raises(FileNotFoundError) as error:
        importlib.import_module("pair_detr.config_files").config_file("r5")
    return str(error.value)


def test_without_pytorch_or_detectron2_a_command_leads_to_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom pair_detr_cli.main import main\nmain(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "train", "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: pair-detr train cannot run: torch is not installed. 'pair-detr doctor' says")

    def fail(name: str) -> None:
        raise ModuleNotFoundError("pair_detr needs Detectron2", name="detectron2")

    monkeypatch.setattr(main.importlib, "import_module", fail)
    assert run("predict").startswith("error: pair-detr predict cannot run: detectron2 is not installed. 'pair-detr doc")


def test_evaluation_takes_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = importlib.import_module("pair_detr.tools.evaluate")
    received = []
    monkeypatch.setattr(evaluate, "run", received.append)
    evaluate.main(["--config-file", "r50", "--weights", "a.pth", "TEST.IMS_PER_BATCH", "2"])
    (args,) = received
    assert args.eval_only and args.opts == ["MODEL.WEIGHTS", "a.pth", "TEST.IMS_PER_BATCH", "2"]
    evaluate.main(["--config-file", "r50"])
    assert received[1].opts == []
