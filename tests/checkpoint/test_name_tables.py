"""The tables of names: those of the code bases, complete and one-to-one."""

import pytest
import torch
import torchvision
from conversion_helpers import (
    BACKBONES,
    DETECTORS,
    VARIANTS,
    detrex_keys,
    laid_out,
    layout_of,
    mmdet_keys,
    official_state,
    tiny_state,
)
from torch import nn

from pair_detr.checkpoint import Checkpoint, convert
from pair_detr.checkpoint.formats.registry import Layout, recognize
from pair_detr.modeling.decoder.standard import TransformerDecoder
from pair_detr.modeling.encoder import EncoderLayer
from pair_detr.structures import Queries


def by_name(layouts: list[Layout]) -> dict:
    return {"argvalues": layouts, "ids": [layout.name for layout in layouts]}


# Of the published files: entries, and values without those of the frozen batch norms. DETR's authors publish the number
# of parameters that they train, 41,302,368, to which conv1 and layer1 of the backbone come.
@pytest.mark.parametrize(
    ("variant", "depth", "entries", "values"),
    [
        ("conditional_detr", 50, 564, 43_418_401),
        ("conditional_detr", 101, 819, 62_358_305),
        ("detr", 50, 458, 41_302_368 + 9_408 + 212_992),
        ("detr", 101, 713, None),
    ],
)
def test_official_files_are_filled_exactly(variant: str, depth: int, entries: int, values: int | None) -> None:
    state = official_state(variant, depth)
    assert len(state) == entries
    parameters = [tensor for key, tensor in state.items() if ".bn" not in key and "downsample.1" not in key]
    assert values is None or sum(tensor.numel() for tensor in parameters) == values
    match = recognize(state)
    assert (match.layout.sources, match.layout.variant) == ((variant,), variant)
    assert len(match.renamed) == entries
    settings = match.architecture.settings()
    expected = {
        "MODEL.DETR.VARIANT": variant,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.DETR.NUM_QUERIES": 100 if variant == "detr" else 300,
        "MODEL.DETR.ENC_LAYERS": 6,
        "MODEL.DETR.DEC_LAYERS": 6,
        "MODEL.DETR.FFN_DIM": 2048,
        "MODEL.DETR.NUM_CLASSES": 91,
    }
    assert settings.items() >= expected.items()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("source", "list_keys"), [("mmdet", mmdet_keys), ("detrex", detrex_keys)])
def test_keys_of_other_code_bases(source: str, list_keys: object, variant: str) -> None:
    official = official_state(variant, 50)
    ours = {f"detector.{key}": tensor for key, tensor in recognize(official).renamed.items()}
    theirs = laid_out(ours, layout_of(source, variant))
    backbone = {key for key in theirs if key.startswith("backbone.")}
    assert theirs.keys() - backbone == set(list_keys(variant))
    assert len(theirs) == len(official)
    if source == "mmdet":
        assert backbone == {
            key.replace("backbone.0.body.", "backbone.") for key in official if key.startswith("backbone.")
        }
    else:
        assert backbone == {key.removeprefix("detector.") for key in ours if key.startswith("detector.backbone.")}


