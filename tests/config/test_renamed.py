"""Keys of other projects' Detectron2 configs, and keys of before, are refused with the key to set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import get_cfg
from model_helpers import default_cfg, tiny_cfg

from pair_detr.checkpoint import required_config
from pair_detr.checkpoint.checkpointer import SavedCheckpoint
from pair_detr.checkpoint.weights import CheckpointError, require_config
from pair_detr.config import add_pair_detr_config
from pair_detr.config.renamed import COUNTERPARTS, RENAMED
from pair_detr.config.validation import flatten
from pair_detr.config_files import load_config
from pair_detr.engine.resume import differences

KNOWN = set(flatten(default_cfg()))

# What adds to Detectron2's keys in d2/detr/config.py of facebookresearch/detr, and in mask2former/config.py and
# detic/config.py of facebookresearch/Mask2Former and Detic, as far as it is of use in a config file.
DETR = {
    "MODEL.DETR": "GIOU_WEIGHT L1_WEIGHT DEEP_SUPERVISION NO_OBJECT_WEIGHT NHEADS DIM_FEEDFORWARD PRE_NORM "
    "NUM_OBJECT_QUERIES FROZEN_WEIGHTS"
}
DETR_UNCHANGED = {
    "MODEL.DETR": "NUM_CLASSES DROPOUT ENC_LAYERS DEC_LAYERS HIDDEN_DIM",
    "SOLVER": "OPTIMIZER BACKBONE_MULTIPLIER",
}
MASK2FORMER = {
    "INPUT": "DATASET_MAPPER_NAME COLOR_AUG_SSD SIZE_DIVISIBILITY IMAGE_SIZE MIN_SCALE MAX_SCALE",
    "INPUT.CROP": "SINGLE_CATEGORY_MAX_AREA",
    "SOLVER": "WEIGHT_DECAY_EMBED",
    "MODEL.MASK_FORMER": "DEEP_SUPERVISION NO_OBJECT_WEIGHT CLASS_WEIGHT DICE_WEIGHT MASK_WEIGHT NHEADS DROPOUT "
    "DIM_FEEDFORWARD ENC_LAYERS DEC_LAYERS PRE_NORM HIDDEN_DIM NUM_OBJECT_QUERIES TRANSFORMER_IN_FEATURE "
    "ENFORCE_INPUT_PROJ SIZE_DIVISIBILITY TRANSFORMER_DECODER_NAME TRAIN_NUM_POINTS OVERSAMPLE_RATIO "
    "IMPORTANCE_SAMPLE_RATIO",
    "MODEL.MASK_FORMER.TEST": "SEMANTIC_ON INSTANCE_ON PANOPTIC_ON OBJECT_MASK_THRESHOLD OVERLAP_THRESHOLD "
    "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",
    "MODEL.SEM_SEG_HEAD": "MASK_DIM TRANSFORMER_ENC_LAYERS PIXEL_DECODER_NAME "
    "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS",
    "MODEL.SWIN": "EMBED_DIM DEPTHS NUM_HEADS WINDOW_SIZE",
}
DETIC = {
    "": "WITH_IMAGE_LABELS FIND_UNUSED_PARAM FP16",
    "MODEL.ROI_BOX_HEAD": "USE_ZEROSHOT_CLS ZEROSHOT_WEIGHT_PATH ZEROSHOT_WEIGHT_DIM NORM_WEIGHT NORM_TEMP "
    "IGNORE_ZERO_CATS USE_BIAS MULT_PROPOSAL_SCORE PRIOR_PROB CAT_FREQ_PATH FED_LOSS_NUM_CAT "
    "IMAGE_LABEL_LOSS IMAGE_LOSS_WEIGHT IMAGE_BOX_SIZE ADD_IMAGE_BOX WS_NUM_PROPS WITH_SOFTMAX_PROP CAPTION_WEIGHT "
    "NEG_CAP_WEIGHT ADD_FEATURE_TO_PROP SOFTMAX_WEAK_LOSS FED_LOSS_FREQ_WEIGHT",
    "MODEL": "DATASET_LOSS_WEIGHT WITH_CAPTION CAP_BATCH_RATIO SYNC_CAPTION_BATCH DYNAMIC_CLASSIFIER NUM_SAMPLE_CATS "
    "RESET_CLS_TESTS TEST_CLASSIFIERS TEST_NUM_CLASSES",
    "MODEL.TIMM": "BASE_NAME OUT_LEVELS FREEZE_AT PRETRAINED",
    "MODEL.DETR": "CLS_WEIGHT NUM_FEATURE_LEVELS TWO_STAGE WITH_BOX_REFINE USE_FED_LOSS WEAK_WEIGHT FOCAL_ALPHA",
    "DATALOADER": "MULTI_DATASET_GROUPING USE_DIFF_BS_SIZE DATASET_INPUT_SIZE DATASET_INPUT_SCALE USE_TAR_DATASET "
    "TARFILE_PATH TAR_INDEX_DIR",
    "SOLVER": "USE_CUSTOM_SOLVER CUSTOM_MULTIPLIER CUSTOM_MULTIPLIER_NAME",
    "INPUT": "CUSTOM_AUG TRAIN_SIZE TEST_SIZE SCALE_RANGE TEST_INPUT_TYPE",
}
UNCHANGED_OF_DETIC = {
    "DATALOADER": "DATASET_RATIO USE_RFS DATASET_ANN DATASET_BS DATASET_MIN_SIZES DATASET_MAX_SIZES",
    "MODEL.ROI_BOX_HEAD": "USE_FED_LOSS",
    "MODEL.TIMM": "NORM",
}


def names(*groups: Mapping[str, str]) -> list[str]:
    return [f"{node}.{key}".lstrip(".") for group in groups for node, keys in group.items() for key in keys.split()]


def test_every_key_to_set_exists() -> None:
    ours = {key for counterpart in COUNTERPARTS.values() for key in counterpart.keys} | set(RENAMED.values())
    assert ours <= KNOWN
    assert not (COUNTERPARTS.keys() | RENAMED.keys()) & KNOWN
    assert all(counterpart.keys or counterpart.note for counterpart in COUNTERPARTS.values())


@pytest.mark.parametrize("key", names(DETR, MASK2FORMER, DETIC))
def test_keys_of_other_projects_name_ours(key: str, tmp_path: Path) -> None:
    expected = rf"{key} (is a key of another project: set [A-Z_0-9.]+|has no counterpart here: .+\. Remove it\.)"
    with pytest.raises(KeyError, match=expected):
        load_config("", [key, "1"])
    content: Any = 1
    for part in reversed(key.split(".")):
        content = {part: content}
    (tmp_path / "own.yaml").write_text(yaml.dump(content))
    with pytest.raises(KeyError, match=rf"own\.yaml: {expected}"):
        load_config(tmp_path / "own.yaml")


def test_keys_that_are_the_same_need_no_entry() -> None:
    assert set(names(DETR_UNCHANGED, UNCHANGED_OF_DETIC)) <= KNOWN


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("MODEL.DETR.GIOU_WEIGHT", "MODEL.DETR.COST.GIOU and MODEL.DETR.LOSS.GIOU (the weight in the matching"),
        ("MODEL.DETR.NHEADS", "MODEL.DETR.NUM_HEADS."),
        ("MODEL.MASK_FORMER.DIM_FEEDFORWARD", "MODEL.DETR.FFN_DIM."),
        ("MODEL.ROI_BOX_HEAD.NORM_TEMP", "MODEL.CLIP.LOGIT_SCALE."),
        ("MODEL.ROI_BOX_HEAD.ZEROSHOT_WEIGHT_PATH", "MODEL.CLIP.TEXT_WEIGHTS."),
        ("DATALOADER.DATASET_INPUT_SIZE", "DATALOADER.DATASET_MIN_SIZES and DATALOADER.DATASET_MAX_SIZES."),
        ("FP16", "SOLVER.AMP.ENABLED."),
    ],
)
def test_the_key_with_the_same_meaning_is_named(key: str, ours: str) -> None:
    with pytest.raises(KeyError) as error:
        load_config("", [key, "1"])
    assert f"{key} is a key of another project: set {ours}" in str(error.value)


def test_detr_s_own_config_is_answered_at_once(tmp_path: Path) -> None:
    """The part of d2/configs/detr_256_6_6_torchvision.yaml that has other names here: all are named in one message."""
    (tmp_path / "own.yaml").write_text(
        "MODEL: {MASK_ON: False, DETR: {GIOU_WEIGHT: 2.0, L1_WEIGHT: 5.0, NUM_OBJECT_QUERIES: 100}}\n"
        "SOLVER: {OPTIMIZER: ADAMW, BACKBONE_MULTIPLIER: 0.1}"
    )
    with pytest.raises(KeyError) as error:
        load_config(tmp_path / "own.yaml")
    for ours in ("MODEL.DETR.LOSS.GIOU", "MODEL.DETR.LOSS.L1", "set MODEL.DETR.NUM_QUERIES"):
        assert ours in str(error.value)


def test_detectron2_s_own_merging_names_them() -> None:
    cfg = default_cfg()
    with pytest.raises(KeyError, match=r"MODEL\.DETR\.GIOU_WEIGHT was renamed to .*MODEL\.DETR\.LOSS\.GIOU"):
        cfg.merge_from_list(["MODEL.DETR.GIOU_WEIGHT", 2.0])
    with pytest.raises(KeyError, match=r"MODEL\.CLIP\.TEMPERATURE was renamed to MODEL\.CLIP\.LOGIT_SCALE"):
        cfg.clone().merge_from_other_cfg(type(cfg)({"MODEL": {"CLIP": {"TEMPERATURE": 1.0}}}))


def test_the_old_name_of_the_scale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("MODEL: {CLIP: {TEMPERATURE: 40.0}}")
    with pytest.raises(KeyError, match=r"MODEL\.CLIP\.TEMPERATURE is called MODEL\.CLIP\.LOGIT_SCALE now: rename it"):
        load_config(tmp_path / "own.yaml")
    with pytest.raises(KeyError, match=r"MODEL\.CLIP\.TEMPERATURE is called MODEL\.CLIP\.LOGIT_SCALE now: rename it"):
        load_config("", ["MODEL.CLIP.TEMPERATURE", "40.0"])


def test_checkpoints_of_before_are_compared_under_the_new_name(tmp_path: Path) -> None:
    cfg = tiny_cfg("detr")
    cfg.MODEL.CLIP.TEXT_WEIGHTS = "texts.npy"
    saved = {RENAMED_BACK.get(key, key): value for key, value in required_config(cfg).items()}
    assert saved["MODEL.CLIP.TEMPERATURE"] == 50
    require_config(saved, cfg, "The weights do")
    checkpoint = SavedCheckpoint(tmp_path / "model.pth", {"training": {"MODEL.CLIP.TEMPERATURE": 50.0}})
    assert differences(checkpoint, {"MODEL.CLIP.LOGIT_SCALE": 50.0}) == []
    cfg.MODEL.CLIP.LOGIT_SCALE = 20.0
    with pytest.raises(CheckpointError, match=r"MODEL\.CLIP\.LOGIT_SCALE is 20\.0, the weights need 50\.0"):
        require_config(saved, cfg, "The weights do")
    (found,) = differences(checkpoint, {"MODEL.CLIP.LOGIT_SCALE": 20.0})
    assert str(found) == "MODEL.CLIP.LOGIT_SCALE was 50.0 and is 20.0"
    assert found.is_refused


RENAMED_BACK = {new: old for old, new in RENAMED.items()}


def test_a_config_can_be_given_the_keys_twice() -> None:
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    add_pair_detr_config(cfg)
    assert cfg.key_is_renamed("MODEL.CLIP.TEMPERATURE")
