"""What a resumed training may change, and what it may not."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from pair_detr.checkpoint.checkpointer import SavedCheckpoint, find_checkpoint, require_class_order
from pair_detr.checkpoint.weights import CheckpointError, require_config
from pair_detr.config.renamed import with_current_names
from pair_detr.config.validation import flatten, has_effect
from pair_detr.config.variants import are_related, classification_of
from pair_detr.data import resolve_class_names, resolve_num_classes

logger = logging.getLogger(__name__)

_PROCESSES = "number of processes"


class ResumeError(CheckpointError):
    """A checkpoint is of a training that another config describes."""


class _Change(Enum):
    """What becomes of another value of a key."""

    WITHOUT_INFLUENCE = auto()
    COUNTS = auto()
    # The state of the training does not fit, but its weights may start a new one.
    NEEDS_NEW_RUN = auto()
    # Nor do the weights.
    IS_OTHER_MODEL = auto()


# Names of config keys, * standing for any characters. The first pattern that matches counts; what none matches counts
# from the resumed iteration on.
_RULES: dict[_Change, tuple[str, ...]] = {
    _Change.WITHOUT_INFLUENCE: (
        *("OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "GLOBAL.*", "DATASETS.TEST", "DATASETS.REGISTER"),
        *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.TIMM.WEIGHTS", "MODEL.DETR.PANOPTIC.*", "MODEL.DETR.LOSS.PRIOR_PROB"),
        # Of TEST all but PRECISE_BN, which is a part of the training.
        *("INPUT.M??_SIZE_TEST", "INPUT.MASK_FORMAT", "DATALOADER.NUM_WORKERS", "TEST.[!P]*", "TEST.PRECISION"),
        *("TEST.PATIENCE", "TEST.PICTURES", "TRACKERS", "SOLVER.KEEP_CHECKPOINTS"),
        # The vocabulary may be exchanged at any time, which is logged.
        *(f"MODEL.CLIP.{key}" for key in ("VOCABULARY", "ENCODER", "CHECKPOINT", "PROMPTS", "REGION.*")),
        # Detectron2 has scaled the others by it.
        "SOLVER.REFERENCE_WORLD_SIZE",
    ),
    _Change.NEEDS_NEW_RUN: (
        *("SOLVER.OPTIMIZER", "MODEL.BACKBONE.FREEZE_AT", "MODEL.MASK_ON", "MODEL.CLIP.TEXT_WEIGHTS"),
        *(f"MODEL.DETR.{key}" for key in ("NUM_QUERIES", "NUM_CLASSES", "CLASS_AGNOSTIC", "MASK.FREEZE_DETECTOR")),
        # They add parameters, or freeze some.
        *(f"MODEL.DETR.{key}" for key in ("QUERY_GROUPS", "DENSE.ENABLED", "DENOISING.GROUPS", "QUERY_SELECTION")),
        *("MODEL.DETR.BOX_BIAS", "MODEL.DETR.PAIR.QUERIES_PER_OBJECT", "MODEL.CLIP.QUERIES", "MODEL.CLIP.OBJECTNESS"),
    ),
    _Change.IS_OTHER_MODEL: (
        *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.*", "MODEL.RESNETS.*", "MODEL.TIMM.*", "MODEL.CONVNET.*"),
        *("MODEL.FPN.*", "MODEL.PIXEL_*", "INPUT.FORMAT", "MODEL.CLIP.LOGIT_SCALE", "MODEL.DETR.VARIANT"),
        *("MODEL.DETR.HIDDEN_DIM", "MODEL.DETR.NUM_HEADS", "MODEL.DETR.???_LAYERS", "MODEL.DETR.FFN_DIM"),
        *("MODEL.DETR.BOX_REFINEMENT", "MODEL.DETR.RELATIVE_BOXES"),
        *("MODEL.DETR.MASK.*", "MODEL.DETR.LOSS.CLASSIFICATION", "MODEL.DETR.PAIR.CLASS_DECODER"),
        *(f"MODEL.DETR.PAIR.{key}" for key in ("SHARED_DECODER", "BOX_DECODING", "PROJECTION_DIM")),
    ),
}
_VARIANT = "MODEL.DETR.VARIANT"
# Models that start from the weights of one with the value before it.
_WARM_STARTS = [("MODEL.DETR.PAIR.BOX_DECODING", "center", "pair")]
_NOTES = {
    "SEED": "another order of images, and other random numbers, from here on",
    _PROCESSES: "they share batches and random numbers in another way",
    "SOLVER.AMP.*": "another precision from here on",
    "SOLVER.IMS_PER_BATCH": "iterations are counted on, though an epoch has another number of them",
}


@dataclass(frozen=True)
class Difference:
    """Something about a training that is not what it was when a checkpoint was written."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.before} and is {self.now}"

    @property
    def is_refused(self) -> bool:
        """Whether the training cannot go on with it."""
        return _change(self.key) in (_Change.NEEDS_NEW_RUN, _Change.IS_OTHER_MODEL)

    @property
    def is_warm_start(self) -> bool:
        """Whether a new training can start from the weights."""
        if self.key == _VARIANT and are_related(self.before, self.now):
            return True
        return _change(self.key) == _Change.NEEDS_NEW_RUN or (self.key, self.before, self.now) in _WARM_STARTS

    def describe(self) -> str:
        """A line of a log."""
        note = next((note for pattern, note in _NOTES.items() if fnmatchcase(self.key, pattern)), "")
        return f"{self.key}: {self.before} -> {self.now}" + (f" ({note})" if note else "")


