"""Checks of a config before any work is done: values that make no sense, and keys without effect.

Most of Detectron2's keys are those of its own detectors, and have no effect here.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from pair_detr.config.choices import COSINE, FIXED_GAMMA, MULTI_DATASET_SAMPLER, STABLE_DECAY
from pair_detr.config.defaults import add_pair_detr_config
from pair_detr.config.ranges import describe_faults
from pair_detr.config.variants import classification_of, variant_of

_CONVNET, _TIMM = "build_convnet_backbone", "build_timm_backbone"
_OPTIONAL_GROUPS = (
    "INPUT.RESIZE_CROP",
    "INPUT.LARGE_SCALE_JITTER",
    "INPUT.MOSAIC",
    "INPUT.COLOR_JITTER",
    "SOLVER.CLIP_GRADIENTS",
    "SOLVER.AMP",
    "TEST.PRECISE_BN",
    "MODEL.DETR.PANOPTIC",
    "MODEL.DETR.DENSE",
)

# Ignoring these would silently change the results.
_REFUSED = {
    "TEST.AUG.ENABLED": "there is no test-time augmentation here, and the results would be those without: set it to "
    "False",
    "INPUT.CROP.ENABLED": "the crop is INPUT.RESIZE_CROP, and INPUT.CROP.SIZE its SIZE_RANGE: set it to False",
    "MODEL.KEYPOINT_ON": "there are no keypoints here: set it to False",
    "MODEL.LOAD_PROPOSALS": "a DETR takes no proposals: set it to False",
}


def _always(cfg: CfgNode) -> bool:
    return True


@dataclass(frozen=True)
class _Idle:
    """Keys without effect.

    Attributes:
        patterns: of their names; * stands for any characters, dots included.
        remedy: what to set instead, or why there is nothing.
        applies: tells whether they are without effect in a config.
        harmless: a value that says what is the case anyway.
    """

    patterns: tuple[str, ...]
    remedy: str
    applies: Callable[[CfgNode], bool] = _always
    harmless: Any = None

    def matches(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.patterns)


def _is_softmax(cfg: CfgNode) -> bool:
    return classification_of(cfg) == "softmax"


def _lacks_group(group: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: not _value(cfg, f"{group}.ENABLED")


_IDLE = (  # the first entry that a key matches counts
    *(_Idle((key,), remedy) for key, remedy in _REFUSED.items()),
    _Idle(
        ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        "the number of classes is MODEL.DETR.NUM_CLASSES, by default that of the data",
    ),
    _Idle(
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.RETINANET.SCORE_THRESH_TEST"),
        "the best TEST.DETECTIONS_PER_IMAGE detections are returned, whatever their scores: choose among them by "
        "instances.scores, or with the demo's --confidence",
    ),
    _Idle(("MODEL.*.NMS_THRESH*",), "a DETR suppresses no detections"),
    _Idle(
        ("MODEL.ROI_BOX_HEAD.*FED_LOSS*",),
        "the federated loss is MODEL.DETR.LOSS.FEDERATED_CLASSES and FEDERATED_POWER",
    ),
    _Idle(
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",), "MODEL.DETR.LOSS.CLASSIFICATION focal is by sigmoids, softmax is not"
    ),
    _Idle(("MODEL.ROI_KEYPOINT_HEAD.*", "TEST.KEYPOINT_OKS_SIGMAS"), "there are no keypoints here"),
    _Idle(("MODEL.ROI_MASK_HEAD.*",), "the mask head is DETR's, see MODEL.DETR.MASK"),
    _Idle(("MODEL.PANOPTIC_FPN.*", "MODEL.SEM_SEG_HEAD.*"), "panoptic models are described by MODEL.DETR.PANOPTIC"),
    _Idle(
        (
            "MODEL.ROI_*",
            "MODEL.RPN.*",
            "MODEL.RETINANET.*",
            "MODEL.PROPOSAL_GENERATOR.*",
            "MODEL.ANCHOR_GENERATOR.*",
            "DATASETS.PROPOSAL_FILES_*",
            "DATASETS.PRECOMPUTED_PROPOSAL_*",
        ),
        "it is of Detectron2's own detectors; those here are described by MODEL.DETR",
    ),
    _Idle(("MODEL.FPN.*",), "the backbone has no FPN", lambda cfg: "fpn" not in cfg.MODEL.BACKBONE.NAME),
    _Idle(("TEST.AUG.*",), "there is no test-time augmentation here"),
    _Idle(("INPUT.CROP.*",), "the crop is INPUT.RESIZE_CROP, and INPUT.CROP.SIZE its SIZE_RANGE"),
    _Idle(("INPUT.MASK_FORMAT",), "masks are taken in any format"),
    _Idle(("VIS_PERIOD",), "python -m pair_detr.tools.visualize_data draws training images"),
    *(_Idle((f"{group}.*",), f"{group}.ENABLED is False", _lacks_group(group)) for group in _OPTIONAL_GROUPS),
    _Idle(
        ("TEST.PRECISE_BN.*",),
        "all batch norms of the backbone are frozen",
        lambda cfg: (
            cfg.MODEL.TIMM.NORM == "FrozenBN"
            if cfg.MODEL.BACKBONE.NAME == _TIMM
            else "resnet" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.RESNETS.NORM == "FrozenBN"
        ),
    ),
    _Idle(
        ("MODEL.BACKBONE.FREEZE_AT",),
        f"{_CONVNET} is trained as a whole: set it to 0",
        lambda cfg: cfg.MODEL.BACKBONE.NAME == _CONVNET,
        harmless=0,
    ),
    _Idle(
        ("MODEL.RESNETS.RES5_DILATION",),
        "a timm model is dilated by MODEL.TIMM.KWARGS {output_stride: 16}",
        lambda cfg: cfg.MODEL.BACKBONE.NAME == _TIMM,
    ),
    _Idle(
        ("MODEL.RESNETS.*",),
        "MODEL.BACKBONE.NAME is not a ResNet of Detectron2",
        lambda cfg: cfg.MODEL.BACKBONE.NAME in (_CONVNET, _TIMM),
    ),
    _Idle(("MODEL.TIMM.*",), f"MODEL.BACKBONE.NAME is not {_TIMM}", lambda cfg: cfg.MODEL.BACKBONE.NAME != _TIMM),
    _Idle(
        ("MODEL.CONVNET.*",),
        f"MODEL.BACKBONE.NAME is not {_CONVNET}",
        lambda cfg: cfg.MODEL.BACKBONE.NAME != _CONVNET,
    ),
    _Idle(
        tuple(f"MODEL.CLIP.{key}" for key in ("VOCABULARY", "LOGIT_SCALE", "ENCODER", "CHECKPOINT", "PROMPTS")),
        "MODEL.CLIP.TEXT_WEIGHTS is empty, and the classifier linear",
        lambda cfg: not cfg.MODEL.CLIP.TEXT_WEIGHTS,
    ),
    _Idle(
        ("MODEL.DETR.PAIR.*", "MODEL.DETR.MASK.QUERY_DECODER"),
        "the model has no top-left decoder, which MODEL.DETR.VARIANT pair_detr has",
        lambda cfg: "top_left" not in variant_of(cfg).decoder_names,
    ),
    _Idle(
        ("MODEL.DETR.LOSS.MASK", "MODEL.DETR.LOSS.DICE", "MODEL.DETR.MASK.*"),
        "MODEL.MASK_ON is False",
        lambda cfg: not cfg.MODEL.MASK_ON,
    ),
    _Idle(
        ("MODEL.DETR.LOSS.FOCAL_*",), "the classification is a softmax, see MODEL.DETR.LOSS.CLASSIFICATION", _is_softmax
    ),
    _Idle(
        ("MODEL.DETR.LOSS.NO_OBJECT_WEIGHT",),
        "the classification is focal, see MODEL.DETR.LOSS.CLASSIFICATION",
        lambda cfg: not _is_softmax(cfg),
    ),
    _Idle(
        ("MODEL.DETR.LOSS.FEDERATED_POWER",),
        "MODEL.DETR.LOSS.FEDERATED_CLASSES is 0",
        lambda cfg: cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES == 0,
    ),
    _Idle(
        ("MODEL.DETR.IMAGE_LABELS.*", "DATALOADER.DATASET_*", "DATALOADER.USE_RFS"),
        f"DATALOADER.SAMPLER_TRAIN is not {MULTI_DATASET_SAMPLER}",
        lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN != MULTI_DATASET_SAMPLER,
    ),
    _Idle(
        ("DATALOADER.REPEAT_*",),
        "DATALOADER.SAMPLER_TRAIN is not RepeatFactorTrainingSampler",
        lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler",
    ),
    _Idle(("SOLVER.EPOCHS.*",), "SOLVER.EPOCHS.MAX is 0", lambda cfg: cfg.SOLVER.EPOCHS.MAX == 0),
    _Idle(
        ("SOLVER.MOMENTUM",),
        "SOLVER.OPTIMIZER is ADAMW",
        lambda cfg: cfg.SOLVER.OPTIMIZER.upper() == "ADAMW",
    ),
    _Idle(("SOLVER.NESTEROV",), "SOLVER.OPTIMIZER is not SGD", lambda cfg: cfg.SOLVER.OPTIMIZER.upper() != "SGD"),
    _Idle(
        ("SOLVER.MUON_*",),
        "SOLVER.OPTIMIZER is not MUON",
        lambda cfg: cfg.SOLVER.OPTIMIZER.upper() != "MUON",
    ),
    _Idle(
        tuple(f"MODEL.DETR.DENOISING.{key}" for key in ("WEIGHT", "LABEL_NOISE", "BOX_NOISE", "NEGATIVES")),
        "MODEL.DETR.DENOISING.GROUPS is 0",
        lambda cfg: cfg.MODEL.DETR.DENOISING.GROUPS == 0,
    ),
    _Idle(
        ("MODEL.DETR.LOSS.IOU_GAMMA",),
        "MODEL.DETR.LOSS.CLASSIFICATION is not mal",
        lambda cfg: cfg.MODEL.DETR.LOSS.CLASSIFICATION != "mal",
    ),
    _Idle(
        ("MODEL.DETR.PAIR.ONE_TO_MANY_WEIGHT",),
        "MODEL.DETR.PAIR.QUERIES_PER_OBJECT is 1",
        lambda cfg: cfg.MODEL.DETR.PAIR.QUERIES_PER_OBJECT == 1,
    ),
    _Idle(
        ("SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_METHOD", "SOLVER.RESCALE_INTERVAL"),
        "SOLVER.WARMUP_ITERS is 0",
        lambda cfg: cfg.SOLVER.WARMUP_ITERS == 0,
    ),
    _Idle(
        ("SOLVER.BASE_LR_END",),
        f"SOLVER.LR_SCHEDULER_NAME is neither {COSINE} nor {STABLE_DECAY}",
        lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME not in (COSINE, STABLE_DECAY),
    ),
    _Idle(
        ("SOLVER.NUM_DECAYS",),
        f"SOLVER.LR_SCHEDULER_NAME is not {FIXED_GAMMA}",
        lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME != FIXED_GAMMA,
    ),
)


def check_config(cfg: CfgNode) -> None:
    """Refuses values that make no sense; warns, once and in the main process, of keys that are set without effect.

    Raises:
        ValueError: see :func:`check_values`; or a key has no effect, and the results would not be those that it asks
            for.
    """
    check_values(cfg)
    idle = idle_keys(cfg)
    if refused := [f"{key} is {_value(cfg, key)}, but {remedy}." for key, remedy in idle.items() if key in _REFUSED]:
        raise ValueError(" ".join(refused))
    lines = [f"{key} {_value(cfg, key)}: {remedy}." for key, remedy in idle.items()]
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
    return entry is None or (key.endswith(".ENABLED") and entry.applies is not _always)


def _idle_entry(key: str, cfg: CfgNode) -> _Idle | None:
    return next((entry for entry in _IDLE if entry.matches(key) and entry.applies(cfg)), None)


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
    if not _is_softmax(cfg):
        # A query can be detected under several classes.
        limit, what = limit * detr.NUM_CLASSES, f"{what} times {detr.NUM_CLASSES} classes"
    value = cfg.TEST.DETECTIONS_PER_IMAGE
    if limit == 0 or value <= limit or value == _defaults()[key]:
        return []
    return [f"{key} {value}: there are at most {limit} detections, {what}."]


def _value(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    return flatten(cfg)
