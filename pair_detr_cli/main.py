"""From the command line to a subcommand."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import metadata
from typing import NoReturn

from pair_detr_cli.commands import COMMANDS, GROUPS, PROGRAM, Command

# Packages that the user installs, see setup.py.
_FROM_THE_USER = ("torch", "torchvision", "detectron2")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a subcommand, and ends the process with its status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = _parser().parse_args(arguments[:1]).command
    command = COMMANDS.get(name)
    if command is None:
        sys.stderr.write(f"error: {_describe_unknown(name)}\n")
        sys.exit(2)
    # Parsers take their program's name from here, and so do the processes of a training.
    sys.argv = [f"{PROGRAM} {name}", *arguments[1:]]
    _run(_import(command), arguments[1:])


def _run(program: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> NoReturn:
    if program.__module__.startswith(__package__):
        sys.exit(program(arguments))
    run_program = importlib.import_module("pair_detr.engine.user_errors").run_program
    run_program(lambda: program(arguments))


def _import(command: Command) -> Callable[[Sequence[str]], object]:
    try:
        return importlib.import_module(command.module).main
    except (ImportError, OSError) as error:
        # OSError: a library that PyTorch loads.
        if os.environ.get("PAIR_DETR_TRACEBACK", "0") not in ("", "0"):
            raise
        missing = getattr(error, "name", None)
        reason = f"{missing} is not installed" if missing in _FROM_THE_USER else error
        sys.exit(
            f"error: {PROGRAM} {command.name} cannot run: {reason}. '{PROGRAM} doctor' says how to get what is missing."
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [ARGUMENT ...]",
        description="Pair DETR, Conditional DETR and DETR as a Detectron2 project.",
        epilog=_list_commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument(
        "command", metavar="COMMAND", help=f"one of those below; '{PROGRAM} COMMAND --help' explains it"
    )
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(message=f"pair_detr {metadata.version('pair_detr')}\n")


def _list_commands() -> str:
    width = max(map(len, COMMANDS))
    groups = [
        f"{title}:\n" + "\n".join(f"  {command.name:<{width}}  {command.summary}" for command in group)
        for title, group in GROUPS.items()
    ]
    return "\n\n".join(groups)


def _describe_unknown(name: str) -> str:
    # Also under the names of the tools' modules, as they are called in `python -m pair_detr.tools.NAME`.
    names = {command.module.rpartition(".")[2].replace("_", "-"): command.name for command in COMMANDS.values()}
    names |= {name: name for name in COMMANDS}
    similar = list(dict.fromkeys(names[match] for match in get_close_matches(name.replace("_", "-"), names)))
    hint = f" did you mean {' or '.join(similar)}?" if similar else ""
    return f"there is no command {name!r};{hint} '{PROGRAM} --help' lists all."
