"""Config keys that have another name here: those of an earlier version, and those of related Detectron2 projects.

The projects are DETR's wrapper (facebookresearch/detr, d2), Detic and Mask2Former. Their keys that are the same here
(MODEL.DETR.HIDDEN_DIM, SOLVER.BACKBONE_MULTIPLIER, DATALOADER.DATASET_RATIO, ...) need no entry.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from detectron2.config import CfgNode

# Keys of this project under the names that they had before.
RENAMED: Mapping[str, str] = {"MODEL.CLIP.TEMPERATURE": "MODEL.CLIP.LOGIT_SCALE"}


class Counterpart(NamedTuple):
    """What takes the place of a key of another project.

    Attributes:
        keys: the config keys to set instead; empty if there are none.
        note: how they differ, or why there are none.
    """

    keys: tuple[str, ...] = ()
    note: str = ""


def _to(*keys: str, note: str = "") -> Counterpart:
    return Counterpart(keys, note)


def _none(why: str) -> Counterpart:
    return Counterpart((), why)


_TRANSFORMER = {
    "DEEP_SUPERVISION": _to("MODEL.DETR.LOSS.DEEP_SUPERVISION"),
    "NO_OBJECT_WEIGHT": _to("MODEL.DETR.LOSS.NO_OBJECT_WEIGHT"),
    "NHEADS": _to("MODEL.DETR.NUM_HEADS"),
    "DIM_FEEDFORWARD": _to("MODEL.DETR.FFN_DIM"),
    "NUM_OBJECT_QUERIES": _to("MODEL.DETR.NUM_QUERIES"),
    "PRE_NORM": _none("layers are normalized after each block, as by PRE_NORM False, which is the default"),
}
_COST_AND_LOSS = "the weight in the matching and that in the loss"

_DETR = {
    **_TRANSFORMER,
    "GIOU_WEIGHT": _to("MODEL.DETR.COST.GIOU", "MODEL.DETR.LOSS.GIOU", note=_COST_AND_LOSS),
    "L1_WEIGHT": _to("MODEL.DETR.COST.L1", "MODEL.DETR.LOSS.L1", note=_COST_AND_LOSS),
    "CLS_WEIGHT": _to("MODEL.DETR.COST.CLASS", "MODEL.DETR.LOSS.CLASS", note=_COST_AND_LOSS),
    "FROZEN_WEIGHTS": _to(
        "MODEL.WEIGHTS", "MODEL.DETR.MASK.FREEZE_DETECTOR", note="the weights, and True to train the mask head alone"
    ),
    "FOCAL_ALPHA": _to("MODEL.DETR.LOSS.FOCAL_ALPHA"),
    "USE_FED_LOSS": _to("MODEL.DETR.LOSS.FEDERATED_CLASSES", note="the number of classes, 0 for all"),
    "WEAK_WEIGHT": _to("MODEL.DETR.IMAGE_LABELS.WEIGHT"),
    "NUM_FEATURE_LEVELS": _none("the transformer sees a single feature map; there is no deformable attention"),
    "TWO_STAGE": _to("MODEL.DETR.QUERY_SELECTION", "MODEL.DETR.DENSE.ENABLED"),
    "WITH_BOX_REFINE": _to("MODEL.DETR.BOX_REFINEMENT", note="layers is True; it needs QUERY_SELECTION boxes"),
}

_MASK_FORMER = {
    **_TRANSFORMER,
    "CLASS_WEIGHT": _to("MODEL.DETR.COST.CLASS", "MODEL.DETR.LOSS.CLASS", note=_COST_AND_LOSS),
    "DICE_WEIGHT": _to("MODEL.DETR.LOSS.DICE", note="masks play no part in the matching"),
    "MASK_WEIGHT": _to("MODEL.DETR.LOSS.MASK", note="masks play no part in the matching"),
    **{key: _to(f"MODEL.DETR.{key}") for key in ("HIDDEN_DIM", "DROPOUT", "ENC_LAYERS", "DEC_LAYERS")},
    "TEST.INSTANCE_ON": _to("MODEL.MASK_ON"),
    "TEST.PANOPTIC_ON": _to("MODEL.DETR.PANOPTIC.ENABLED"),
    "TEST.SEMANTIC_ON": _to("MODEL.DETR.PANOPTIC.ENABLED", note="panoptic models also return sem_seg"),
    "TEST.OBJECT_MASK_THRESHOLD": _to("MODEL.DETR.PANOPTIC.SCORE_THRESHOLD"),
    "*": _none("the mask head is DETR's, see MODEL.DETR.MASK, and not Mask2Former's"),
}

_NO_CAPTIONS = _none("there are no captions here, only image labels")
_DETIC_BOX_HEAD = {
    "USE_ZEROSHOT_CLS": _to("MODEL.CLIP.TEXT_WEIGHTS", note="a file turns the text classifier on"),
    "ZEROSHOT_WEIGHT_PATH": _to("MODEL.CLIP.TEXT_WEIGHTS"),
    "ZEROSHOT_WEIGHT_DIM": _none("the width is that of the file MODEL.CLIP.TEXT_WEIGHTS"),
    "NORM_TEMP": _to("MODEL.CLIP.LOGIT_SCALE"),
    "NORM_WEIGHT": _none("queries and texts are always normalized, as by NORM_WEIGHT True"),
    "USE_BIAS": _to("MODEL.DETR.LOSS.PRIOR_PROB", note="the bias is learned, and starts at this probability"),
    "PRIOR_PROB": _to("MODEL.DETR.LOSS.PRIOR_PROB"),
    "IMAGE_LABEL_LOSS": _to("MODEL.DETR.IMAGE_LABELS.LOSS"),
    "IMAGE_LOSS_WEIGHT": _to("MODEL.DETR.IMAGE_LABELS.WEIGHT"),
    "FED_LOSS_NUM_CAT": _to("MODEL.DETR.LOSS.FEDERATED_CLASSES"),
    "FED_LOSS_FREQ_WEIGHT": _to("MODEL.DETR.LOSS.FEDERATED_POWER"),
    "CAT_FREQ_PATH": _none("the images of each class are counted in the dataset"),
    "IGNORE_ZERO_CATS": _none("the federated loss ignores classes without annotations anyway"),
    "CAPTION_WEIGHT": _NO_CAPTIONS,
    "NEG_CAP_WEIGHT": _NO_CAPTIONS,
    **dict.fromkeys(
        ("MULT_PROPOSAL_SCORE", "IMAGE_BOX_SIZE", "ADD_IMAGE_BOX", "WS_NUM_PROPS", "ADD_FEATURE_TO_PROP"),
        _none("a DETR takes no proposals"),
    ),
    **dict.fromkeys(
        ("WITH_SOFTMAX_PROP", "SOFTMAX_WEAK_LOSS"),
        _to("MODEL.DETR.IMAGE_LABELS.LOSS", note="wsddn takes a softmax over the queries"),
    ),
}

_DETIC = {
    "WITH_IMAGE_LABELS": _to("DATALOADER.SAMPLER_TRAIN", note="MultiDatasetSampler mixes boxes with image labels"),
    "FP16": _to("SOLVER.AMP.ENABLED"),
    "MODEL.DATASET_LOSS_WEIGHT": _to(
        "MODEL.DETR.IMAGE_LABELS.WEIGHT", "DATALOADER.DATASET_RATIO", note="losses of boxes have no weight by dataset"
    ),
    "MODEL.WITH_CAPTION": _NO_CAPTIONS,
    "MODEL.CAP_BATCH_RATIO": _NO_CAPTIONS,
    "MODEL.SYNC_CAPTION_BATCH": _NO_CAPTIONS,
    "MODEL.DYNAMIC_CLASSIFIER": _to("MODEL.DETR.LOSS.FEDERATED_CLASSES", note="the classes of a batch, 0 for all"),
    "MODEL.NUM_SAMPLE_CATS": _to("MODEL.DETR.LOSS.FEDERATED_CLASSES"),
    "MODEL.RESET_CLS_TESTS": _to("MODEL.CLIP.TEXT_WEIGHTS", note="of the classes to test, in a run of --eval-only"),
    "MODEL.TEST_CLASSIFIERS": _to("MODEL.CLIP.TEXT_WEIGHTS", note="of the classes to test, in a run of --eval-only"),
    "MODEL.TEST_NUM_CLASSES": _none("the number of classes is that of MODEL.CLIP.TEXT_WEIGHTS"),
    "MODEL.TIMM.BASE_NAME": _to("MODEL.TIMM.NAME"),
    "MODEL.TIMM.OUT_LEVELS": _to("MODEL.TIMM.OUT_INDICES", note="counted from 0"),
    "MODEL.TIMM.FREEZE_AT": _to("MODEL.BACKBONE.FREEZE_AT"),
    "MODEL.TIMM.PRETRAINED": _to("MODEL.TIMM.WEIGHTS", note="a file, or hub://timm/NAME/model.safetensors"),
    "DATALOADER.DATASET_INPUT_SIZE": _to("DATALOADER.DATASET_MIN_SIZES", "DATALOADER.DATASET_MAX_SIZES"),
    "DATALOADER.DATASET_INPUT_SCALE": _to("DATALOADER.DATASET_MIN_SIZES", note="a range of sizes in pixels"),
    "DATALOADER.USE_DIFF_BS_SIZE": _to("DATALOADER.DATASET_BS", note="which counts where it is set"),
    "DATALOADER.MULTI_DATASET_GROUPING": _none("each batch is of one dataset anyway"),
    "DATALOADER.USE_TAR_DATASET": _none("images are files: unpack them, and register the folder by DATASETS.REGISTER"),
    "DATALOADER.TARFILE_PATH": _none("images are files: unpack them, and register the folder by DATASETS.REGISTER"),
    "DATALOADER.TAR_INDEX_DIR": _none("images are files: unpack them, and register the folder by DATASETS.REGISTER"),
    "SOLVER.USE_CUSTOM_SOLVER": _to("SOLVER.OPTIMIZER"),
    "SOLVER.CUSTOM_MULTIPLIER*": _to("SOLVER.BACKBONE_MULTIPLIER", note="there is a multiplier for the backbone alone"),
    "INPUT.CUSTOM_AUG": _to("INPUT.LARGE_SCALE_JITTER.ENABLED", note="EfficientDetResizeCrop's effect"),
    "INPUT.TRAIN_SIZE": _to("INPUT.FIXED_SIZE"),
    "INPUT.TEST_SIZE": _to("INPUT.FIXED_SIZE"),
    "INPUT.SCALE_RANGE": _to("INPUT.LARGE_SCALE_JITTER.SCALE_RANGE"),
    "INPUT.TEST_INPUT_TYPE": _to("INPUT.FIXED_SIZE", note="square is a fixed size, default is ()"),
    "FIND_UNUSED_PARAM": _none("all parameters that are trained take part in each step"),
}

_CENTERNET = _none("detections come from queries, and not from CenterNet's proposals or a cascade")
_DETIC |= {
    "MODEL.CENTERNET.*": _CENTERNET,
    "MODEL.ROI_HEADS.ONE_CLASS_PER_PROPOSAL": _CENTERNET,
    "MODEL.ROI_HEADS.MASK_WEIGHT": _to("MODEL.DETR.LOSS.MASK", "MODEL.DETR.LOSS.DICE"),
    "MODEL.FPN.USE_P6P7": _none("one feature map is encoded"),
    "MODEL.BIFPN.*": _none("one feature map is encoded"),
    "SOLVER.RESET_ITER": _none("a training goes on with --resume, and starts anew without"),
    "EVAL_*": _none("the evaluator follows from the dataset"),
}

_MASK2FORMER = {
    "SOLVER.POLY_LR_*": _to("SOLVER.LR_SCHEDULER_NAME", note="WarmupMultiStepLR or WarmupCosineLR"),
    "INPUT.DATASET_MAPPER_NAME": _none("there is one mapper, which follows the other keys under INPUT"),
    "INPUT.COLOR_AUG_SSD": _to("INPUT.COLOR_JITTER.ENABLED"),
    "INPUT.SIZE_DIVISIBILITY": _none("batches are padded to their largest image, or to INPUT.FIXED_SIZE"),
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": _none("the crop is INPUT.RESIZE_CROP, which looks at no classes"),
    "INPUT.IMAGE_SIZE": _to("INPUT.FIXED_SIZE", note="height and width"),
    "INPUT.MIN_SCALE": _to("INPUT.LARGE_SCALE_JITTER.SCALE_RANGE"),
    "INPUT.MAX_SCALE": _to("INPUT.LARGE_SCALE_JITTER.SCALE_RANGE"),
    "SOLVER.WEIGHT_DECAY_EMBED": _to("SOLVER.WEIGHT_DECAY", note="which embeddings have as all other parameters"),
    "MODEL.RESNETS.STEM_TYPE": _none("the stem is Detectron2's basic one; others are those of timm's models"),
    "MODEL.RESNETS.RES5_MULTI_GRID": _to("MODEL.RESNETS.RES5_DILATION", note="one dilation for all blocks"),
    "MODEL.SWIN.*": _to("MODEL.TIMM.NAME", note="with MODEL.BACKBONE.NAME build_timm_backbone, a Swin of timm"),
    **dict.fromkeys(
        ("MODEL.SEM_SEG_HEAD.MASK_DIM", "MODEL.SEM_SEG_HEAD.*TRANSFORMER_*", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"),
        _none("there is no pixel decoder: the mask head is DETR's, see MODEL.DETR.MASK"),
    ),
}

# By the full name of a key, * standing for any characters; the first that matches counts.
COUNTERPARTS: Mapping[str, Counterpart] = {
    **{f"MODEL.DETR.{key}": counterpart for key, counterpart in _DETR.items()},
    **{f"MODEL.MASK_FORMER.{key}": counterpart for key, counterpart in _MASK_FORMER.items()},
    **{f"MODEL.ROI_BOX_HEAD.{key}": counterpart for key, counterpart in _DETIC_BOX_HEAD.items()},
    **_DETIC,
    **_MASK2FORMER,
}


def describe_renamed(key: str) -> str:
    """What to do about a key that has another name here, a sentence; "" for all other keys."""
    if key in RENAMED:
        return f"{key} is called {RENAMED[key]} now: rename it."
    found = next((value for pattern, value in COUNTERPARTS.items() if fnmatchcase(key, pattern)), None)
    if found is None:
        return ""
    if not found.keys:
        return f"{key} has no counterpart here: {found.note}. Remove it."
    note = f" ({found.note})" if found.note else ""
    return f"{key} is a key of another project: set {' and '.join(found.keys)}{note}."


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a config, by full names as an earlier version may have written them, by those of today."""
    return {RENAMED.get(key, key): value for key, value in settings.items()}


def register_renamed_keys(cfg: CfgNode) -> None:
    """Lets Detectron2's own ``merge_from_file`` name the key to set, for those under the project's own nodes."""
    if any(cfg.key_is_renamed(old) for old in RENAMED):
        return
    for old, new in RENAMED.items():
        cfg.register_renamed_key(old, new)
    for old, counterpart in COUNTERPARTS.items():
        # Other nodes may be those of another project in the same program.
        if old.startswith("MODEL.DETR.") and counterpart.keys:
            cfg.register_renamed_key(old, " and ".join(counterpart.keys), counterpart.note or None)
