"""What all detectors are built from."""

from collections.abc import Callable
from dataclasses import dataclass, field

from detectron2.modeling import Backbone
from torch import nn

from pair_detr.modeling.query_builder import QueryOptions


@dataclass(frozen=True)
class DetectorOptions:
    """What all variants are built from.

    Attributes:
        backbone: maps (B, C, H, W) images to feature maps, those of all its stages.
        classifier: makes the module that maps (..., D) states of a decoder to (..., C) logits, given D.
        num_queries: Q, the number of object queries.
        num_encoder_layers: of the encoder.
        num_decoder_layers: L, of each decoder.
        dim: D, the width of the transformer.
        num_heads: of every attention.
        ffn_dim: hidden units of the feed-forward blocks.
        dropout: probability, on residual branches and inside the feed-forward blocks.
        attention_dropout: probability, on attention weights.
        deep_supervision: predict from every decoder layer in training, not from the last alone.
        mask_head: makes the mask head, given D, the number of heads and the channels of the finer feature maps; None
            for a model without masks.
        queries: what queries start from, and what training adds to them.
        refinement: "none" predicts all layers' boxes from the same reference; "layers" each from the box before it,
            which the layer also looks from, and "look_forward_twice" trains that layer by it.
        relative_boxes: see :class:`LocationHead`.
        local_attention: see :meth:`ConditionalDecoder.attend_locally`.
        zero_residuals: the residual branches of encoder and decoders start at zero, see :func:`zero_residuals`.
        box_bias: bias the cross-attention by the corners of the boxes that queries look from.
    """

    backbone: Backbone
    classifier: Callable[[int], nn.Module]
    num_queries: int
    num_encoder_layers: int
    num_decoder_layers: int
    dim: int
    num_heads: int
    ffn_dim: int
    dropout: float
    attention_dropout: float
    deep_supervision: bool
    mask_head: Callable[[int, int, list[int]], nn.Module] | None = None
    queries: QueryOptions = field(default_factory=QueryOptions)
    refinement: str = "none"
    relative_boxes: bool = False
    local_attention: bool = False
    zero_residuals: bool = False
    box_bias: bool = False

    @property
    def layer(self) -> tuple[int, int, int, float, float]:
        """Arguments of every transformer layer."""
        return self.dim, self.num_heads, self.ffn_dim, self.dropout, self.attention_dropout
