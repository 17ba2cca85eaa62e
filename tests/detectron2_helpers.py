"""Detectron2's functions that take more of the tests' time than what they test."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import defaults


def speed_up_default_setup() -> None:
    """Makes ``default_setup`` look keys up in the config itself.

    For each of three keys it writes the whole config as YAML and reads that back with OmegaConf, which takes about a
    third of the CPU time of a training as small as those here.
    """
    defaults._try_get_key = _look_up


def _look_up(cfg: CfgNode, *keys: str, default: Any = None) -> Any:
    return next((cfg[key] for key in keys if key in cfg), default)
