"""transformers' model as a yardstick: the same architecture, inputs and outputs."""

import pytest
import torch
from model_helpers import build, default_cfg, make_batch, tiny_cfg, tiny_resnet_cfg
from torch import nn
from transformers_helpers import their_state_dict

from pair_detr.analysis.yardstick import TransformersDetector, transformers_config
from pair_detr.config_files import load_config
from pair_detr.tools.common import without_data

pytest.importorskip("transformers")


def counts(model: nn.Module) -> tuple[int, int]:
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


@pytest.mark.parametrize("freeze_at", [0, 2, 3])
@pytest.mark.parametrize("variant", ["conditional_detr", "detr"])
def test_as_many_parameters_of_which_as_many_are_trained(variant: str, freeze_at: int) -> None:
    cfg = tiny_resnet_cfg(variant)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    assert counts(TransformersDetector(cfg)) == counts(build(cfg))


def test_pair_detr_has_the_conditional_detr_without_its_own_parts() -> None:
    theirs = TransformersDetector(tiny_resnet_cfg("pair_detr"))
    assert counts(theirs) == counts(build(tiny_resnet_cfg("conditional_detr")))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["conditional_detr/r50", "detr/r50", "conditional_detr/dc5_r50"])
def test_as_many_parameters_at_full_size(config: str) -> None:
    cfg = without_data(load_config(config, ["MODEL.DEVICE", "cpu"]))
    with torch.device("meta"):
        theirs = TransformersDetector(cfg)
    assert counts(theirs) == counts(build(cfg, randomize=False))


@pytest.mark.parametrize("variant", ["conditional_detr", "detr"])
def test_detects_what_our_model_detects(variant: str) -> None:
    cfg = tiny_resnet_cfg(variant)
    ours, theirs = build(cfg).eval(), TransformersDetector(cfg).eval()
    theirs.model.load_state_dict(their_state_dict(ours, variant), strict=False)
    batch = make_batch([(96, 128), (64, 160)], [1, 1])
    batch[1] |= {"height": 128, "width": 320}
    with torch.no_grad():
        expected, found = ours(batch), theirs(batch)
    for a, b in zip(expected, found, strict=True):
        a, b = a["instances"], b["instances"]
        assert b.image_size == a.image_size
        # DETR's post-processing takes one class of each query, and ours the best of all.
        count = 3 if variant == "detr" else len(a)
        best = b.scores.argsort(descending=True)[:count]
        torch.testing.assert_close(b.scores[best], a.scores[:count], atol=1e-5, rtol=1e-4)
        assert b.pred_classes[best].tolist() == a.pred_classes[:count].tolist()
        boxes = b.pred_boxes.clone()
        boxes.clip(b.image_size)
        torch.testing.assert_close(boxes.tensor[best], a.pred_boxes.tensor[:count], atol=1e-3, rtol=1e-4)


def test_trains_with_losses_of_all_layers() -> None:
    cfg = tiny_resnet_cfg("conditional_detr")
    model = TransformersDetector(cfg).train()
    batch = make_batch([(64, 64), (64, 96)], [2, 0])
    losses = model(batch)
    assert losses["loss"].dim() == 0
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.model.model.decoder.layers[0].parameters())
    cfg.MODEL.DETR.LOSS.DEEP_SUPERVISION = False
    torch.manual_seed(0)
    last_alone = TransformersDetector(cfg).train()
    last_alone.load_state_dict(model.state_dict())
    # A fresh model's layers predict much the same: three of them lose about three times what one does.
    assert last_alone(batch)["loss"] < 0.6 * losses["loss"]


def test_dropout_is_where_ours_is() -> None:
    cfg = tiny_resnet_cfg("conditional_detr", DROPOUT=0.25)
    config = transformers_config(cfg)
    assert config.dropout == config.activation_dropout == config.attention_dropout == 0.25
    cfg.MODEL.DETR.ATTENTION_DROPOUT = 0.0
    config = transformers_config(cfg)
    assert (config.dropout, config.attention_dropout) == (0.25, 0)


def test_architectures_that_transformers_lacks() -> None:
    with pytest.raises(ValueError, match=r"no backbone like MODEL\.BACKBONE\.NAME build_convnet_backbone"):
        transformers_config(tiny_cfg())
    cfg = tiny_resnet_cfg()
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    with pytest.raises(ValueError, match="dilates timm's ResNets alone"):
        transformers_config(cfg)
    cfg = default_cfg()
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match=r"MODEL\.MASK_ON"):
        transformers_config(cfg)
