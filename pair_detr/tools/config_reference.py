"""Writes the reference of all config keys: ``python -m pair_detr.tools.config_reference``."""

import ast
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pair_detr.config import clip_keys, defaults, query_keys, solver_keys
from pair_detr.tools.common import add_overwrite_argument, parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import MARK, require_outputs, writing

logger = tool_logger("config_reference")

_INTRODUCTION = f"""# Config keys

The keys that this project adds to Detectron2's, and the defaults of Detectron2's that it changes. Set them in a YAML
file, or at the end of a command line, as in `train_net.py --config-file configs/r50.yaml MODEL.DETR.NUM_QUERIES 100`.
Detectron2's own keys are in its
[config reference](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references).

{MARK}: `python -m pair_detr.tools.config_reference` takes it from the comments in `defaults.py`,
`query_keys.py`, `clip_keys.py` and `solver_keys.py` of `pair_detr/config`.
"""


class Entry(NamedTuple):
    """Keys that share a comment.

    Attributes:
        keys: full names.
        defaults: Python expressions, as in the source; None for a group of keys, which has no value of its own.
        comment: what stands above them.
    """

    keys: list[str]
    defaults: list[str | None]
    comment: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Writes a table of all config keys of this project, with defaults and meaning, as Markdown.",
        "config_reference --output docs/configuration.md",
    )
    parser.add_argument("--output", type=Path, default=Path("docs/configuration.md"), help="the file to write")
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    require_outputs([args.output], overwrite=args.overwrite)
    modules = (defaults, query_keys, clip_keys, solver_keys)
    entries = [entry for module in modules for entry in read_entries(inspect.getsource(module))]
    with writing(args.output) as temporary:
        temporary.write_text(to_markdown(entries), encoding="utf-8")
    logger.info("%d keys written to %s", sum(len(entry.keys) for entry in entries), args.output)


def read_entries(source: str) -> list[Entry]:
    """Reads the comments of Python code that sets keys with lines of the form ``cfg.A.B = value``.

    The comment of a key stands above it, or above the lines that it follows without a gap.
    """
    values = {
        node.lineno: (ast.unparse(node.targets[0]).removeprefix("cfg."), node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("cfg.")
    }
    entries: list[Entry] = []
    comment: list[str] = []
    follows = False
    for number, line in enumerate(source.splitlines(), start=1):
        text = line.strip()
        if text.startswith("#"):
            comment = [*comment, text.removeprefix("#").strip()]
            follows = False
        elif number in values:
            key, value = values[number]
            is_node = isinstance(value, ast.Call) and ast.unparse(value.func) == "CN"
            # One that takes any keys is a value.
            is_group = is_node and not value.keywords
            default = None if is_group else "{}" if is_node else ast.unparse(value)
            # A group of keys is explained by itself, and so is what follows it.
            if follows and not is_group and entries[-1].defaults[-1] is not None:
                entries[-1].keys.append(key)
                entries[-1].defaults.append(default)
            else:
                entries.append(Entry([key], [default], " ".join(comment)))
            comment, follows = [], True
        else:
            comment, follows = [], False
    return entries


def to_markdown(entries: list[Entry]) -> str:
    """The reference: a table for each group of keys, with a line for those that share a comment."""
    sections: dict[str, list[Entry]] = {}
    groups = {entry.keys[0]: entry.comment for entry in entries if entry.defaults == [None]}
    for entry in entries:
        if entry.defaults != [None]:
            sections.setdefault(entry.keys[0].rpartition(".")[0], []).append(entry)
    parts = [_INTRODUCTION]
    for section, rows in sections.items():
        parts.append(f"## {section}\n")
        if comment := groups.get(section):
            parts.append(f"{_escaped(comment)}\n")
        lines = ["| key | default | meaning |", "|---|---|---|"]
        for row in rows:
            keys = "<br>".join(f"`{key.removeprefix(section + '.')}`" for key in row.keys)
            defaults = "<br>".join(f"`{default}`" for default in row.defaults)
            lines.append(f"| {keys} | {defaults} | {_escaped(row.comment)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    run(main)