# By hand, from notes/conditional_detr.md and the code bases' own modules.
@pytest.mark.parametrize(
    ("source", "variant", "theirs", "ours"),
    [
        (
            "conditional_detr",
            "conditional_detr",
            "backbone.0.body.bn1.running_var",
            "backbone.stem.conv1.norm.running_var",
        ),
        (
            "conditional_detr",
            "conditional_detr",
            "backbone.0.body.layer3.5.conv2.weight",
            "backbone.res4.5.conv2.weight",
        ),
        ("detr", "detr", "backbone.0.body.layer4.0.downsample.1.bias", "backbone.res5.0.shortcut.norm.bias"),
        ("conditional_detr", "conditional_detr", "class_embed.bias", "class_head.bias"),
        (
            "conditional_detr",
            "conditional_detr",
            "transformer.decoder.layers.0.ca_qpos_proj.weight",
            "decoder.layers.0.cross_attn.qpos_proj.weight",
        ),
        (
            "conditional_detr",
            "conditional_detr",
            "transformer.decoder.layers.3.sa_v_proj.bias",
            "decoder.layers.3.self_attn.v_proj.bias",
        ),
        (
            "detr",
            "detr",
            "transformer.decoder.layers.2.multihead_attn.in_proj_weight",
            "decoder.layers.2.cross_attn.in_proj_weight",
        ),
        ("d2_detr", "detr", "detr.transformer.encoder.layers.1.norm2.bias", "encoder.layers.1.norm2.bias"),
        (
            "d2_detr",
            "detr",
            "detr.backbone.0.backbone.res2.0.shortcut.norm.weight",
            "backbone.res2.0.shortcut.norm.weight",
        ),
        ("mmdet", "detr", "decoder.layers.0.norms.2.weight", "decoder.layers.0.norm3.weight"),
        ("mmdet", "conditional_detr", "encoder.layers.4.ffn.layers.0.0.bias", "encoder.layers.4.ffn.linear1.bias"),
        ("mmdet", "conditional_detr", "bbox_head.fc_reg.bias", "box_head.mlp.layers.2.bias"),
        (
            "detrex",
            "conditional_detr",
            "transformer.decoder.layers.1.attentions.1.key_pos_proj.bias",
            "decoder.layers.1.cross_attn.kpos_proj.bias",
        ),
        (
            "detrex",
            "detr",
            "transformer.decoder.layers.1.attentions.0.attn.in_proj_bias",
            "decoder.layers.1.self_attn.in_proj_bias",
        ),
        ("transformers", "detr", "model.encoder.layers.1.final_layer_norm.bias", "encoder.layers.1.norm2.bias"),
        ("transformers", "detr", "model.decoder.layers.1.encoder_attn_layer_norm.bias", "decoder.layers.1.norm2.bias"),
        (
            "transformers",
            "conditional_detr",
            "model.decoder.layers.1.ca_kcontent_proj.weight",
            "decoder.layers.1.cross_attn.kcontent_proj.weight",
        ),
        ("detectron2", None, "res3.1.conv2.weight", "backbone.res3.1.conv2.weight"),
    ],
)
def test_single_names(source: str, variant: str | None, theirs: str, ours: str) -> None:
    names = layout_of(source, variant).names
    assert names.to_native(theirs) == (ours, 0, 1)
    assert names.to_foreign(ours) == [theirs]


def test_joined_projections_are_in_the_order_of_torch() -> None:
    names = layout_of("transformers", "detr").names
    theirs = names.to_foreign("decoder.layers.0.cross_attn.in_proj_bias")
    assert theirs == [f"model.decoder.layers.0.encoder_attn.{part}_proj.bias" for part in "qkv"]
    parts = dict(zip(reversed(theirs), torch.arange(6.0).split(2), strict=True))
    renamed, unknown = names.rename_to_native(parts)
    assert renamed["decoder.layers.0.cross_attn.in_proj_bias"].tolist() == [4, 5, 2, 3, 0, 1]
    assert not unknown


