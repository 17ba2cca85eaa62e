"""The values that each config key can have, in one table.

What keys require of each other is in :mod:`pair_detr.config.conflicts`.

What is left to others: names and files, which the readers of these know; ``DATASETS.REGISTER`` and
``DATALOADER.DATASET_*``, whose entries belong to datasets (:mod:`pair_detr.data`).
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from pair_detr.config.choices import IMAGE_CHANNELS, LR_SCHEDULERS, PRECISIONS, SAMPLERS
from pair_detr.config.conflicts import conflicts
from pair_detr.config.rules import (
    BELOW_ONE,
    BELOW_ONE_OR_DROPOUT,
    FINITE,
    FLAG,
    FRACTION,
    INNER_FRACTION,
    NOT_NEGATIVE,
    NOT_NEGATIVE_WHOLE,
    POSITIVE,
    POSITIVE_WHOLE,
    WEIGHT,
    WEIGHT_OR_AUTO,
    Rule,
    ascending,
    each,
    is_list,
    is_number,
    is_whole,
    number,
    one_of,
    optional,
    registered,
    whole,
)
from pair_detr.config.variants import VARIANTS

_POINTS = one_of(("center", "top_left"))
_PIXELS = POSITIVE_WHOLE._replace(meaning="a whole number of pixels, 1 or more")
_SIZE = each(_PIXELS, 2)._replace(meaning="a height and a width in pixels, as (1024, 1024)")
_CROP_SIDES = ascending(POSITIVE_WHOLE, 2, strictly=False)._replace(
    meaning="the smallest and the largest side of the crop in pixels, in this order"
)
_NORMS = one_of(("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "LN"))
# Above it NumPy refuses seeds; each process adds its rank.
_MAX_SEED = 2**31


def _is_device(value: Any) -> bool:
    try:
        device = torch.device(value)
        if device.type == "cuda" and torch.cuda.is_available():
            return (device.index or 0) < torch.cuda.device_count()
        # Whether this build of PyTorch has it; on "meta" nothing is computed. Without CUDA, see below.
        return device.type in ("cpu", "cuda") or (
            device.type != "meta" and torch.empty(0, device=device).device.type == device.type
        )
    except (RuntimeError, TypeError, NotImplementedError, AssertionError, ImportError):
        return False


def _is_result(value: Any) -> bool:
    return (
        is_list(value)
        and len(value) == 4
        and all(isinstance(name, str) for name in value[:2])
        and all(map(is_number, value[2:]))
    )


_NAMES = Rule(
    lambda value: is_list(value) and all(isinstance(name, str) and name for name in value),
    "a list of names, also for a single one, as ('shapes_train',)",
)
_DEVICE = Rule(_is_device, "cpu, cuda or, for one of several GPUs of this machine, cuda:0 and so on")

_GENERAL = {
    "OUTPUT_DIR": Rule(
        lambda value: isinstance(value, (str, os.PathLike)) and bool(str(value).strip()),
        "the path of a folder, for example ./output",
    ),
    "SEED": Rule(lambda value: is_whole(value) and value < _MAX_SEED, "a whole number below 2**31; -1 draws one"),
    "DATASETS.TRAIN": _NAMES,
    "DATASETS.TEST": _NAMES,
    "DATALOADER.NUM_WORKERS": NOT_NEGATIVE_WHOLE,
    "DATALOADER.SAMPLER_TRAIN": one_of(SAMPLERS),
    "DATALOADER.REPEAT_THRESHOLD": FRACTION,
    "TEST.EVAL_PERIOD": whole(0, ", where 0 evaluates at the end only"),
    "TEST.DETECTIONS_PER_IMAGE": POSITIVE_WHOLE,
    "TEST.MAX_DETECTIONS": whole(0, ", where 0 is the evaluator's default"),
    "TEST.OBJECTNESS_POWER": NOT_NEGATIVE,
    "TEST.NMS_THRESH": FRACTION,
    "TEST.IMS_PER_BATCH": POSITIVE_WHOLE,
    "TEST.PRECISION": one_of(PRECISIONS),
    "TRACKERS": optional(each(one_of(("wandb", "mlflow"))), (), "or () for none"),
    "TEST.PICTURES": whole(0, ", where 0 draws none"),
    "TEST.PATIENCE": whole(0, ", where 0 never stops early"),
    "TEST.BEST_METRIC": Rule(lambda value: isinstance(value, str), "the name of a metric, as 'bbox/AP50'; '' chooses"),
    "TEST.PRECISE_BN.NUM_ITER": POSITIVE_WHOLE,
    "TEST.EXPECTED_RESULTS": Rule(
        lambda value: is_list(value) and all(map(_is_result, value)),
        "a list of [task, metric, value, tolerance], as [['bbox', 'AP', 38.5, 0.2]]",
    ),
}

_MODEL = {
    "MODEL.DEVICE": _DEVICE,
    "MODEL.META_ARCHITECTURE": registered(META_ARCH_REGISTRY)._replace(
        choices=lambda: "; this project's is DetectionTransformer, whatever the variant"
    ),
    "MODEL.PIXEL_MEAN": each(FINITE),
    "MODEL.PIXEL_STD": each(POSITIVE),
    "MODEL.BACKBONE.NAME": registered(BACKBONE_REGISTRY),
    "MODEL.BACKBONE.FREEZE_AT": whole(0, ", where 0 trains all stages"),
    "MODEL.FPN.OUT_CHANNELS": POSITIVE_WHOLE,
    "MODEL.FPN.FUSE_TYPE": one_of(("sum", "avg")),
    "MODEL.FPN.NORM": _NORMS,
    "MODEL.RESNETS.DEPTH": one_of((18, 34, 50, 101, 152)),
    "MODEL.RESNETS.OUT_FEATURES": each(one_of(("stem", "res2", "res3", "res4", "res5"))),
    "MODEL.RESNETS.NUM_GROUPS": POSITIVE_WHOLE,
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.RESNETS.WIDTH_PER_GROUP": POSITIVE_WHOLE,
    "MODEL.RESNETS.RES5_DILATION": one_of((1, 2)),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": POSITIVE_WHOLE,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": POSITIVE_WHOLE,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": each(FLAG, 4),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": POSITIVE_WHOLE,
    "MODEL.TIMM.OUT_INDICES": each(Rule(is_whole, "a whole number, counted from the end where it is negative")),
    "MODEL.TIMM.NORM": one_of(("FrozenBN", "BN")),
    "MODEL.CONVNET.CHANNELS": each(POSITIVE_WHOLE),
    "MODEL.CLIP.LOGIT_SCALE": POSITIVE,
    "MODEL.CLIP.QUERIES": one_of(("none", "content", "position", "cross_attention")),
    "MODEL.CLIP.WILDCARD_SCORE": FRACTION,
    "MODEL.CLIP.REGION.ALPHA": FRACTION,
    "MODEL.CLIP.REGION.BETA": FRACTION,
    "MODEL.CLIP.REGION.TEMPERATURE": POSITIVE,
    "MODEL.CLIP.REGION.BASE_CLASSES": _NAMES,
    "MODEL.CLIP.PROMPTS": each(
        Rule(lambda value: isinstance(value, str) and "{}" in value, "text with {} for the name, as 'a {}'")
    ),
}

_DETR = {
    "MODEL.DETR.VARIANT": Rule(
        lambda value: value in VARIANTS, "the name of a variant: ", lambda: f"{', '.join(VARIANTS)}, or one of your own"
    ),
    "MODEL.DETR.NUM_CLASSES": whole(0, ", where 0 takes the number from the data"),
    "MODEL.DETR.NUM_QUERIES": POSITIVE_WHOLE,
    "MODEL.DETR.HIDDEN_DIM": POSITIVE_WHOLE,
    "MODEL.DETR.NUM_HEADS": POSITIVE_WHOLE,
    "MODEL.DETR.ENC_LAYERS": NOT_NEGATIVE_WHOLE,
    "MODEL.DETR.DEC_LAYERS": POSITIVE_WHOLE,
    "MODEL.DETR.FFN_DIM": POSITIVE_WHOLE,
    "MODEL.DETR.DROPOUT": BELOW_ONE,
    "MODEL.DETR.ATTENTION_DROPOUT": BELOW_ONE_OR_DROPOUT,
    "MODEL.DETR.COST.CLASS": WEIGHT_OR_AUTO,
    "MODEL.DETR.COST.L1": WEIGHT,
    "MODEL.DETR.COST.GIOU": WEIGHT,
    "MODEL.DETR.LOSS.CLASSIFICATION": one_of(("auto", "focal", "softmax", "mal")),
    "MODEL.DETR.LOSS.IOU_GAMMA": NOT_NEGATIVE,
    "MODEL.DETR.QUERY_SELECTION": one_of(("none", "points", "boxes")),
    "MODEL.DETR.QUERY_GROUPS": POSITIVE_WHOLE,
    "MODEL.DETR.BOX_REFINEMENT": one_of(("none", "layers", "look_forward_twice")),
    "MODEL.DETR.DENSE.TOKENS_PER_OBJECT": POSITIVE_WHOLE,
    "MODEL.DETR.DENSE.WEIGHT": WEIGHT,
    "MODEL.DETR.DENSE.BOX_SIZE": INNER_FRACTION,
    "MODEL.DETR.DENOISING.GROUPS": NOT_NEGATIVE_WHOLE,
    "MODEL.DETR.DENOISING.WEIGHT": WEIGHT,
    "MODEL.DETR.DENOISING.LABEL_NOISE": FRACTION,
    "MODEL.DETR.DENOISING.BOX_NOISE": NOT_NEGATIVE,
    "MODEL.DETR.LOSS.CLASS": WEIGHT_OR_AUTO,
    "MODEL.DETR.LOSS.L1": WEIGHT,
    "MODEL.DETR.LOSS.GIOU": WEIGHT,
    "MODEL.DETR.LOSS.FOCAL_ALPHA": FRACTION,
    "MODEL.DETR.LOSS.FOCAL_GAMMA": NOT_NEGATIVE,
    "MODEL.DETR.LOSS.PRIOR_PROB": INNER_FRACTION,
    "MODEL.DETR.LOSS.NO_OBJECT_WEIGHT": POSITIVE,
    "MODEL.DETR.LOSS.MASK": WEIGHT,
    "MODEL.DETR.LOSS.DICE": WEIGHT,
    "MODEL.DETR.LOSS.FEDERATED_CLASSES": whole(0, ", where 0 is all classes"),
    "MODEL.DETR.LOSS.FEDERATED_POWER": NOT_NEGATIVE,
    "MODEL.DETR.IMAGE_LABELS.LOSS": one_of(
        ("max_size", "max_score", "first", "image", "min_loss", "wsddn", "pair_score", "objectness", "object_score")
    ),
    "MODEL.DETR.IMAGE_LABELS.WEIGHT": WEIGHT,
    "MODEL.DETR.PAIR.BOX_DECODING": one_of(("center", "pair")),
    "MODEL.DETR.PAIR.CLASS_DECODER": _POINTS,
    "MODEL.DETR.PAIR.QUERIES_PER_OBJECT": POSITIVE_WHOLE,
    "MODEL.DETR.PAIR.ONE_TO_MANY_WEIGHT": WEIGHT,
    "MODEL.DETR.PAIR.TOP_LEFT_WEIGHT": WEIGHT,
    "MODEL.DETR.PAIR.CONTRASTIVE_LOSS": one_of(("nt_xent", "cross")),
    "MODEL.DETR.PAIR.CONTRASTIVE_WEIGHT": WEIGHT,
    "MODEL.DETR.PAIR.TEMPERATURE": POSITIVE,
    "MODEL.DETR.PAIR.CONTRASTIVE_LAYERS": one_of(("last", "all")),
    "MODEL.DETR.PAIR.PROJECTION_DIM": whole(0, ", where 0 projects nothing"),
    "MODEL.DETR.MASK.QUERY_DECODER": _POINTS,
    "MODEL.DETR.PANOPTIC.SCORE_THRESHOLD": BELOW_ONE,
    "MODEL.DETR.PANOPTIC.MIN_AREA": NOT_NEGATIVE_WHOLE,
}

_INPUT = {
    "INPUT.FORMAT": one_of(IMAGE_CHANNELS),
    "INPUT.MIN_SIZE_TRAIN": each(whole(0, ", where 0 resizes nothing")),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": POSITIVE_WHOLE,
    "INPUT.MIN_SIZE_TEST": whole(0, ", where 0 resizes nothing"),
    "INPUT.MAX_SIZE_TEST": POSITIVE_WHOLE,
    "INPUT.RANDOM_FLIP": one_of(("none", "horizontal", "vertical")),
    "INPUT.RESIZE_CROP.PROB": FRACTION,
    "INPUT.RESIZE_CROP.SCALES": each(_PIXELS),
    "INPUT.RESIZE_CROP.SIZE_RANGE": _CROP_SIDES,
    "INPUT.FIXED_SIZE": optional(_SIZE, (), "or () for none"),
    "INPUT.SIZE_BUCKETS": optional(each(_SIZE), (), "or [] for none"),
    "INPUT.LARGE_SCALE_JITTER.SCALE_RANGE": ascending(POSITIVE, 2, strictly=False),
    "INPUT.MOSAIC.PROB": FRACTION,
    "INPUT.MOSAIC.CENTER_RANGE": ascending(INNER_FRACTION, 2, strictly=False),
    "INPUT.MOSAIC.SCALE_RANGE": ascending(POSITIVE, 2, strictly=False),
    "INPUT.CHANNEL_PERMUTATION": FRACTION,
    "INPUT.COLOR_JITTER.PROB": FRACTION,
    "INPUT.COLOR_JITTER.BRIGHTNESS": FRACTION,
    "INPUT.COLOR_JITTER.CONTRAST": FRACTION,
    "INPUT.COLOR_JITTER.SATURATION": FRACTION,
    "INPUT.COLOR_JITTER.HUE": number(lambda value: 0 <= value <= 0.5, "between 0 and 0.5"),
}

_SOLVER = {
    "SOLVER.OPTIMIZER": Rule(
        lambda value: isinstance(value, str) and value.upper() in ("ADAMW", "MUON", "SGD"), "one of ADAMW, MUON, SGD"
    ),
    "SOLVER.LR_SCHEDULER_NAME": one_of(LR_SCHEDULERS),
    "SOLVER.MAX_ITER": POSITIVE_WHOLE,
    "SOLVER.BASE_LR": POSITIVE,
    "SOLVER.BASE_LR_END": NOT_NEGATIVE,
    "SOLVER.MOMENTUM": BELOW_ONE,
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_BIAS": optional(NOT_NEGATIVE, None, "or None for that of the other parameters"),
    "SOLVER.GAMMA": POSITIVE,
    "SOLVER.STEPS": ascending(POSITIVE_WHOLE),
    "SOLVER.NUM_DECAYS": NOT_NEGATIVE_WHOLE,
    "SOLVER.WARMUP_FACTOR": NOT_NEGATIVE,
    "SOLVER.WARMUP_ITERS": NOT_NEGATIVE_WHOLE,
    "SOLVER.WARMUP_METHOD": one_of(("linear", "constant")),
    "SOLVER.CHECKPOINT_PERIOD": POSITIVE_WHOLE,
    "SOLVER.IMS_PER_BATCH": POSITIVE_WHOLE,
    "SOLVER.REFERENCE_WORLD_SIZE": whole(0, ", where 0 scales nothing"),
    "SOLVER.BIAS_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.BACKBONE_MULTIPLIER": NOT_NEGATIVE,
    "SOLVER.MUON_MULTIPLIER": POSITIVE,
    "SOLVER.MUON_BACKBONE_MULTIPLIER": NOT_NEGATIVE,
    "SOLVER.EMA_DECAY": BELOW_ONE._replace(meaning=f"{BELOW_ONE.meaning}, where 0 averages nothing"),
    "SOLVER.KEEP_CHECKPOINTS": whole(0, ", where 0 keeps all"),
    "SOLVER.ACCUMULATE_STEPS": POSITIVE_WHOLE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of(("full_model", "norm", "value")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    # The greatest of all gradients is their norm of type inf.
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Rule(
        lambda value: value == math.inf or POSITIVE.accepts(value), "above 0, such as 2.0; inf is the largest gradient"
    ),
    "SOLVER.AMP.DTYPE": one_of(("bfloat16", "float16")),
    "SOLVER.EPOCHS.MAX": number(lambda value: value >= 0, "0 or more, where 0 counts in iterations"),
    "SOLVER.EPOCHS.STEPS": ascending(POSITIVE),
    "SOLVER.EPOCHS.CHECKPOINT_PERIOD": number(lambda value: value >= 0, "0 or more, where 0 saves at the end only"),
    "SOLVER.EPOCHS.EVAL_PERIOD": number(lambda value: value >= 0, "0 or more, where 0 evaluates at the end only"),
}

# What a model is built from, on whatever device.
ARCHITECTURE = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_",
    *(f"MODEL.{name}." for name in ("BACKBONE", "FPN", "RESNETS", "TIMM", "CONVNET", "CLIP", "DETR")),
)

RULES: Mapping[str, Rule] = {**_GENERAL, **_MODEL, **_DETR, **_INPUT, **_SOLVER}


def describe_faults(
    values: Mapping[str, Any], defaults: Mapping[str, Any], has_effect: Callable[[str], bool]
) -> list[str]:
    """What is wrong with the values of a config, a sentence for each fault.

    Args:
        values: by the full names of their keys.
        defaults: of all keys; where one is True or False, so must be the value.
        has_effect: whether a key has; what the others hold does no harm.
    """
    rules = {key: FLAG for key in values if isinstance(defaults.get(key), bool)} | RULES
    faults = [
        f"{key} is {values[key]!r}; it must be {rule.meaning}{rule.choices()}."
        for key, rule in rules.items()
        if key in values and not rule.accepts(values[key]) and has_effect(key)
    ]
    # Relations take for granted that each value makes sense.
    return faults or list(conflicts({key: value for key, value in values.items() if has_effect(key)}))
