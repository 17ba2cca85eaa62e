"""Rows of classifiers, and what else a conversion knows about weights."""

import pytest
import torch
from conversion_helpers import assert_same, laid_out, layout_of, theirs, tiny_state
from model_helpers import tiny_resnet_cfg

from pair_detr.checkpoint import Checkpoint, ConversionError, config_mismatches, convert
from pair_detr.checkpoint.coco_ids import COCO_IDS, COCO_NAMES


def test_coco_ids_are_those_of_the_official_code() -> None:
    unused = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert sorted(set(range(91)) - unused) == COCO_IDS


@pytest.mark.parametrize(("variant", "rows"), [("conditional_detr", 80), ("detr", 81)])
def test_raw_ids_become_classes(variant: str, rows: int) -> None:
    state = theirs(variant, variant, num_classes=91)
    converted = convert(Checkpoint(state))
    expected = state["class_embed.weight"][[*COCO_IDS, 91][:rows]]
    assert torch.equal(converted.model["detector.class_head.weight"], expected)
    assert len(converted.model["detector.class_head.bias"]) == rows
    assert converted.metadata["num_classes"] == converted.metadata["config"]["MODEL.DETR.NUM_CLASSES"] == 80
    assert converted.metadata["class_names"] == COCO_NAMES
    for options in ({"keep_91": True}, {"num_classes": 91}):
        kept = convert(Checkpoint(state), **options)
        assert_same(kept.model, tiny_state(variant, 91))
        assert kept.metadata["class_names"][:2] == ["N/A", "person"]


def test_detrex_and_official_weights_agree() -> None:
    """detrex keeps the rows of the 80 ids that are used."""
    official = theirs("conditional_detr", "conditional_detr", num_classes=91)
    converted = convert(Checkpoint(official)).model
    detrex = laid_out(converted, layout_of("detrex", "conditional_detr"))
    assert torch.equal(detrex["class_embed.bias"], official["class_embed.bias"][COCO_IDS])
    assert_same(convert(Checkpoint(detrex)).model, converted)


def test_own_91_classes_are_kept() -> None:
    state = theirs("transformers", "conditional_detr", num_classes=91)
    names = [f"name {i}" for i in range(91)]
    own = convert(Checkpoint(state, hints={"class_names": names}))
    assert own.metadata["class_names"] == names
    assert len(own.model["detector.class_head.bias"]) == 91
    misspelt = dict(zip(COCO_IDS, COCO_NAMES, strict=True)) | {72: "tvmonitor"}
    for names in ([f"LABEL_{i}" for i in range(91)], [misspelt.get(i, "street sign") for i in range(91)]):
        metadata = convert(Checkpoint(state, hints={"class_names": names})).metadata
        assert metadata["class_names"] == COCO_NAMES


def test_the_number_of_classes_can_be_required() -> None:
    state = theirs("detr", "detr")
    assert convert(Checkpoint(state), num_classes=3).metadata["num_classes"] == 3
    with pytest.raises(ConversionError, match="for 3 classes, --num-classes is 80"):
        convert(Checkpoint(state), num_classes=80)


def test_misfits_with_a_config() -> None:
    cfg = tiny_resnet_cfg("conditional_detr", NUM_QUERIES=20)
    settings = convert(Checkpoint(theirs("conditional_detr", "conditional_detr"))).metadata["config"]
    assert config_mismatches(settings, cfg) == []
    cfg.MODEL.DETR.NUM_CLASSES = 0
    assert config_mismatches(settings, cfg) == []
    cfg.INPUT.FORMAT = "BGR"
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    cfg.MODEL.RESNETS.DEPTH = 101
    assert config_mismatches(settings, cfg) == [
        "INPUT.FORMAT is BGR, the weights need RGB",
        "MODEL.PIXEL_STD is [1.0, 1.0, 1.0], the weights need [58.395, 57.12, 57.375]",
        "MODEL.RESNETS.DEPTH is 101, the weights need 50",
    ]