def test_official_layers_compute_what_torch_computes() -> None:
    """Where positions are zero DETR's layers are torch's, whose names the official files use."""
    theirs = nn.ModuleDict(
        {
            "encoder": nn.ModuleDict({"layers": nn.ModuleList([nn.TransformerEncoderLayer(16, 4, 32, 0.0)])}),
            "decoder": nn.ModuleDict({"layers": nn.ModuleList([nn.TransformerDecoderLayer(16, 4, 32, 0.0)])}),
        }
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    state = {f"transformer.{key}": tensor for key, tensor in theirs.state_dict().items()}
    ours, unknown = layout_of("detr", "detr").names.rename_to_native(state)
    assert not unknown
    encoder, decoder = EncoderLayer(16, 4, 32, 0.0, 0.0), TransformerDecoder(1, 16, 4, 32, 0.0, 0.0)
    encoder.load_state_dict({k.removeprefix("encoder.layers.0."): v for k, v in ours.items() if k.startswith("enc")})
    decoder.layers.load_state_dict(
        {k.removeprefix("decoder.layers."): v for k, v in ours.items() if k.startswith("decoder.layers.")}
    )
    tokens, zero, queries = torch.randn(2, 5, 16), torch.zeros(1, 5, 16), Queries(torch.zeros(3, 16))
    encoded = theirs["encoder"]["layers"][0](tokens.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(encoder(tokens, zero, None), encoded, atol=1e-5, rtol=1e-5)
    state = torch.randn(2, 3, 16)
    decoded = theirs["decoder"]["layers"][0](state.transpose(0, 1), tokens.transpose(0, 1)).transpose(0, 1)
    attention = decoder.layers[0].cross_attn.projections()
    key, value = (nn.functional.linear(tokens, *projection) for projection in attention[1:])
    torch.testing.assert_close(decoder.layers[0](state, queries, key, value, None), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", **by_name(DETECTORS))
def test_all_layouts_lead_to_the_same_tensors(layout: Layout) -> None:
    ours = tiny_state(layout.variant)
    theirs = laid_out(ours, layout)
    assert recognize(theirs).layout is layout
    for source in layout.sources:
        converted = convert(Checkpoint(theirs), source=source).model
        assert converted.keys() == ours.keys()
        assert all(torch.equal(converted[key], ours[key]) for key in ours)


@pytest.mark.parametrize("layout", **by_name(DETECTORS + BACKBONES))
def test_names_are_one_to_one(layout: Layout) -> None:
    ours = tiny_state(layout.variant or "detr")
    if layout.variant is None:
        ours = {key: x for key, x in ours.items() if key.startswith("detector.backbone.")}
        if layout.folded_norm:
            ours = {key: x for key, x in ours.items() if "running" not in key}
    theirs = laid_out(ours, layout)
    renamed, unknown = layout.names.rename_to_native(theirs)
    assert not unknown
    assert {f"detector.{key}" for key in renamed} == ours.keys()
    back, unknown = layout.names.rename_to_foreign(renamed)
    assert not unknown
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvision_backbones(depth: int) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(f"resnet{depth}")
    state = {
        key: tensor for key, tensor in model.state_dict().items() if "layer" in key or key.startswith(("conv", "bn"))
    }
    match = recognize(model.state_dict())
    assert match.layout.name == "torchvision's ResNet"
    assert len(match.renamed) == sum("num_batches_tracked" not in key for key in state)
    assert match.architecture.settings()["MODEL.RESNETS.DEPTH"] == depth
    assert match.layout.pixels["INPUT.FORMAT"] == "RGB"


def test_resnext_groups() -> None:
    with torch.device("meta"):
        state = torchvision.models.resnext50_32x4d().state_dict()
    settings = recognize(state).architecture.settings()
    assert settings["MODEL.RESNETS.NUM_GROUPS"] == 32
    assert settings["MODEL.RESNETS.WIDTH_PER_GROUP"] == 4


def test_timm_backbone_is_that_of_torchvision() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model("resnet50", pretrained=False).state_dict()
    assert recognize(state, "timm").architecture.settings()["MODEL.RESNETS.DEPTH"] == 50


def test_folded_statistics_leave_the_function_as_it_is() -> None:
    layout = next(layout for layout in BACKBONES if layout.folded_norm)
    ours = {key: x for key, x in tiny_state("detr").items() if key.startswith("detector.backbone.")}
    theirs = laid_out({key: x for key, x in ours.items() if "running" not in key}, layout)
    assert "res_conv1_bn_s" in theirs
    assert "res2_0_branch2a_bn_b" in theirs
    converted = convert(Checkpoint(theirs | {"fc1000_w": torch.zeros(1), "fc1000_b": torch.zeros(1)}))
    assert converted.model.keys() == ours.keys()
    assert converted.metadata["config"]["INPUT.FORMAT"] == "BGR"
    assert converted.metadata["config"]["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    prefix = "detector.backbone.stem.conv1.norm."
    weight, bias, mean, variance = (
        converted.model[prefix + key] for key in ("weight", "bias", "running_mean", "running_var")
    )
    x = torch.randn(2, 8, 3, 3)
    expected = x * weight[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(nn.functional.batch_norm(x, mean, variance, weight, bias, eps=1e-5), expected)
