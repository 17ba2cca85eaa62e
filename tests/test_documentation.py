"""Commands and links in the documents: they name configs, tools, options and files that exist."""

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import train_net
from pair_detr.config_files import load_config
from pair_detr.engine import argument_parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


class ParsedError(Exception):
    """The arguments were read."""


def commands() -> Iterator[tuple[str, str]]:
    """Document and command, of all blocks of code, loops taken apart and continued lines joined."""
    for document in DOCUMENTS:
        for block in re.findall(r"^```\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
            for line in re.split(r"\n|; do |;", block.replace("\\\n", " ")):
                if line.strip().startswith("python "):
                    yield document.name, line.strip()


COMMANDS = sorted(set(commands()))


def arguments_of(command: str) -> list[str]:
    # Variables of loops stand for names and numbers.
    values = {"variant": "pair_detr", "loss": "first", "start": ""}
    command = re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], "1"), command)
    return shlex.split(command, comments=True)[1:]


@pytest.fixture
def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(parse: Callable) -> Callable:
        def parse_args(*args: object, **kwargs: object) -> None:
            raise ParsedError(parse(*args, **kwargs))

        return parse_args

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", patched(argparse.ArgumentParser.parse_args))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("document", "command"), COMMANDS)
@pytest.mark.usefixtures("stop_after_parsing")
def test_commands_are_understood(document: str, command: str) -> None:
    """Tools take the arguments; a training's config exists and has the keys."""
    arguments = arguments_of(command)
    if arguments[0] == "-c" or arguments[0] == "my_script.py":
        pytest.skip("not one of the project's programs")
    if arguments[0] == "-m":
        module = importlib.import_module(arguments[1])
        with pytest.raises(ParsedError):
            module.main(arguments[2:])
        return
    assert (ROOT / arguments[0]).is_file()
    if arguments[0] != Path(train_net.__file__).name:
        return
    with pytest.raises(ParsedError) as parsed:
        argument_parser().parse_args(arguments[1:])
    args = parsed.value.args[0]
    if (ROOT / args.config_file).is_file():
        load_config(str(ROOT / args.config_file), args.opts)
    else:
        assert args.config_file == "my.yaml"
        load_config("r50", args.opts)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )
