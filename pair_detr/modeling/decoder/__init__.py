"""Transformer decoders with one interface: ``decoder(memory, queries)``.

Args:
    memory: the encoder's output.
    queries: N of each image, see :class:`pair_detr.structures.Queries`.

Returns:
    (L, B, N, D) normalized states after each layer, and the reference of the queries, (.., 2) or (.., 4); None for
    decoders without.
"""

from pair_detr.modeling.decoder.conditional import ConditionalDecoder
from pair_detr.modeling.decoder.standard import TransformerDecoder

__all__ = ["ConditionalDecoder", "TransformerDecoder"]
