"""Config files and those that they inherit from, Detectron2's ``_BASE_``."""

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pair_detr.utils.yaml_files import read_yaml

BASE = "_BASE_"
SCHEME = "://"
_SUFFIXES = (".yaml", ".yml")
_LISTED = 6


class ConfigFile(NamedTuple):
    """A config file and what itself says, without ``_BASE_``."""

    path: str
    content: dict[str, Any]


def read_config_files(path: str, shipped: Path, heirs: Sequence[str] = ()) -> list[ConfigFile]:
    """A config file after all those that it inherits from, in the order in which they count.

    As in Detectron2, ``_BASE_`` is a path or a list of paths, relative to the folder of the file that names them;
    unlike there, it is no address. What is not found there is looked for among the package's own configs, with or
    without ``configs/`` in front and ``.yaml`` behind.

    Args:
        path: of the file.
        shipped: folder of the package's own configs.
        heirs: files that inherit from it.

    Raises:
        FileNotFoundError: there is no file that a ``_BASE_`` names.
        OSError: a file cannot be read.
        ValueError: a file is not valid YAML or holds no keys, or inherits from itself or from an address.
    """
    content = read_yaml(path)
    if content is None:
        raise ValueError(f"{path} is empty: it needs keys and values, as in {{SEED: 1}}. Is it saved?")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {_kind(content)}, not keys and values, as in {{SEED: 1}}. Correct the file.")
    if odd := next(_odd_keys(content), None):
        raise ValueError(f"{path}: the key {odd} is not text. Correct the file, with quotes if need be.")
    heirs = (*heirs, path)
    files: list[ConfigFile] = []
    for base in _bases(content.pop(BASE, ()), path):
        if SCHEME in base:
            # What stands there may be another file tomorrow, and no training could be repeated.
            raise ValueError(
                f'{path}: {BASE} is "{base}", an address, and config files are read from this machine alone. Download '
                "it, and name the file here."
            )
        resolved = _find(base, path, shipped)
        if any(Path(heir).resolve() == Path(resolved).resolve() for heir in heirs):
            chain = " -> ".join((*heirs, resolved))
            raise ValueError(f'{path}: {BASE} is "{base}", so that the file inherits from itself ({chain}). Remove it.')
        if not Path(resolved).is_file():
            raise FileNotFoundError(_describe_missing(base, heirs, shipped))
        files += read_config_files(resolved, shipped, heirs)
    return [*files, ConfigFile(path, content)]


def merge_contents(files: Sequence[ConfigFile]) -> dict[str, Any]:
    """The content of all files together; what stands in later ones counts.

    Raises:
        ValueError: a file has keys below one that is a single value in an earlier file.
    """
    merged: dict[str, Any] = {}
    for file in files:
        _merge(file.content, merged, file.path)
    return merged


def _merge(content: dict[str, Any], into: dict[str, Any], path: str, prefix: str = "") -> None:
    for key, value in content.items():
        if not isinstance(value, dict):
            into[key] = value
            continue
        target = into.setdefault(key, {})
        if not isinstance(target, dict):
            raise ValueError(f"{path}: {prefix}{key} has keys, but is the value {target} in a file of its {BASE}.")
        _merge(value, target, path, f"{prefix}{key}.")


def _bases(value: Any, path: str) -> list[str]:
    bases = list(value) if isinstance(value, (list, tuple)) else [value]
    for base in bases:
        if not isinstance(base, str) or not base:
            raise ValueError(
                f"{path}: {BASE} is {value!r}; it must be the path of a config file, or a list of paths. Remove it if "
                "there is none."
            )
    return bases


def _resolve(base: str, path: str) -> str:
    # Unlike pathlib's, it leaves the name of an unknown user as it is.
    return str(Path(path).parent / os.path.expanduser(base))  # noqa: PTH111


def _find(base: str, path: str, shipped: Path) -> str:
    """The path of a base, also if there is no such file."""
    beside = _resolve(base, path)
    # With the suffix left out, a file of the same folder may be meant: nothing is guessed then.
    if Path(beside).is_file() or any(
        Path(f"{beside}{suffix}").is_file() and Path(f"{beside}{suffix}").resolve() != Path(path).resolve()
        for suffix in _SUFFIXES
    ):
        return beside
    own = _shipped_file(base, shipped)
    return str(own) if own is not None and own.is_file() else beside


def _shipped_file(base: str, shipped: Path) -> Path | None:
    """Where a config of the package would lie that has this name; None for a path to somewhere else."""
    name = Path(base.removeprefix("./").removeprefix("configs/"))
    if name.is_absolute() or base.startswith("~") or ".." in name.parts:
        return None
    return shipped / name if name.suffix in _SUFFIXES else shipped / f"{name}.yaml"


def _describe_missing(base: str, heirs: Sequence[str], shipped: Path) -> str:
    resolved = Path(_resolve(base, heirs[-1]))
    what = "is a folder" if resolved.is_dir() else "does not exist"
    message = f'{heirs[-1]}: {BASE} is "{base}", but {os.path.abspath(resolved)} {what}'  # noqa: PTH100
    if not resolved.parent.is_dir():
        message += f", nor does the folder {resolved.parent.name}"
    own = _shipped_file(base, shipped)
    if own is not None and not own.is_file():
        message += f", and the package has no config {own}"
    similar = dict.fromkeys(_similar(base, heirs, shipped))
    hint = f"; did you mean {' or '.join(similar)}?" if similar else "."
    return (
        f"{message}{hint} Paths are relative to the folder of the file that names them, or those of the package's "
        "configs, such as r50 and detr/r50."
    )


def _similar(base: str, heirs: Sequence[str], shipped: Path) -> Iterator[str]:
    """Paths of other files, as they would have to stand in the file."""
    resolved, folder = Path(_resolve(base, heirs[-1])), Path(heirs[-1]).parent
    excluded = {Path(heir).resolve() for heir in heirs}
    if resolved.parent.is_dir():
        files = [file for file in resolved.parent.iterdir() if file.is_file() and file.suffix in _SUFFIXES]
        names = sorted(file.name for file in files if file.resolve() not in excluded)
        close = get_close_matches(resolved.name, names, n=3)
        for name in close or (names if len(names) <= _LISTED else ()):
            yield str(Path(base).with_name(name))
    # What was meant to be relative to the working directory.
    if Path(base).is_file() and Path(base).resolve() not in excluded:
        yield os.path.relpath(base, folder)
    if own := _shipped_file(base, shipped):
        names = [file.relative_to(shipped).with_suffix("").as_posix() for file in shipped.rglob("*.yaml")]
        # Also the very file of that name, where one of the same folder kept it from being taken.
        close = get_close_matches(own.relative_to(shipped).with_suffix("").as_posix(), names, n=2, cutoff=0.8)
        yield from (f"configs/{match}" for match in close)


def _odd_keys(content: dict[Any, Any]) -> Iterator[str]:
    for key, value in content.items():
        if not isinstance(key, str):
            yield repr(key)
        elif isinstance(value, dict):
            yield from _odd_keys(value)


def _kind(content: Any) -> str:
    return {list: "a list", str: "a text"}.get(type(content), f"the value {content}")
