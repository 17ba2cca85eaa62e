"""The table of keys that have no effect in a config, most of which are of Detectron2's own detectors."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from detectron2.config import CfgNode

from pair_detr.config.choices import CLIP_BACKBONE, COSINE, FIXED_GAMMA, MULTI_DATASET_SAMPLER, STABLE_DECAY
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
    "MODEL.CLIP.REGION",
    "MODEL.DETR.DENSE",
)

# Ignoring these would silently change the results.
REFUSED = {
    "TEST.AUG.ENABLED": "there is no test-time augmentation here, and the results would be those without: set it to "
    "False",
    "INPUT.CROP.ENABLED": "the crop is INPUT.RESIZE_CROP, and INPUT.CROP.SIZE its SIZE_RANGE: set it to False",
    "MODEL.KEYPOINT_ON": "there are no keypoints here: set it to False",
    "MODEL.LOAD_PROPOSALS": "a DETR takes no proposals: set it to False",
}


def always(cfg: CfgNode) -> bool:
    """For keys without effect in any config."""
    return True


@dataclass(frozen=True)
class Idle:
    """Keys without effect.

    Attributes:
        patterns: of their names; * stands for any characters, dots included.
        remedy: what to set instead, or why there is nothing.
        applies: tells whether they are without effect in a config.
        harmless: a value that says what is the case anyway.
    """

    patterns: tuple[str, ...]
    remedy: str
    applies: Callable[[CfgNode], bool] = always
    harmless: Any = None

    def matches(self, key: str) -> bool:
        """Whether it is about a key."""
        return any(fnmatchcase(key, pattern) for pattern in self.patterns)


def is_softmax(cfg: CfgNode) -> bool:
    """Whether queries without an object have a class of their own."""
    return classification_of(cfg) == "softmax"


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key by its full name."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def _norm_of_backbone(cfg: CfgNode) -> str | None:
    """The kind of normalization, as the key NORM of a backbone names it; None for backbones of others."""
    name = cfg.MODEL.BACKBONE.NAME
    if name == _TIMM:
        return cfg.MODEL.TIMM.NORM
    if name == CLIP_BACKBONE:
        return "FrozenBN"
    return cfg.MODEL.RESNETS.NORM if "resnet" in name else "BN" if name == _CONVNET else None


def _evaluates(cfg: CfgNode) -> bool:
    return bool(cfg.SOLVER.EPOCHS.EVAL_PERIOD if cfg.SOLVER.EPOCHS.MAX else cfg.TEST.EVAL_PERIOD)


def _lacks_group(group: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: not value_of(cfg, f"{group}.ENABLED")


# The first entry that a key matches counts.
IDLE = (
    *(Idle((key,), remedy) for key, remedy in REFUSED.items()),
    Idle(
        ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        "the number of classes is MODEL.DETR.NUM_CLASSES, by default that of the data",
    ),
    Idle(
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.RETINANET.SCORE_THRESH_TEST"),
        "the best TEST.DETECTIONS_PER_IMAGE detections are returned, whatever their scores: choose among them by "
        "instances.scores, or with the demo's --confidence",
    ),
    Idle(("MODEL.*.NMS_THRESH*",), "a DETR suppresses no detections"),
    Idle(
        ("MODEL.ROI_BOX_HEAD.*FED_LOSS*",),
        "the federated loss is MODEL.DETR.LOSS.FEDERATED_CLASSES and FEDERATED_POWER",
    ),
    Idle(("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",), "MODEL.DETR.LOSS.CLASSIFICATION focal is by sigmoids, softmax is not"),
    Idle(("MODEL.ROI_KEYPOINT_HEAD.*", "TEST.KEYPOINT_OKS_SIGMAS"), "there are no keypoints here"),
    Idle(("MODEL.ROI_MASK_HEAD.*",), "the mask head is DETR's, see MODEL.DETR.MASK"),
    Idle(("MODEL.PANOPTIC_FPN.*", "MODEL.SEM_SEG_HEAD.*"), "panoptic models are described by MODEL.DETR.PANOPTIC"),
    Idle(
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
    Idle(("MODEL.FPN.*",), "the backbone has no FPN", lambda cfg: "fpn" not in cfg.MODEL.BACKBONE.NAME),
    Idle(("TEST.AUG.*",), "there is no test-time augmentation here"),
    Idle(("INPUT.CROP.*",), "the crop is INPUT.RESIZE_CROP, and INPUT.CROP.SIZE its SIZE_RANGE"),
    Idle(("INPUT.MASK_FORMAT",), "masks are taken in any format"),
    Idle(("VIS_PERIOD",), "python -m pair_detr.tools.visualize_data draws training images"),
    *(Idle((f"{group}.*",), f"{group}.ENABLED is False", _lacks_group(group)) for group in _OPTIONAL_GROUPS),
    Idle(
        ("TEST.PRECISE_BN.*",),
        "all batch norms of the backbone are frozen",
        lambda cfg: _norm_of_backbone(cfg) == "FrozenBN",
    ),
    Idle(
        ("MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS",),
        "the backbone has no BatchNorm, or one that is frozen or synchronized among processes",
        lambda cfg: _norm_of_backbone(cfg) not in ("BN", None) and cfg.MODEL.FPN.NORM != "BN",
    ),
    Idle(
        ("MODEL.BACKBONE.FREEZE_AT",),
        f"{_CONVNET} is trained as a whole: set it to 0",
        lambda cfg: cfg.MODEL.BACKBONE.NAME == _CONVNET,
        harmless=0,
    ),
    Idle(
        ("MODEL.BACKBONE.FREEZE_AT", "SOLVER.BACKBONE_MULTIPLIER", "SOLVER.MUON_BACKBONE_MULTIPLIER"),
        f"{CLIP_BACKBONE} is frozen as a whole",
        lambda cfg: cfg.MODEL.BACKBONE.NAME == CLIP_BACKBONE,
    ),
    Idle(
        ("MODEL.RESNETS.RES5_DILATION",),
        "a timm model is dilated by MODEL.TIMM.KWARGS {output_stride: 16}",
        lambda cfg: cfg.MODEL.BACKBONE.NAME == _TIMM,
    ),
    Idle(
        ("MODEL.RESNETS.*",),
        "MODEL.BACKBONE.NAME is not a ResNet of Detectron2",
        lambda cfg: cfg.MODEL.BACKBONE.NAME in (_CONVNET, _TIMM, CLIP_BACKBONE),
    ),
    Idle(("MODEL.TIMM.*",), f"MODEL.BACKBONE.NAME is not {_TIMM}", lambda cfg: cfg.MODEL.BACKBONE.NAME != _TIMM),
    Idle(
        ("MODEL.CONVNET.*",),
        f"MODEL.BACKBONE.NAME is not {_CONVNET}",
        lambda cfg: cfg.MODEL.BACKBONE.NAME != _CONVNET,
    ),
    Idle(
        ("MODEL.CLIP.WILDCARD_SCORE",),
        "MODEL.CLIP.OBJECTNESS is False, and what is no annotated object is background",
        lambda cfg: not cfg.MODEL.CLIP.OBJECTNESS,
    ),
    Idle(
        ("TEST.OBJECTNESS_POWER",),
        "there is no MODEL.CLIP.OBJECTNESS (with TEXT_WEIGHTS), or REGION scores are fused with the product",
        lambda cfg: not cfg.MODEL.CLIP.TEXT_WEIGHTS or not cfg.MODEL.CLIP.OBJECTNESS or cfg.MODEL.CLIP.REGION.ENABLED,
    ),
    Idle(
        tuple(f"MODEL.CLIP.{key}" for key in ("VOCABULARY", "LOGIT_SCALE", "QUERIES", "OBJECTNESS", "PROMPTS")),
        "MODEL.CLIP.TEXT_WEIGHTS is empty, and the classifier linear",
        lambda cfg: not cfg.MODEL.CLIP.TEXT_WEIGHTS,
    ),
    Idle(
        ("MODEL.CLIP.ENCODER", "MODEL.CLIP.CHECKPOINT"),
        f"MODEL.CLIP.TEXT_WEIGHTS is empty, and the classifier linear; nor is MODEL.BACKBONE.NAME {CLIP_BACKBONE}",
        lambda cfg: not cfg.MODEL.CLIP.TEXT_WEIGHTS and cfg.MODEL.BACKBONE.NAME != CLIP_BACKBONE,
    ),
    Idle(
        ("MODEL.DETR.PAIR.*", "MODEL.DETR.MASK.QUERY_DECODER"),
        "the model has no top-left decoder, which MODEL.DETR.VARIANT pair_detr has",
        lambda cfg: "top_left" not in variant_of(cfg).decoder_names,
    ),
    Idle(
        ("MODEL.DETR.LOSS.MASK", "MODEL.DETR.LOSS.DICE", "MODEL.DETR.MASK.*"),
        "MODEL.MASK_ON is False",
        lambda cfg: not cfg.MODEL.MASK_ON,
    ),
    Idle(
        ("MODEL.DETR.LOSS.FOCAL_*", "TEST.ONE_CLASS_PER_QUERY"),
        "the classification is a softmax, see MODEL.DETR.LOSS.CLASSIFICATION",
        is_softmax,
    ),
    Idle(
        ("MODEL.DETR.LOSS.NO_OBJECT_WEIGHT",),
        "the classification is focal, see MODEL.DETR.LOSS.CLASSIFICATION",
        lambda cfg: not is_softmax(cfg),
    ),
    Idle(
        ("MODEL.DETR.LOSS.FEDERATED_POWER",),
        "MODEL.DETR.LOSS.FEDERATED_CLASSES is 0",
        lambda cfg: cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES == 0,
    ),
    Idle(
        ("MODEL.DETR.IMAGE_LABELS.*", "DATALOADER.DATASET_*", "DATALOADER.USE_RFS"),
        f"DATALOADER.SAMPLER_TRAIN is not {MULTI_DATASET_SAMPLER}",
        lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN != MULTI_DATASET_SAMPLER,
    ),
    Idle(
        ("DATALOADER.REPEAT_*",),
        "DATALOADER.SAMPLER_TRAIN is not RepeatFactorTrainingSampler",
        lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler",
    ),
    Idle(("SOLVER.EPOCHS.*",), "SOLVER.EPOCHS.MAX is 0", lambda cfg: cfg.SOLVER.EPOCHS.MAX == 0),
    Idle(
        ("TEST.PATIENCE", "TEST.BEST_METRIC"),
        "nothing is evaluated during the training: set TEST.EVAL_PERIOD, or SOLVER.EPOCHS.EVAL_PERIOD, and "
        "DATASETS.TEST",
        lambda cfg: not cfg.DATASETS.TEST or not _evaluates(cfg),
    ),
    Idle(
        ("INPUT.SIZE_BUCKETS",),
        "all images are padded to INPUT.FIXED_SIZE",
        lambda cfg: bool(cfg.INPUT.FIXED_SIZE),
    ),
    Idle(
        ("SOLVER.MOMENTUM",),
        "SOLVER.OPTIMIZER is ADAMW",
        lambda cfg: cfg.SOLVER.OPTIMIZER.upper() == "ADAMW",
    ),
    Idle(("SOLVER.NESTEROV",), "SOLVER.OPTIMIZER is not SGD", lambda cfg: cfg.SOLVER.OPTIMIZER.upper() != "SGD"),
    Idle(
        ("SOLVER.MUON_*",),
        "SOLVER.OPTIMIZER is not MUON",
        lambda cfg: cfg.SOLVER.OPTIMIZER.upper() != "MUON",
    ),
    Idle(
        tuple(f"MODEL.DETR.DENOISING.{key}" for key in ("WEIGHT", "LABEL_NOISE", "BOX_NOISE", "NEGATIVES")),
        "MODEL.DETR.DENOISING.GROUPS is 0",
        lambda cfg: cfg.MODEL.DETR.DENOISING.GROUPS == 0,
    ),
    Idle(
        ("MODEL.DETR.LOSS.IOU_GAMMA",),
        "MODEL.DETR.LOSS.CLASSIFICATION is not mal",
        lambda cfg: cfg.MODEL.DETR.LOSS.CLASSIFICATION != "mal",
    ),
    Idle(
        ("MODEL.DETR.PAIR.ONE_TO_MANY_WEIGHT",),
        "MODEL.DETR.PAIR.QUERIES_PER_OBJECT is 1",
        lambda cfg: cfg.MODEL.DETR.PAIR.QUERIES_PER_OBJECT == 1,
    ),
    Idle(
        ("SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_METHOD", "SOLVER.RESCALE_INTERVAL"),
        "SOLVER.WARMUP_ITERS is 0",
        lambda cfg: cfg.SOLVER.WARMUP_ITERS == 0,
    ),
    Idle(
        ("SOLVER.BASE_LR_END",),
        f"SOLVER.LR_SCHEDULER_NAME is neither {COSINE} nor {STABLE_DECAY}",
        lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME not in (COSINE, STABLE_DECAY),
    ),
    Idle(
        ("SOLVER.GAMMA",),
        "SOLVER.LR_SCHEDULER_NAME does not multiply by it",
        lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME in (COSINE, STABLE_DECAY),
    ),
    Idle(
        ("SOLVER.NUM_DECAYS",),
        f"SOLVER.LR_SCHEDULER_NAME is not {FIXED_GAMMA}",
        lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME != FIXED_GAMMA,
    ),
)
