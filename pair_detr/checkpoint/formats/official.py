"""Names in the files of DETR's and Conditional DETR's authors, and of DETR's wrapper for Detectron2."""

from pair_detr.checkpoint.formats import resnets
from pair_detr.checkpoint.formats.mask_head_names import with_masks
from pair_detr.checkpoint.formats.name_table import Names, with_prefix

_ATTENTION: Names = {"in_proj_{p}": "in_proj_{p}", "out_proj.{p}": "out_proj.{p}"}
_SELF_ATTENTION = with_prefix("self_attn.", "self_attn.", _ATTENTION)
_LAYER: Names = {"linear{n}.{p}": "ffn.linear{n}.{p}", "norm{n}.{p}": "norm{n}.{p}"}

_SHARED: Names = {
    "input_proj.{p}": "input_proj.{p}",
    "query_embed.weight": "query_embed.weight",
    "class_embed.{p}": "class_head.{p}",
    "bbox_embed.layers.{i}.{p}": "box_head.mlp.layers.{i}.{p}",
    "transformer.decoder.norm.{p}": "decoder.norm.{p}",
    **with_prefix("transformer.encoder.layers.{i}.", "encoder.layers.{i}.", _LAYER | _SELF_ATTENTION),
}
_DETR = _SHARED | with_prefix(
    "transformer.decoder.layers.{i}.",
    "decoder.layers.{i}.",
    _LAYER | _SELF_ATTENTION | with_prefix("multihead_attn.", "cross_attn.", _ATTENTION),
)
_CONDITIONAL = _SHARED | {
    "transformer.decoder.ref_point_head.layers.{i}.{p}": "decoder.ref_point_head.layers.{i}.{p}",
    "transformer.decoder.query_scale.layers.{i}.{p}": "decoder.query_scale.layers.{i}.{p}",
    **with_prefix(
        "transformer.decoder.layers.{i}.",
        "decoder.layers.{i}.",
        _LAYER
        | {
            "sa_{q}_proj.{p}": "self_attn.{q}_proj.{p}",
            "ca_{q}_proj.{p}": "cross_attn.{q}_proj.{p}",
            "self_attn.out_proj.{p}": "self_attn.out_proj.{p}",
            "cross_attn.out_proj.{p}": "cross_attn.out_proj.{p}",
        },
    ),
}
_BACKBONE = with_prefix("backbone.0.body.", "backbone.", resnets.TORCHVISION)

DETR = _BACKBONE | _DETR
CONDITIONAL_DETR = _BACKBONE | _CONDITIONAL
DETR_MASKS = with_masks(DETR)
# Of no file of Conditional DETR's authors, but of models that are converted to their names.
CONDITIONAL_DETR_MASKS = with_masks(CONDITIONAL_DETR)
_D2_DETR = with_prefix("backbone.0.backbone.", "backbone.", resnets.DETECTRON2) | _DETR
D2_DETR = with_prefix("detr.", "", _D2_DETR)
D2_DETR_MASKS = with_prefix("detr.", "", with_masks(_D2_DETR))
