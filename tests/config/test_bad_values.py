"""Values that a model cannot have: the message names the key."""

from typing import Any

import pytest
from model_helpers import build, tiny_cfg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"VARIANT": "dab_detr"},
            r"MODEL\.DETR\.VARIANT is 'dab_detr'; it must be the name of a variant: conditional_detr, detr, pair_detr",
        ),
        (
            {"LOSS__CLASSIFICATION": "ce"},
            r"MODEL\.DETR\.LOSS\.CLASSIFICATION is 'ce'; it must be one of auto, focal, softmax",
        ),
        ({"PAIR__BOX_DECODING": "corner"}, r"MODEL\.DETR\.PAIR\.BOX_DECODING is 'corner'; .*center.*pair"),
        ({"PAIR__CONTRASTIVE_LAYERS": "first"}, r"MODEL\.DETR\.PAIR\.CONTRASTIVE_LAYERS is 'first'; .*last.*all"),
        ({"PAIR__CONTRASTIVE_LOSS": "clip"}, r"MODEL\.DETR\.PAIR\.CONTRASTIVE_LOSS is 'clip'; .*nt_xent, cross"),
        ({"NUM_QUERIES": 0}, r"MODEL\.DETR\.NUM_QUERIES is 0; it must be a whole number, 1 or more"),
        ({"DEC_LAYERS": 0}, r"MODEL\.DETR\.DEC_LAYERS is 0; it must be a whole number, 1 or more"),
        ({"DROPOUT": 1.5}, r"MODEL\.DETR\.DROPOUT is 1\.5; it must be from 0 to below 1"),
        ({"LOSS__PRIOR_PROB": 0.0}, r"MODEL\.DETR\.LOSS\.PRIOR_PROB is 0\.0; it must be between 0 and 1"),
        (
            {"VARIANT": "detr", "LOSS__NO_OBJECT_WEIGHT": 0.0},
            r"MODEL\.DETR\.LOSS\.NO_OBJECT_WEIGHT is 0\.0; it must be above 0",
        ),
        ({"HIDDEN_DIM": 30, "NUM_HEADS": 3}, r"MODEL\.DETR\.HIDDEN_DIM is 30; it must be divisible by 4"),
        ({"HIDDEN_DIM": 32, "NUM_HEADS": 5}, r"MODEL\.DETR\.HIDDEN_DIM is 32; .*MODEL\.DETR\.NUM_HEADS \(5\)"),
    ],
)
def test_bad_values_name_the_key(options: dict[str, Any], message: str) -> None:
    variant = options.pop("VARIANT", "pair_detr")
    with pytest.raises(ValueError, match=message):
        build(tiny_cfg(variant, **options))
