"""Checks of a config before any work is done: values that make no sense, and keys without effect.

Most of Detectron2's keys are those of its own detectors, and have no effect here.
"""

import logging
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from pair_detr.config.defaults import add_pair_detr_config
from pair_detr.config.idle_keys import IDLE, REFUSED, Idle, always, is_softmax, value_of
from pair_detr.config.ranges import describe_faults


def check_config(cfg: CfgNode) -> None:
    """Refuses values that make no sense; warns, once and in the main process, of keys that are set without effect.

    Raises:
        ValueError: see :func:`check_values`; or a key has no effect, and the results would not be those that it asks
            for.
    """
    check_values(cfg)
    idle = idle_keys(cfg)
    if refused := [f"{key} is {value_of(cfg, key)}, but {remedy}." for key, remedy in idle.items() if key in REFUSED]:
        raise ValueError(" ".join(refused))
    lines = [f"{key} {value_of(cfg, key)}: {remedy}." for key, remedy in idle.items()]
    lines += _surplus_detections(cfg)
    if lines and comm.is_main_process():
        # The same config is checked by a tool and by the predictor that it uses.
        log_first_n(
            logging.WARNING, "\n".join(["What is set here has no effect:", *lines]), name=__name__, key="message"
        )


def check_values(cfg: CfgNode, *sections: str) -> None:
    """Makes sure that each value is in its range, see :mod:`pair_detr.config.ranges`. Keys without effect are skipped.

    Args:
        cfg: config.
        sections: what the names of the keys to check start with, such as "INPUT."; all by default.

    Raises:
        ValueError: one is not, or two exclude each other; the message has all of them, and what they must be.
    """
    values = {key: value for key, value in flatten(cfg, keep_tuples=True).items() if key.startswith(sections or "")}
    if faults := describe_faults(values, _defaults(), lambda key: has_effect(key, cfg)):
        raise ValueError(" ".join(faults))


def idle_keys(cfg: CfgNode) -> dict[str, str]:
    """The keys that differ from their defaults but have no effect in a config, and what to do about each.

    Raises:
        ValueError: ``MODEL.DETR.VARIANT`` is unknown.
    """
    found = {}
    defaults = _defaults()
    for key, value in flatten(cfg).items():
        is_set = key in defaults and value != defaults[key]
        # To disable what is not there anyway is no mistake.
        if not is_set or (key.endswith(".ENABLED") and not value):
            continue
        entry = _idle_entry(key, cfg)
        if entry is not None and value != entry.harmless:
            found[key] = entry.remedy
    return found


def has_effect(key: str, cfg: CfgNode) -> bool:
    """Whether a config would build or train something else with another value of a key."""
    entry = _idle_entry(key, cfg)
    return entry is None or (key.endswith(".ENABLED") and entry.applies is not always)


def _idle_entry(key: str, cfg: CfgNode) -> Idle | None:
    return next((entry for entry in _entries_about(key) if entry.applies(cfg)), None)


# A config has hundreds of keys, and is checked several times in a run.
@cache
def _entries_about(key: str) -> tuple[Idle, ...]:
    return tuple(entry for entry in IDLE if entry.matches(key))


def flatten(cfg: CfgNode, keep_tuples: bool = False) -> dict[str, Any]:
    """The values of a config by their full names; a node that takes any keys is one value, a dict.

    Args:
        cfg: config.
        keep_tuples: rather than to make lists of them, which are compared alike.
    """
    values = dict(_flatten(cfg, ""))
    if keep_tuples:
        return values
    return {key: _as_lists(value) for key, value in values.items()}


def _as_lists(value: Any) -> Any:
    """Lists in place of tuples, inside of others, too: files have lists alone."""
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _flatten(cfg: CfgNode, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if not isinstance(value, CfgNode):
            yield prefix + key, value
        elif value.is_new_allowed():
            yield prefix + key, _plain(value)
        else:
            yield from _flatten(value, f"{prefix}{key}.")


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _surplus_detections(cfg: CfgNode) -> list[str]:
    key, detr = "TEST.DETECTIONS_PER_IMAGE", cfg.MODEL.DETR
    limit, what = detr.NUM_QUERIES, f"MODEL.DETR.NUM_QUERIES {detr.NUM_QUERIES}"
    if not is_softmax(cfg) and not cfg.TEST.ONE_CLASS_PER_QUERY:
        # A query can be detected under several classes.
        limit, what = limit * detr.NUM_CLASSES, f"{what} times {detr.NUM_CLASSES} classes"
    value = cfg.TEST.DETECTIONS_PER_IMAGE
    if limit == 0 or value <= limit or value == _defaults()[key]:
        return []
    return [f"{key} {value}: there are at most {limit} detections, {what}."]


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    return flatten(cfg)
