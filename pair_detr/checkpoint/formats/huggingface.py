"""Names in transformers. Releases 4 and 5 differ in memory, but both write the names of release 4 into files."""

from pair_detr.checkpoint.formats import resnets
from pair_detr.checkpoint.formats.name_table import Names, with_prefix


def _attention(out_proj: str) -> Names:
    return {
        ("q_proj.{p}", "k_proj.{p}", "v_proj.{p}"): "in_proj_{p}",
        f"{out_proj}.{{p}}": "out_proj.{p}",
    }


def _encoder_layer(out_proj: str, mlp: str) -> Names:
    return {
        **with_prefix("self_attn.", "self_attn.", _attention(out_proj)),
        f"{mlp}fc{{n}}.{{p}}": "ffn.linear{n}.{p}",
        "self_attn_layer_norm.{p}": "norm1.{p}",
        "final_layer_norm.{p}": "norm2.{p}",
    }


def _decoder_layer(mlp: str) -> Names:
    return {
        f"{mlp}fc{{n}}.{{p}}": "ffn.linear{n}.{p}",
        "self_attn_layer_norm.{p}": "norm1.{p}",
        "encoder_attn_layer_norm.{p}": "norm2.{p}",
        "final_layer_norm.{p}": "norm3.{p}",
    }


def _shared(out_proj: str, mlp: str) -> Names:
    return {
        "model.input_projection.{p}": "input_proj.{p}",
        "model.query_position_embeddings.weight": "query_embed.weight",
        "class_labels_classifier.{p}": "class_head.{p}",
        "bbox_predictor.layers.{i}.{p}": "box_head.mlp.layers.{i}.{p}",
        "model.decoder.layernorm.{p}": "decoder.norm.{p}",
        **with_prefix("model.encoder.layers.{i}.", "encoder.layers.{i}.", _encoder_layer(out_proj, mlp)),
    }


def _detr(out_proj: str, mlp: str) -> Names:
    return _shared(out_proj, mlp) | with_prefix(
        "model.decoder.layers.{i}.",
        "decoder.layers.{i}.",
        _decoder_layer(mlp)
        | with_prefix("self_attn.", "self_attn.", _attention(out_proj))
        | with_prefix("encoder_attn.", "cross_attn.", _attention(out_proj)),
    )


def _conditional(out_proj: str, mlp: str, attention: Names) -> Names:
    return _shared(out_proj, mlp) | {
        "model.decoder.ref_point_head.layers.{i}.{p}": "decoder.ref_point_head.layers.{i}.{p}",
        "model.decoder.query_scale.layers.{i}.{p}": "decoder.query_scale.layers.{i}.{p}",
        **with_prefix(
            "model.decoder.layers.{i}.",
            "decoder.layers.{i}.",
            _decoder_layer(mlp)
            | attention
            | {
                f"self_attn.{out_proj}.{{p}}": "self_attn.out_proj.{p}",
                f"encoder_attn.{out_proj}.{{p}}": "cross_attn.out_proj.{p}",
            },
        ),
    }


_ATTENTION_5: Names = {
    "q_content_proj.{p}": "qcontent_proj.{p}",
    "q_pos_proj.{p}": "qpos_proj.{p}",
    "q_pos_sine_proj.{p}": "qpos_sine_proj.{p}",
    "k_content_proj.{p}": "kcontent_proj.{p}",
    "k_pos_proj.{p}": "kpos_proj.{p}",
    "v_proj.{p}": "v_proj.{p}",
}
# By release and backbone: timm's models keep timm's names inside.
BACKBONES: dict[tuple[int, str], Names] = {
    (release, kind): with_prefix(prefix, "backbone.", names)
    for release, prefix in ((4, "model.backbone.conv_encoder.model."), (5, "model.backbone.model."))
    for kind, names in (("timm", resnets.TORCHVISION), ("resnet", resnets.TRANSFORMERS))
}
DETR: dict[int, Names] = {4: _detr("out_proj", ""), 5: _detr("o_proj", "mlp.")}
CONDITIONAL_DETR: dict[int, Names] = {
    4: _conditional(
        "out_proj",
        "",
        {"sa_{q}_proj.{p}": "self_attn.{q}_proj.{p}", "ca_{q}_proj.{p}": "cross_attn.{q}_proj.{p}"},
    ),
    5: _conditional(
        "o_proj",
        "mlp.",
        with_prefix("self_attn.", "self_attn.", _ATTENTION_5)
        | with_prefix("encoder_attn.", "cross_attn.", _ATTENTION_5),
    ),
}