def training_config(cfg: CfgNode) -> dict[str, Any]:
    """What a checkpoint says about its training: the entries of its resolved config that it depends on."""
    entries = {key: value for key, value in flatten(cfg).items() if has_effect(key, cfg)}
    entries["MODEL.DETR.LOSS.CLASSIFICATION"] = classification_of(cfg)
    # Which texts these are may change.
    entries["MODEL.CLIP.TEXT_WEIGHTS"] = "set" if cfg.MODEL.CLIP.TEXT_WEIGHTS else "empty"
    del entries["MODEL.DETR.NUM_CLASSES"]
    if _has_fixed_classes(cfg):
        entries["MODEL.DETR.NUM_CLASSES"] = resolve_num_classes(cfg)
    entries[_PROCESSES] = comm.get_world_size()
    return {key: value for key, value in entries.items() if _change(key) != _Change.WITHOUT_INFLUENCE}


def require_resumable(cfg: CfgNode, *, training: bool = True) -> SavedCheckpoint | None:
    """Compares the config with that of the checkpoint to resume from, before anything is built or loaded.

    Args:
        cfg: whose OUTPUT_DIR has the checkpoint.
        training: the training is to go on, rather than the model to be evaluated.

    Returns:
        The checkpoint; None if there is none.

    Raises:
        ResumeError: the training cannot go on with the config; the message has old and new values, and the ways out.
        CheckpointError: none of the checkpoints can be read, the model has other classes, or it would be evaluated
            with other pixels or another reading of its outputs.
    """
    saved = find_checkpoint(cfg.OUTPUT_DIR, to_train=training)
    if saved is None:
        return None
    if not training:
        require_config(saved.metadata.get("config", {}), cfg, f"The checkpoint {saved.path} does")
    elif refused := [found for found in differences(saved, training_config(cfg)) if found.is_refused]:
        what = "; ".join(map(str, refused))
        raise ResumeError(explain_refusal(str(saved.path), what, all(found.is_warm_start for found in refused)))
    if _has_fixed_classes(cfg):
        require_class_order(resolve_class_names(cfg), saved.metadata.get("class_names"), saved.path)
    return saved


def differences(saved: SavedCheckpoint, now: Mapping[str, Any]) -> list[Difference]:
    """What is not as it was when a checkpoint was written; ``now`` begins with :func:`training_config`'s entries."""
    before = with_current_names(saved.metadata.get("training", {}))
    return [Difference(key, before[key], now[key]) for key in now if key in before and before[key] != now[key]]


def log_differences(saved: SavedCheckpoint, found: Sequence[Difference], start_iter: int) -> None:
    """Says what counts from the resumed iteration on."""
    if found and comm.is_main_process():
        logger.warning(
            "Resuming %s with other values than those of its training, which count from iteration %d on:\n%s",
            saved.path,
            start_iter,
            "\n".join(difference.describe() for difference in found),
        )


def explain_refusal(path: str, what: str, is_warm_start: bool) -> str:
    """The message of a :class:`ResumeError`: what differs, and whether the weights may start a new training."""
    new_run = "start a new run with another OUTPUT_DIR and without --resume"
    weights = f"from its weights (MODEL.WEIGHTS {path})" if is_warm_start else "from other weights, as these do not fit"
    return f"{path} cannot be resumed with this config: {what}. Set back what differs; or {new_run}, {weights}."


def _has_fixed_classes(cfg: CfgNode) -> bool:
    return not cfg.MODEL.CLIP.TEXT_WEIGHTS and not cfg.MODEL.DETR.CLASS_AGNOSTIC


def _change(key: str) -> _Change:
    rules = ((change, pattern) for change, patterns in _RULES.items() for pattern in patterns)
    return next((change for change, pattern in rules if fnmatchcase(key, pattern)), _Change.COUNTS)
