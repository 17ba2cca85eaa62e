"""Finds config files, those that come with the package among them, and reads them."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from pair_detr.config.bases import BASE, SCHEME, ConfigFile, merge_contents, read_config_files
from pair_detr.config.defaults import add_pair_detr_config
from pair_detr.config.renamed import describe_renamed
from pair_detr.config.schedule import Source, flatten_content, settle_schedule
from pair_detr.utils.yaml_files import parse_yaml

PACKAGE_ROOT = Path(__file__).resolve().parent

# yacs' message.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<wanted>[\w.]+)'> vs\. <class '(?P<given>[\w.]+)'>\) with values "
    r"\((?P<old>.*) vs\. (?P<new>.*)\) for config key: (?P<key>\S+)",
    re.DOTALL,
)


def config_file(name: str) -> Path:
    """Path of a config file that comes with the package.

    Args:
        name: path under ``configs/``, with or without ``.yaml``; for example ``"r50"`` or ``"detr/r50.yaml"``.

    Raises:
        FileNotFoundError: there is no such file; the message lists those that exist.
    """
    folder = _config_folder()
    path = folder / (name if name.endswith(".yaml") else f"{name}.yaml")
    if not path.is_file():
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml"))
        raise FileNotFoundError(f"no config file {name!r} in {folder}; there are: {', '.join(names)}")
    return path


def find_config(name: str | Path) -> str:
    """Path of a config file: relative to the working directory or, if it is not there, one that the package ships.

    Args:
        name: path, with or without ``configs/`` in front; "" for none.

    Raises:
        FileNotFoundError: it is neither.
    """
    name = str(name)
    if not name or Path(name).is_file():
        return name
    if SCHEME in name:
        raise FileNotFoundError(
            f"{name} is an address, and config files are read from this machine alone: download it."
        )
    return str(config_file(name.removeprefix("configs/")))


def load_config(name: str | Path, options: Sequence[str] = ()) -> CfgNode:
    """The defaults of Detectron2 and of this project, changed by a config file and then by options.

    Args:
        name: see :func:`find_config`.
        options: keys and values in turn, as on the command line.

    Raises:
        FileNotFoundError: there is no such file, or none that a ``_BASE_`` names.
        KeyError: a file or the options have a key that does not exist.
        ValueError: a file is not valid YAML, a value is of another type than the default, an option has no value,
            config files are each other's ``_BASE_``, or a file or the options count in iterations and in epochs.
    """
    path = find_config(name)
    return _merge_all(read_config_files(path, _config_folder()) if path else [], options)


def parse_config(text: str, source: str, options: Sequence[str] = ()) -> CfgNode:
    """The config that a text describes, such as one that a checkpoint holds: values alone, and no other files.

    Args:
        text: YAML, as ``CfgNode.dump`` writes it.
        source: where it stands, for messages.
        options: see :func:`load_config`.

    Raises:
        KeyError, ValueError: as :func:`load_config`.
    """
    content = parse_yaml(text, source)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{source} has no keys and values.")
    return _merge_all([ConfigFile(source, content)], options)


def _merge_all(files: Sequence[ConfigFile], options: Sequence[str]) -> CfgNode:
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    if files:
        _merge_files(cfg, files)
    if len(options) % 2:
        raise ValueError(
            f"Options are keys and values in turn, but {' '.join(options)} ends with a key: add its value."
        )
    known = set(_keys(cfg))
    if unknown := [key for key in options[::2] if key not in known]:
        raise KeyError(_describe_unknown(unknown, cfg))
    for key, value in zip(options[::2], options[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise ValueError(_describe_mismatch(error)) from error
    sources = [Source(file.path, flatten_content(file.content)) for file in files]
    sources.append(Source("The options", dict(zip(options[::2], options[1::2], strict=True))))
    settle_schedule(cfg, sources)
    return cfg


def _merge_files(cfg: CfgNode, files: Sequence[ConfigFile]) -> None:
    for file in files:
        if unknown := list(_unknown_keys(file.content, cfg)):
            raise KeyError(f"{file.path}: {_describe_unknown(unknown, cfg)}")
    content = merge_contents(files)
    if content.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise ValueError(
            f"{files[-1].path}: VERSION is {content['VERSION']}; configs of version {cfg.VERSION} can be read."
        )
    before = cfg.clone()
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{_file_at_fault(before, files)}: {_describe_mismatch(error)} Correct the file.") from error


def _file_at_fault(cfg: CfgNode, files: Sequence[ConfigFile]) -> str:
    for file in files:
        try:
            cfg.clone().merge_from_other_cfg(CfgNode(file.content))
        except (ValueError, AssertionError):
            return file.path
    return files[-1].path


def _describe_mismatch(error: Exception) -> str:
    """What is wrong with the type of a value, without yacs' jargon."""
    match = _MISMATCH.fullmatch(str(error))
    if not match:
        return f"{error}."
    wanted, given = (match[name].rpartition(".")[2] for name in ("wanted", "given"))
    if wanted == "CfgNode":
        return f"{match['key']} is {match['new']}, but has keys of its own: set these."
    if given == "CfgNode":
        return f"{match['key']} has keys, but is a single value, such as {match['old']}."
    if wanted in ("tuple", "list"):
        entries = tuple(match["new"].split(",")) if given == "str" else f"({match['new']},)"
        return (
            f"{match['key']} is {match['new']} ({given}); it must be a list, also for a single entry: write {entries}, "
            "on the command line in quotes."
        )
    return f"{match['key']} is {match['new']} ({given}); it must be of the default's type, {wanted}: {match['old']}."


def _describe_unknown(keys: Sequence[str], cfg: CfgNode) -> str:
    """All that have another name here, as a config of another project has several; otherwise the first."""
    if renamed := [text for key in keys if (text := describe_renamed(key))]:
        return " ".join(renamed)
    key, known = keys[0], [*_keys(cfg), BASE]
    if key in known:
        parts = key.split(".")
        nested = ": {".join(parts) + ": ..." + "}" * (len(parts) - 1)
        return f"the key {key} is written with dots; in a file, nest it: {nested}"
    similar = get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"There is no config key {key}; {hint}docs/configuration.md lists this project's."


def _unknown_keys(content: dict[str, Any], cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if key not in cfg:
            if not cfg.is_new_allowed():
                inner = flatten_content(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
                # A node of another project, whose keys have names here; of all others, the node is what is wrong.
                yield from [name for name in inner if describe_renamed(name)] or [f"{prefix}{key}"]
        elif isinstance(value, dict) and isinstance(cfg[key], CfgNode):
            yield from _unknown_keys(value, cfg[key], f"{prefix}{key}.")


def _keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in cfg.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


def _config_folder() -> Path:
    installed = PACKAGE_ROOT / "configs"
    # setup.py moves the folder into the package; in a checkout, and so in an editable install, it is next to it.
    return installed if installed.is_dir() else PACKAGE_ROOT.parent / "configs"
