"""Names in mmdetection 3."""

from pair_detr.checkpoint.formats import resnets
from pair_detr.checkpoint.formats.name_table import Names, with_prefix

_ATTENTION: Names = {"attn.in_proj_{p}": "in_proj_{p}", "attn.out_proj.{p}": "out_proj.{p}"}
_SELF_ATTENTION = with_prefix("self_attn.", "self_attn.", _ATTENTION)
_LAYER: Names = {
    "ffn.layers.0.0.{p}": "ffn.linear1.{p}",
    "ffn.layers.1.{p}": "ffn.linear2.{p}",
    "norms.0.{p}": "norm1.{p}",
    "norms.1.{p}": "norm2.{p}",
    "norms.2.{p}": "norm3.{p}",
}

_SHARED: Names = {
    **with_prefix("backbone.", "backbone.", resnets.TORCHVISION),
    "neck.convs.0.conv.{p}": "input_proj.{p}",
    "query_embedding.weight": "query_embed.weight",
    "bbox_head.fc_cls.{p}": "class_head.{p}",
    "bbox_head.reg_ffn.layers.0.0.{p}": "box_head.mlp.layers.0.{p}",
    "bbox_head.reg_ffn.layers.1.{p}": "box_head.mlp.layers.1.{p}",
    "bbox_head.fc_reg.{p}": "box_head.mlp.layers.2.{p}",
    "decoder.post_norm.{p}": "decoder.norm.{p}",
    **with_prefix("encoder.layers.{i}.", "encoder.layers.{i}.", _LAYER | _SELF_ATTENTION),
}
DETR = _SHARED | with_prefix(
    "decoder.layers.{i}.",
    "decoder.layers.{i}.",
    _LAYER | _SELF_ATTENTION | with_prefix("cross_attn.", "cross_attn.", _ATTENTION),
)
CONDITIONAL_DETR = _SHARED | {
    "decoder.ref_point_head.layers.{i}.{p}": "decoder.ref_point_head.layers.{i}.{p}",
    "decoder.query_scale.layers.{i}.{p}": "decoder.query_scale.layers.{i}.{p}",
    **with_prefix(
        "decoder.layers.{i}.",
        "decoder.layers.{i}.",
        _LAYER
        | {
            "self_attn.{q}_proj.{p}": "self_attn.{q}_proj.{p}",
            "cross_attn.{q}_proj.{p}": "cross_attn.{q}_proj.{p}",
            "self_attn.out_proj.{p}": "self_attn.out_proj.{p}",
            "cross_attn.out_proj.{p}": "cross_attn.out_proj.{p}",
        },
    ),
}
