"""Transformer decoders with one interface: ``decoder(memory, queries, query_mask=None, reference=None)``.

Args:
    memory: the encoder's output.
    queries: (Q, D) learned positional queries, or (B, Q, D) of each image.
    query_mask: (Q, Q) bool, true where a query (row) may attend to another (column); None if all may.
    reference: (Q, 2) or (B, Q, 2) points, or (.., 4) boxes cxcywh, fp32 in 0..1, that the queries look from; None for
        the decoder's own.

Returns:
    (L, B, Q, D) normalized states after each layer, and the reference; None for decoders without.
"""

from pair_detr.modeling.decoder.conditional import ConditionalDecoder
from pair_detr.modeling.decoder.standard import TransformerDecoder

__all__ = ["ConditionalDecoder", "TransformerDecoder"]
