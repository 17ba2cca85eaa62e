"""Names in detrex."""

from pair_detr.checkpoint.formats import resnets
from pair_detr.checkpoint.formats.name_table import Names, with_prefix

_ATTENTION: Names = {"attn.in_proj_{p}": "in_proj_{p}", "attn.out_proj.{p}": "out_proj.{p}"}
_SELF_ATTENTION = with_prefix("attentions.0.", "self_attn.", _ATTENTION)
_CONDITIONAL_ATTENTION: Names = {
    "query_content_proj.{p}": "qcontent_proj.{p}",
    "query_pos_proj.{p}": "qpos_proj.{p}",
    "query_pos_sine_proj.{p}": "qpos_sine_proj.{p}",
    "key_content_proj.{p}": "kcontent_proj.{p}",
    "key_pos_proj.{p}": "kpos_proj.{p}",
    "value_proj.{p}": "v_proj.{p}",
    "out_proj.{p}": "out_proj.{p}",
}
_LAYER: Names = {
    "ffns.0.layers.0.0.{p}": "ffn.linear1.{p}",
    "ffns.0.layers.1.{p}": "ffn.linear2.{p}",
    "norms.0.{p}": "norm1.{p}",
    "norms.1.{p}": "norm2.{p}",
    "norms.2.{p}": "norm3.{p}",
}

_SHARED: Names = {
    **with_prefix("backbone.", "backbone.", resnets.DETECTRON2),
    "input_proj.{p}": "input_proj.{p}",
    "query_embed.weight": "query_embed.weight",
    "class_embed.{p}": "class_head.{p}",
    "bbox_embed.layers.{i}.{p}": "box_head.mlp.layers.{i}.{p}",
    "transformer.decoder.post_norm_layer.{p}": "decoder.norm.{p}",
    **with_prefix("transformer.encoder.layers.{i}.", "encoder.layers.{i}.", _LAYER | _SELF_ATTENTION),
}
DETR = _SHARED | with_prefix(
    "transformer.decoder.layers.{i}.",
    "decoder.layers.{i}.",
    _LAYER | _SELF_ATTENTION | with_prefix("attentions.1.", "cross_attn.", _ATTENTION),
)
CONDITIONAL_DETR = _SHARED | {
    "transformer.decoder.ref_point_head.layers.{i}.{p}": "decoder.ref_point_head.layers.{i}.{p}",
    "transformer.decoder.query_scale.layers.{i}.{p}": "decoder.query_scale.layers.{i}.{p}",
    **with_prefix(
        "transformer.decoder.layers.{i}.",
        "decoder.layers.{i}.",
        _LAYER
        | with_prefix("attentions.0.", "self_attn.", _CONDITIONAL_ATTENTION)
        | with_prefix("attentions.1.", "cross_attn.", _CONDITIONAL_ATTENTION),
    ),
}
