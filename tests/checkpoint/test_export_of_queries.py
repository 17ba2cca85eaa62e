"""Models with training-only branches are exported without these; what changes predictions is refused."""

from typing import Any

import pytest
import torch
from model_helpers import build, tiny_resnet_cfg

from pair_detr.checkpoint import ConversionError, export_official

TRAINING: dict[str, Any] = {"DENSE__ENABLED": True, "QUERY_GROUPS": 3, "PAIR__QUERIES_PER_OBJECT": 4}


@pytest.mark.parametrize("variant", ["conditional_detr", "pair_detr"])
def test_training_only_parts_are_left_out(variant: str) -> None:
    model = build(tiny_resnet_cfg(variant, **TRAINING))
    plain = build(tiny_resnet_cfg("conditional_detr"))
    plain.load_state_dict(model.state_dict(), strict=False)
    found, expected = export_official(model.state_dict()), export_official(plain.state_dict())
    assert found.variant == "conditional_detr"
    assert found.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        assert torch.equal(found.state[name], value), name


@pytest.mark.parametrize("detr", [{}, {"BOX_BIAS": True}])
def test_selected_queries_are_refused(detr: dict[str, Any]) -> None:
    model = build(tiny_resnet_cfg("conditional_detr", DENSE__ENABLED=True, QUERY_SELECTION="boxes", **detr))
    with pytest.raises(ConversionError, match=r"MODEL\.DETR\.QUERY_SELECTION"):
        export_official(model.state_dict())
