"""Keys of queries that exclude each other are named before anything is built."""

from typing import Any

import pytest
from engine_helpers import default_config
from model_helpers import build, make_batch, tiny_cfg

from pair_detr.config.validation import check_config, check_values

BOXES = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes"}

EXCLUDED: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
    ("conditional_detr", {"QUERY_SELECTION": "points"}, ("QUERY_SELECTION is points", "DENSE.ENABLED True")),
    ("conditional_detr", {"DENOISING__GROUPS": 2}, ("DENOISING.GROUPS is above 0", "QUERY_SELECTION boxes")),
    ("conditional_detr", {"BOX_REFINEMENT": "layers"}, ("BOX_REFINEMENT is layers", "QUERY_SELECTION boxes")),
    ("conditional_detr", {"RELATIVE_BOXES": True}, ("RELATIVE_BOXES is True", "QUERY_SELECTION boxes")),
    (
        "conditional_detr",
        {"BOX_BIAS": True, "DENSE__ENABLED": True, "QUERY_SELECTION": "points"},
        ("BOX_BIAS is True", "QUERY_SELECTION boxes"),
    ),
    (
        "conditional_detr",
        {"DENSE__ENABLED": True, "LOSS__CLASSIFICATION": "softmax"},
        ("DENSE.ENABLED is True", "LOSS.CLASSIFICATION focal or mal"),
    ),
    # Its own classification is a softmax.
    ("detr", {"DENSE__ENABLED": True}, ("DENSE.ENABLED is True", "LOSS.CLASSIFICATION focal or mal")),
    ("detr", {"LOCAL_ATTENTION": True}, ("LOCAL_ATTENTION is True", "VARIANT detr")),
    ("detr", BOXES | {"LOSS__CLASSIFICATION": "focal"}, ("QUERY_SELECTION is boxes", "VARIANT detr")),
    (
        "pair_detr",
        {"PAIR__QUERIES_PER_OBJECT": 4, "LOSS__CLASSIFICATION": "softmax"},
        ("PAIR.QUERIES_PER_OBJECT is 4", "LOSS.CLASSIFICATION focal or mal"),
    ),
    (
        "pair_detr",
        {"PAIR__QUERIES_PER_OBJECT": 4, "PAIR__BOX_DECODING": "pair"},
        ("PAIR.QUERIES_PER_OBJECT is 4", "PAIR.BOX_DECODING pair"),
    ),
    (
        "pair_detr",
        BOXES | {"BOX_REFINEMENT": "layers", "PAIR__BOX_DECODING": "pair"},
        ("BOX_REFINEMENT is layers", "PAIR.BOX_DECODING pair"),
    ),
    (
        "pair_detr",
        BOXES | {"RELATIVE_BOXES": True, "PAIR__BOX_DECODING": "pair"},
        ("RELATIVE_BOXES is True", "PAIR.BOX_DECODING pair"),
    ),
]


@pytest.mark.parametrize(("variant", "detr", "texts"), EXCLUDED)
def test_both_keys_are_named(variant: str, detr: dict[str, Any], texts: tuple[str, str]) -> None:
    cfg = tiny_cfg(variant, **detr)
    for check in (check_values, build):
        with pytest.raises(ValueError, match=r"MODEL\.DETR\.") as raised:
            check(cfg)
        for text in texts:
            assert text in str(raised.value)


@pytest.mark.parametrize(
    ("variant", "detr"),
    [
        ("detr", {"DENSE__ENABLED": True, "QUERY_GROUPS": 2, "LOSS__CLASSIFICATION": "mal"}),
        ("detr", {"QUERY_GROUPS": 2}),
        ("pair_detr", {"QUERY_GROUPS": 2, "LOSS__CLASSIFICATION": "softmax"}),
        ("pair_detr", BOXES | {"PAIR__BOX_DECODING": "pair", "DENOISING__GROUPS": 2, "BOX_BIAS": True}),
        ("conditional_detr", {"DENSE__ENABLED": True, "QUERY_SELECTION": "points", "DENOISING__GROUPS": 2}),
        ("conditional_detr", {"DENSE__ENABLED": True, "LOCAL_ATTENTION": True}),
        # What another variant alone looks at.
        ("conditional_detr", BOXES | {"PAIR__BOX_DECODING": "pair", "BOX_REFINEMENT": "layers"}),
    ],
)
def test_what_is_allowed_trains_and_detects(variant: str, detr: dict[str, Any]) -> None:
    cfg = tiny_cfg(variant, **detr)
    check_values(cfg)
    model, batch = build(cfg), make_batch([(40, 48), (64, 96)], [2, 0])
    sum(model.train()(batch).values()).backward()
    for name, parameter in model.named_parameters():
        # DistributedDataParallel waits for all that are trained.
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name
    assert len(model.eval()(batch)) == 2


def test_keys_without_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    cfg = default_config()
    options = {
        "SOLVER.MUON_MULTIPLIER": 5.0,
        "MODEL.DETR.DENOISING.BOX_NOISE": 0.1,
        "MODEL.DETR.LOSS.IOU_GAMMA": 1.0,
        "MODEL.DETR.PAIR.ONE_TO_MANY_WEIGHT": 2.0,
        "MODEL.DETR.DENSE.WEIGHT": 2.0,
    }
    cfg.merge_from_list([x for item in options.items() for x in item])
    check_config(cfg)
    for key, remedy in zip(
        options,
        (
            "SOLVER.OPTIMIZER is not MUON",
            "DENOISING.GROUPS is 0",
            "CLASSIFICATION is not mal",
            "QUERIES_PER_OBJECT is 1",
            "DENSE.ENABLED is False",
        ),
        strict=True,
    ):
        (line,) = [line for line in caplog.text.splitlines() if line.startswith(key)]
        assert remedy in line
