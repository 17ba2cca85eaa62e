"""Names of detectors in the official code, DETR's wrapper for Detectron2, mmdetection 3, detrex and transformers."""

from pair_detr.checkpoint.formats import resnets
from pair_detr.checkpoint.formats.name_table import Names, with_prefix

# DETR's, and Conditional DETR's.
Pair = tuple[Names, Names]


def _same(*names: str) -> Names:
    return {name: name for name in names}


def _detectors(
    heads: Names,
    *,
    transformer: str,
    norm: str,
    encoder_layer: Names,
    decoder_layer: Names,
    attentions: tuple[str, str],
    attention: Names,
    conditional: Names,
) -> Pair:
    """Names of all but the backbone.

    Args:
        heads: all that is outside of the transformer.
        transformer: what the names of encoder and decoder begin with.
        norm: the decoder's last one.
        encoder_layer: feed-forward network and norms of a layer; so ``decoder_layer``.
        attentions: what the names of self-attention and cross-attention begin with.
        attention: the inside of one, but for those of Conditional DETR's decoder.
        conditional: these.
    """
    self_attention = with_prefix(attentions[0], "self_attn.", attention)
    cross_attention = with_prefix(attentions[1], "cross_attn.", attention)
    encoder, decoder = f"{transformer}encoder.layers.{{i}}.", f"{transformer}decoder."
    shared = {
        **heads,
        f"{decoder}{norm}.{{p}}": "decoder.norm.{p}",
        **with_prefix(encoder, "encoder.layers.{i}.", encoder_layer | self_attention),
    }
    layers = [
        with_prefix(f"{decoder}layers.{{i}}.", "decoder.layers.{i}.", decoder_layer | names)
        for names in (self_attention | cross_attention, conditional)
    ]
    mlps = with_prefix(decoder, "decoder.", _same("ref_point_head.layers.{i}.{p}", "query_scale.layers.{i}.{p}"))
    return shared | layers[0], shared | layers[1] | mlps


def _with_backbone(prefix: str, backbone: Names, detectors: Pair) -> Pair:
    names = with_prefix(prefix, "backbone.", backbone)
    return names | detectors[0], names | detectors[1]


_HEADS: Names = {
    **_same("input_proj.{p}", "query_embed.weight"),
    "class_embed.{p}": "class_head.{p}",
    "bbox_embed.layers.{i}.{p}": "box_head.mlp.layers.{i}.{p}",
}
_NORMS: Names = {f"norms.{i}.{{p}}": f"norm{i + 1}.{{p}}" for i in range(3)}
_ATTENTION = _same("in_proj_{p}", "out_proj.{p}")
_WRAPPED_ATTENTION = with_prefix("attn.", "", _ATTENTION)
_ONE_BY_ONE: Names = {"sa_{q}_proj.{p}": "self_attn.{q}_proj.{p}", "ca_{q}_proj.{p}": "cross_attn.{q}_proj.{p}"}

_OFFICIAL_LAYER: Names = {"linear{n}.{p}": "ffn.linear{n}.{p}", "norm{n}.{p}": "norm{n}.{p}"}
_OFFICIAL = _detectors(
    _HEADS,
    transformer="transformer.",
    norm="norm",
    encoder_layer=_OFFICIAL_LAYER,
    decoder_layer=_OFFICIAL_LAYER,
    attentions=("self_attn.", "multihead_attn."),
    attention=_ATTENTION,
    conditional=_ONE_BY_ONE | _same("self_attn.out_proj.{p}", "cross_attn.out_proj.{p}"),
)
OFFICIAL = _with_backbone("backbone.0.body.", resnets.TORCHVISION, _OFFICIAL)
_D2_DETR, _ = _with_backbone("backbone.0.backbone.", resnets.DETECTRON2, _OFFICIAL)
D2_DETR = with_prefix("detr.", "", _D2_DETR)

_MMDET_LAYER = {"ffn.layers.0.0.{p}": "ffn.linear1.{p}", "ffn.layers.1.{p}": "ffn.linear2.{p}", **_NORMS}
MMDET = _with_backbone(
    "backbone.",
    resnets.TORCHVISION,
    _detectors(
        {
            "neck.convs.0.conv.{p}": "input_proj.{p}",
            "query_embedding.weight": "query_embed.weight",
            "bbox_head.fc_cls.{p}": "class_head.{p}",
            **{f"bbox_head.reg_ffn.layers.{i}.{{p}}": f"box_head.mlp.layers.{i[0]}.{{p}}" for i in ("0.0", "1")},
            "bbox_head.fc_reg.{p}": "box_head.mlp.layers.2.{p}",
        },
        transformer="",
        norm="post_norm",
        encoder_layer=_MMDET_LAYER,
        decoder_layer=_MMDET_LAYER,
        attentions=("self_attn.", "cross_attn."),
        attention=_WRAPPED_ATTENTION,
        conditional=_same(
            *(f"{kind}_attn.{part}" for kind in ("self", "cross") for part in ("{q}_proj.{p}", "out_proj.{p}"))
        ),
    ),
)

