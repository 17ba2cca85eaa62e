"""Which of SOLVER.MAX_ITER and SOLVER.EPOCHS.MAX counts: the one that was set last."""

import logging
from ast import literal_eval
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode, get_cfg

from pair_detr.config.defaults import add_pair_detr_config
from pair_detr.config.rules import is_number

logger = logging.getLogger(__name__)

_ITERATIONS = ("SOLVER.MAX_ITER", "SOLVER.STEPS")
_EPOCHS = "SOLVER.EPOCHS.MAX"


class Source(NamedTuple):
    """A config file, or the options of a command line.

    Attributes:
        name: for messages.
        values: by the full names of their keys.
    """

    name: str
    values: Mapping[str, Any]

    @property
    def is_written(self) -> bool:
        """Whether a run wrote it: such a config has all keys, and so says of none that it was meant to count.

        Other releases of Detectron2 have a few keys more or less.
        """
        keys = flatten_content(get_cfg().SOLVER, "SOLVER.").keys()
        return 2 * len(keys & self.values.keys()) > len(keys)


def settle_schedule(cfg: CfgNode, sources: Sequence[Source]) -> None:
    """Sets ``SOLVER.EPOCHS.MAX`` to 0 if iterations were set after it, so that the later source counts.

    Args:
        cfg: the sources, merged.
        sources: those that count more come later.

    Raises:
        ValueError: a single source sets both.
    """
    epochs_of, iterations_of, iterations, iterations_from = "", "", [], 0
    for number, source in enumerate(sources):
        given = [key for key in _ITERATIONS if key in source.values]
        counts_epochs = _is_positive(source.values.get(_EPOCHS))
        if given and counts_epochs and not source.is_written:
            raise ValueError(
                f"{source.name}: {given[0]} counts in iterations and {_EPOCHS} {source.values[_EPOCHS]} in epochs. "
                f"Remove one of them, or set {_EPOCHS} 0 to count in iterations."
            )
        if _EPOCHS in source.values:
            epochs_of, iterations_of = source.name if counts_epochs else "", ""
            if not counts_epochs:
                _reset_epochs(cfg, sources[number:])
        elif given and epochs_of:
            epochs_of, iterations_of, iterations, iterations_from = "", source.name, given, number
    if not iterations_of:
        return
    set_keys = {key for source in sources for key in source.values}
    has_length = "SOLVER.MAX_ITER" in set_keys
    if "SOLVER.STEPS" not in set_keys:
        # Detectron2's default may lie beyond the end.
        cfg.SOLVER.STEPS = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    logger.log(
        logging.INFO if has_length else logging.WARNING,
        "%s: the iterations of %s replace the inherited %s %s: %s.%s",
        iterations_of,
        " and ".join(iterations),
        _EPOCHS,
        cfg.SOLVER.EPOCHS.MAX,
        f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}, STEPS {tuple(cfg.SOLVER.STEPS)}, CHECKPOINT_PERIOD "
        f"{cfg.SOLVER.CHECKPOINT_PERIOD}, TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD}",
        "" if has_length else " MAX_ITER is Detectron2's default: set it as well, or SOLVER.EPOCHS.STEPS instead.",
    )
    _reset_epochs(cfg, sources[iterations_from:])


def _reset_epochs(cfg: CfgNode, later: Sequence[Source]) -> None:
    """Leaves nothing of a schedule in epochs but what is set as late as the iterations, which a check warns of."""
    kept = {key for source in later for key in source.values}
    defaults = get_cfg()
    add_pair_detr_config(defaults)
    for key, value in defaults.SOLVER.EPOCHS.items():
        # A later source may count in epochs again.
        if f"SOLVER.EPOCHS.{key}" not in kept:
            cfg.SOLVER.EPOCHS[key] = value


def flatten_content(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config file by the full names of their keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten_content(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_positive(value: Any) -> bool:
    if isinstance(value, str):
        # As on the command line; merging has made sure that it can be read.
        try:
            value = literal_eval(value)
        except (ValueError, SyntaxError):
            return False
    return is_number(value) and value > 0
