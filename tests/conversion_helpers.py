"""Key lists of other code bases, put together without the tables under test, and small models of this package."""

from functools import lru_cache
from itertools import pairwise

import torch
import torchvision
from model_helpers import build, tiny_resnet_cfg
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from pair_detr.checkpoint.formats.registry import LAYOUTS, Layout

VARIANTS = ("detr", "conditional_detr")
DETECTORS = [layout for layout in LAYOUTS if layout.variant is not None]
BACKBONES = [layout for layout in LAYOUTS if layout.variant is None]


@lru_cache
def tiny_state(variant: str, num_classes: int = 3) -> dict[str, Tensor]:
    """State dict of a small model with a ResNet-50; constants are randomized."""
    cfg = tiny_resnet_cfg(variant, NUM_CLASSES=num_classes, NUM_QUERIES=20)
    return {key: tensor.contiguous() for key, tensor in build(cfg).state_dict().items()}


def laid_out(state: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A state dict of this package under the names of a layout."""
    renamed, _ = layout.names.rename_to_foreign({key.removeprefix("detector."): x for key, x in state.items()})
    return {key: tensor.clone() for key, tensor in renamed.items()}


def layout_of(source: str, variant: str | None) -> Layout:
    """The first layout of a source."""
    return next(layout for layout in LAYOUTS if source in layout.sources and layout.variant == variant)


class _MLP(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))


class _OfficialConditionalLayer(nn.Module):
    """The parameters that notes/conditional_detr.md lists."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        names = ["sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v"]
        names += ["ca_qcontent", "ca_kcontent", "ca_kpos", "ca_v", "ca_qpos_sine", *["ca_qpos"] * is_first]
        for name in names:
            setattr(self, f"{name}_proj", nn.Linear(256, 256))
        for name in ("self_attn", "cross_attn"):
            setattr(self, name, nn.ModuleDict({"out_proj": nn.Linear(256, 256)}))
        self.linear1, self.linear2 = nn.Linear(256, 2048), nn.Linear(2048, 256)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(256) for _ in range(3))


class OfficialModel(nn.Module):
    """The parameters of the official models, as far as can be with the modules of torch that they are made of."""

    def __init__(self, variant: str, depth: int) -> None:
        super().__init__()
        body = torchvision.models.get_model(f"resnet{depth}", norm_layer=FrozenBatchNorm2d)
        del body.fc
        self.backbone = nn.Sequential(nn.ModuleDict({"body": body}))
        self.input_proj = nn.Conv2d(2048, 256, 1)
        self.transformer = nn.Module()
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(nn.TransformerEncoderLayer(256, 8, 2048) for _ in range(6))
        self.transformer.decoder = decoder = nn.Module()
        decoder.norm = nn.LayerNorm(256)
        if variant == "detr":
            decoder.layers = nn.ModuleList(nn.TransformerDecoderLayer(256, 8, 2048) for _ in range(6))
        else:
            decoder.layers = nn.ModuleList(_OfficialConditionalLayer(i == 0) for i in range(6))
            decoder.query_scale = _MLP(256, 256, 256)
            decoder.ref_point_head = _MLP(256, 256, 2)
        self.query_embed = nn.Embedding(100 if variant == "detr" else 300, 256)
        self.class_embed = nn.Linear(256, 92 if variant == "detr" else 91)
        self.bbox_embed = _MLP(256, 256, 256, 4)


def official_state(variant: str, depth: int, device: str = "meta") -> dict[str, Tensor]:
    """State dict of an official model; on the meta device without values."""
    with torch.device(device):
        return dict(OfficialModel(variant, depth).state_dict())


def _both(*names: str) -> list[str]:
    return [f"{name}.{suffix}" for name in names for suffix in ("weight", "bias")]


def _attention(name: str) -> list[str]:
    return [f"{name}.in_proj_weight", f"{name}.in_proj_bias", *_both(f"{name}.out_proj")]


def mmdet_keys(variant: str) -> list[str]:
    """mmdetection's keys other than the backbone's, from its modules."""
    ffn = ("ffn.layers.0.0", "ffn.layers.1")
    encoder = [*_attention("self_attn.attn"), *_both(*ffn, "norms.0", "norms.1")]
    first = later = [*_attention("self_attn.attn"), *_attention("cross_attn.attn")]
    if variant == "conditional_detr":
        names = ["qcontent_proj", "qpos_proj", "kcontent_proj", "kpos_proj", "v_proj", "out_proj"]
        first = _both(*(f"self_attn.{x}" for x in names), *(f"cross_attn.{x}" for x in [*names, "qpos_sine_proj"]))
        later = [key for key in first if "cross_attn.qpos_proj" not in key]
    rest = _both(*ffn, "norms.0", "norms.1", "norms.2")
    keys = [f"encoder.layers.{i}.{key}" for i in range(6) for key in encoder]
    keys += [f"decoder.layers.{i}.{key}" for i in range(6) for key in (later if i else first) + rest]
    keys += _both("neck.convs.0.conv", "decoder.post_norm", "bbox_head.fc_cls", "bbox_head.fc_reg")
    keys += ["query_embedding.weight", *_both("bbox_head.reg_ffn.layers.0.0", "bbox_head.reg_ffn.layers.1")]
    return keys + (_conditional_heads("decoder") if variant == "conditional_detr" else [])


def detrex_keys(variant: str) -> list[str]:
    """detrex's keys other than the backbone's, from its modules."""
    ffn = ("ffns.0.layers.0.0", "ffns.0.layers.1")
    encoder = [*_attention("attentions.0.attn"), *_both(*ffn, "norms.0", "norms.1")]
    first = later = [*_attention("attentions.0.attn"), *_attention("attentions.1.attn")]
    if variant == "conditional_detr":
        names = ["query_content_proj", "query_pos_proj", "key_content_proj", "key_pos_proj", "value_proj", "out_proj"]
        first = _both(
            *(f"attentions.0.{x}" for x in names), *(f"attentions.1.{x}" for x in [*names, "query_pos_sine_proj"])
        )
        later = [key for key in first if "attentions.1.query_pos_proj" not in key]
    rest = _both(*ffn, "norms.0", "norms.1", "norms.2")
    keys = [f"transformer.encoder.layers.{i}.{key}" for i in range(6) for key in encoder]
    keys += [f"transformer.decoder.layers.{i}.{key}" for i in range(6) for key in (later if i else first) + rest]
    keys += _both("input_proj", "transformer.decoder.post_norm_layer", "class_embed", "bbox_embed.layers.0")
    keys += ["query_embed.weight", *_both("bbox_embed.layers.1", "bbox_embed.layers.2")]
    return keys + (_conditional_heads("transformer.decoder") if variant == "conditional_detr" else [])


def _conditional_heads(prefix: str) -> list[str]:
    return _both(*(f"{prefix}.{head}.layers.{i}" for head in ("ref_point_head", "query_scale") for i in (0, 1)))


def theirs(source: str, variant: str | None, num_classes: int = 3) -> dict[str, Tensor]:
    """A tiny model, or its backbone, in the layout of a code base."""
    state = tiny_state(variant or "detr", num_classes)
    if variant is None:
        state = {key: tensor for key, tensor in state.items() if "backbone" in key}
    return laid_out(state, layout_of(source, variant))


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
