"""Transformer decoders. All map ``(memory: Memory, queries: (Q, D))`` to the normalised states of their layers."""

from pair_detr.modeling.decoder.conditional import ConditionalDecoder
from pair_detr.modeling.decoder.standard import TransformerDecoder

__all__ = ["ConditionalDecoder", "TransformerDecoder"]
