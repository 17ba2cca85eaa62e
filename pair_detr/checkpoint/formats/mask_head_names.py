"""Names of the mask head in the official code, and in transformers, whose releases differ as for the detector."""

from pair_detr.checkpoint.formats.name_table import Names, with_prefix

_OFFICIAL: Names = {
    "bbox_attention.q_linear.{p}": "mask_head.attention.query_proj.{p}",
    "bbox_attention.k_linear.{p}": "mask_head.attention.key_proj.{p}",
    "mask_head.out_lay.{p}": "mask_head.predictor.{p}",
    **{f"mask_head.lay{i + 1}.{{p}}": f"mask_head.blocks.{i}.conv.{{p}}" for i in range(5)},
    **{f"mask_head.gn{i + 1}.{{p}}": f"mask_head.blocks.{i}.norm.{{p}}" for i in range(5)},
    **{f"mask_head.adapter{i + 1}.{{p}}": f"mask_head.adapters.{i}.{{p}}" for i in range(3)},
}
_TRANSFORMERS_5: Names = {
    "bbox_attention.q_proj.{p}": "mask_head.attention.query_proj.{p}",
    "bbox_attention.k_proj.{p}": "mask_head.attention.key_proj.{p}",
    "mask_head.output_conv.{p}": "mask_head.predictor.{p}",
    **{
        f"mask_head.{theirs}.{layer}.{{p}}": f"mask_head.blocks.{i}.{layer}.{{p}}"
        for i, theirs in enumerate(("conv1", "conv2", *(f"fpn_stages.{stage}.refine" for stage in range(3))))
        for layer in ("conv", "norm")
    },
    **{f"mask_head.fpn_stages.{i}.fpn_adapter.{{p}}": f"mask_head.adapters.{i}.{{p}}" for i in range(3)},
}
# By release of transformers.
MASK_HEADS: dict[int, Names] = {4: _OFFICIAL, 5: _TRANSFORMERS_5}


def with_masks(detector: Names, prefix: str = "detr.", release: int = 4) -> Names:
    """The names of a detector inside of a segmentation model, with those of the mask head.

    Args:
        detector: names without a mask head.
        prefix: of the detector there.
        release: of transformers; the official code is as release 4.
    """
    return with_prefix(prefix, "", detector) | MASK_HEADS[release]
