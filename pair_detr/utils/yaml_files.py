"""YAML that holds values alone, and each key once."""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from pair_detr.utils.text_files import read_text

_PYTHON = "tag:yaml.org,2002:python/"
_MERGE = "tag:yaml.org,2002:merge"


# Nodes of a document with its aliases written out: far more than any config or list of classes needs.
_MOST_NODES = 1_000_000


class _BoundedLoader(yaml.SafeLoader):
    """YAML's own types. A few lines of aliases of aliases can stand for more values than memory holds."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _expanded_size(node, {}) > _MOST_NODES:
            problem = f"with its aliases (*name) written out it has more than {_MOST_NODES} values; remove some"
            raise ComposerError(None, None, problem, node.start_mark)
        return node


class _Loader(_BoundedLoader):
    """YAML's own types and tuples; the other tags of Python could run code."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """YAML would take the last one of two entries with the same key, without a word."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            earlier = first.setdefault((key.tag, key.value), key)
            if earlier is not key:
                line = earlier.start_mark.line + 1
                problem = f"the key {key.value} is there already, in line {line}"
                raise ComposerError(None, None, problem, key.start_mark)
        return node

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node, deep=True))

    def refuse(self, suffix: str, node: yaml.Node) -> None:
        problem = f"!!python/{suffix} could run code, and is not read; write the value itself"
        raise ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor(f"{_PYTHON}tuple", _Loader.construct_tuple)
_Loader.add_multi_constructor(_PYTHON, _Loader.refuse)


def read_yaml(file: str | Path, *, plain: bool = False) -> Any:
    """The content of a file in any of the encodings of :func:`pair_detr.utils.text_files.read_text`.

    Args:
        file: path.
        plain: read as YAML itself says: without tuples, and with the last one of entries that have the same key.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML, repeats a key, holds objects of Python, or aliases that stand for millions of
            values; the message names the file, and the line where it is known.
    """
    return parse_yaml(read_text(file), str(file), plain=plain)


def parse_yaml(text: str, source: str, *, plain: bool = False) -> Any:
    """What a text says.

    Args:
        text: YAML.
        source: where it stands, for messages.
        plain: see :func:`read_yaml`, also for errors.
    """
    try:
        return yaml.load(text, _BoundedLoader if plain else _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        problem = str(error.problem)
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        remedy = "Indent with spaces, not tabs" if r"'\t'" in problem else "Correct the file"
        raise ValueError(f"{source} is not valid YAML (line {line + 1}: {problem}). {remedy}.") from error
    # A date of month 13 is a ValueError.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{source} is not valid YAML ({' '.join(str(error).split())}). Correct the file.") from error


def _expanded_size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """The number of nodes with all aliases written out; infinite for one that contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_expanded_size(part, sizes) for part in parts)
    return sizes[id(node)]
