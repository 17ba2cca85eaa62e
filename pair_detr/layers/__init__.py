"""Building blocks: tensors in, tensors out, no configuration."""

from pair_detr.layers.attention import MultiHeadAttention, attend, attend_in_groups
from pair_detr.layers.box_bias import BoxBias
from pair_detr.layers.boxes import box_iou_pairs, covered_share, cxcywh_to_xyxy, inverse_sigmoid
from pair_detr.layers.dropout import Dropout
from pair_detr.layers.feed_forward import MLP, FeedForward, multi_linear
from pair_detr.layers.position_encoding import point_encoding, sine_position_encoding
from pair_detr.layers.precision import FullPrecision
from pair_detr.layers.text_attention import TextCrossAttention

__all__ = [
    "MLP",
    "BoxBias",
    "Dropout",
    "FeedForward",
    "FullPrecision",
    "MultiHeadAttention",
    "TextCrossAttention",
    "attend",
    "attend_in_groups",
    "box_iou_pairs",
    "covered_share",
    "cxcywh_to_xyxy",
    "inverse_sigmoid",
    "multi_linear",
    "point_encoding",
    "sine_position_encoding",
]