_DETREX_ATTENTIONS = ("attentions.0.", "attentions.1.")
_DETREX_LAYER = {"ffns.0.layers.0.0.{p}": "ffn.linear1.{p}", "ffns.0.layers.1.{p}": "ffn.linear2.{p}", **_NORMS}
_DETREX_CONDITIONAL: Names = {
    "query_content_proj.{p}": "qcontent_proj.{p}",
    "query_pos_proj.{p}": "qpos_proj.{p}",
    "query_pos_sine_proj.{p}": "qpos_sine_proj.{p}",
    "key_content_proj.{p}": "kcontent_proj.{p}",
    "key_pos_proj.{p}": "kpos_proj.{p}",
    "value_proj.{p}": "v_proj.{p}",
    "out_proj.{p}": "out_proj.{p}",
}
DETREX = _with_backbone(
    "backbone.",
    resnets.DETECTRON2,
    _detectors(
        _HEADS,
        transformer="transformer.",
        norm="post_norm_layer",
        encoder_layer=_DETREX_LAYER,
        decoder_layer=_DETREX_LAYER,
        attentions=_DETREX_ATTENTIONS,
        attention=_WRAPPED_ATTENTION,
        conditional=with_prefix(_DETREX_ATTENTIONS[0], "self_attn.", _DETREX_CONDITIONAL)
        | with_prefix(_DETREX_ATTENTIONS[1], "cross_attn.", _DETREX_CONDITIONAL),
    ),
)


def _transformers(out_proj: str, mlp: str, conditional: Names) -> Pair:
    ffn: Names = {f"{mlp}fc{{n}}.{{p}}": "ffn.linear{n}.{p}", "self_attn_layer_norm.{p}": "norm1.{p}"}
    cross_norm: Names = {"encoder_attn_layer_norm.{p}": "norm2.{p}", "final_layer_norm.{p}": "norm3.{p}"}
    out: Names = {f"{out_proj}.{{p}}": "out_proj.{p}"}
    attentions = ("self_attn.", "encoder_attn.")
    return _detectors(
        {
            "model.input_projection.{p}": "input_proj.{p}",
            "model.query_position_embeddings.weight": "query_embed.weight",
            "class_labels_classifier.{p}": "class_head.{p}",
            "bbox_predictor.layers.{i}.{p}": "box_head.mlp.layers.{i}.{p}",
        },
        transformer="model.",
        norm="layernorm",
        encoder_layer=ffn | {"final_layer_norm.{p}": "norm2.{p}"},
        decoder_layer=ffn | cross_norm,
        attentions=attentions,
        attention={("q_proj.{p}", "k_proj.{p}", "v_proj.{p}"): "in_proj_{p}", **out},
        conditional=conditional
        | with_prefix(attentions[0], "self_attn.", out)
        | with_prefix(attentions[1], "cross_attn.", out),
    )


_CONDITIONAL_5: Names = {
    "q_content_proj.{p}": "qcontent_proj.{p}",
    "q_pos_proj.{p}": "qpos_proj.{p}",
    "q_pos_sine_proj.{p}": "qpos_sine_proj.{p}",
    "k_content_proj.{p}": "kcontent_proj.{p}",
    "k_pos_proj.{p}": "kpos_proj.{p}",
    "v_proj.{p}": "v_proj.{p}",
}
# Releases 4 and 5 differ in memory, but both write the names of release 4 into files.
_RELEASES: dict[int, tuple[str, Pair]] = {
    4: ("model.backbone.conv_encoder.model.", _transformers("out_proj", "", _ONE_BY_ONE)),
    5: (
        "model.backbone.model.",
        _transformers(
            "o_proj",
            "mlp.",
            with_prefix("self_attn.", "self_attn.", _CONDITIONAL_5)
            | with_prefix("encoder_attn.", "cross_attn.", _CONDITIONAL_5),
        ),
    ),
}
# By release and backbone: timm's models keep timm's names inside.
TRANSFORMERS: dict[tuple[int, str], Pair] = {
    (release, kind): _with_backbone(prefix, names, detectors)
    for release, (prefix, detectors) in _RELEASES.items()
    for kind, names in (("timm", resnets.TORCHVISION), ("resnet", resnets.TRANSFORMERS))
}

# Of the mask head by release of transformers; the official code's are those of release 4.
_MASK_HEADS: dict[int, Names] = {
    4: {
        "bbox_attention.q_linear.{p}": "mask_head.attention.query_proj.{p}",
        "bbox_attention.k_linear.{p}": "mask_head.attention.key_proj.{p}",
        "mask_head.out_lay.{p}": "mask_head.predictor.{p}",
        **{f"mask_head.lay{i + 1}.{{p}}": f"mask_head.blocks.{i}.conv.{{p}}" for i in range(5)},
        **{f"mask_head.gn{i + 1}.{{p}}": f"mask_head.blocks.{i}.norm.{{p}}" for i in range(5)},
        **{f"mask_head.adapter{i + 1}.{{p}}": f"mask_head.adapters.{i}.{{p}}" for i in range(3)},
    },
    5: {
        "bbox_attention.q_proj.{p}": "mask_head.attention.query_proj.{p}",
        "bbox_attention.k_proj.{p}": "mask_head.attention.key_proj.{p}",
        "mask_head.output_conv.{p}": "mask_head.predictor.{p}",
        **{
            f"mask_head.{theirs}.{layer}.{{p}}": f"mask_head.blocks.{i}.{layer}.{{p}}"
            for i, theirs in enumerate(("conv1", "conv2", *(f"fpn_stages.{stage}.refine" for stage in range(3))))
            for layer in ("conv", "norm")
        },
        **{f"mask_head.fpn_stages.{i}.fpn_adapter.{{p}}": f"mask_head.adapters.{i}.{{p}}" for i in range(3)},
    },
}


def with_masks(detector: Names, prefix: str = "detr.", release: int = 4) -> Names:
    """The names of a detector, which begin with ``prefix`` in a segmentation model, and of its mask head."""
    return with_prefix(prefix, "", detector) | _MASK_HEADS[release]


D2_DETR_MASKS = with_prefix("detr.", "", with_masks(_D2_DETR))
