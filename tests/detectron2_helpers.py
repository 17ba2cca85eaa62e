"""Detectron2's functions that take more of the tests' time than what they test."""

from functools import partial
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.engine import defaults


def speed_up_configs() -> None:
    """Makes ``default_setup`` look keys up in the config itself and log it in one color; libyaml writes configs.

    For each of three keys it writes the whole config as YAML and reads that back with OmegaConf, which takes about a
    third of the CPU time of a training as small as those here. Writing it in Python, to the log, the file and each
    checkpoint, takes another fifth; the text is the same.
    """
    defaults._try_get_key = _look_up
    defaults._highlight = lambda code, filename: code
    yaml.safe_dump = partial(yaml.dump, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))


def _look_up(cfg: CfgNode, *keys: str, default: Any = None) -> Any:
    return next((cfg[key] for key in keys if key in cfg), default)
