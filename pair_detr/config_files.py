"""Finds config files, those that come with the package among them, and reads them."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

from pair_detr.config import add_pair_detr_config

PACKAGE_ROOT = Path(__file__).resolve().parent


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


def find_config(name: str) -> str:
    """Path of a config file: relative to the working directory or, if it is not there, one that the package ships.

    Args:
        name: path, with or without ``configs/`` in front; "" for none.

    Raises:
        FileNotFoundError: it is neither.
    """
    if not name or Path(name).is_file():
        return name
    return str(config_file(name.removeprefix("configs/")))


def load_config(name: str, options: Sequence[str] = ()) -> CfgNode:
    """The defaults of Detectron2 and of this project, changed by a config file and then by options.

    Args:
        name: as of :func:`find_config`.
        options: keys and values in turn, as on the command line.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: the file or the options have a key that does not exist.
        ValueError: the file is no YAML, a value is of another type than the default, or an option has no value.
    """
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    path = find_config(name)
    if path:
        try:
            cfg.merge_from_file(path)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {error}. Correct the file.") from error
        except (KeyError, ValueError) as error:
            # The text of a KeyError is the repr of its message.
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            kind = KeyError if isinstance(error, KeyError) else ValueError
            raise kind(f"{path}: {text}. Correct the file.") from error
    _require_keys(cfg, options)
    cfg.merge_from_list(list(options))
    return cfg


def _require_keys(cfg: CfgNode, options: Sequence[str]) -> None:
    if len(options) % 2:
        raise ValueError(
            f"Options are keys and values in turn, but {' '.join(options)} ends with a key: add its value."
        )
    known = list(_keys(cfg))
    for key in options[::2]:
        if key not in known:
            similar = get_close_matches(key, known, n=3)
            hint = f"did you mean {' or '.join(similar)}? " if similar else ""
            raise KeyError(f"There is no config key {key}; {hint}docs/configuration.md lists this project's.")


def _keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in cfg.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


def _config_folder() -> Path:
    installed = PACKAGE_ROOT / "configs"
    # setup.py moves the folder into the package; in a checkout, and so in an editable install, it is beside it.
    return installed if installed.is_dir() else PACKAGE_ROOT.parent / "configs"
