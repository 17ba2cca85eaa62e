"""What passes between the stages of a detector."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Memory:
    """Feature tokens of a batch, before or after the encoder.

    Attributes:
        tokens: (B, M, D), the cells of the feature map row by row.
        position: (B, M, D) sine encoding of their positions, or (1, M, D) where it is the same for all images.
        key_mask: (B, 1, 1, M) bool, false in the padding; None where no image is padded.
        maps: of the backbone; None in models without masks.
    """

    tokens: Tensor
    position: Tensor
    key_mask: Tensor | None
    maps: "FeatureMaps | None" = None


@dataclass
class FeatureMaps:
    """What masks are refined with.

    Attributes:
        projected: (B, D, H, W), the input of the encoder; its M cells are the tokens.
        finer: up to three (B, C_i, H_i, W_i) of the stages before it, the coarsest first.
    """

    projected: Tensor
    finer: list[Tensor]


@dataclass
class MaskQueries:
    """What a mask can be asked for with.

    Attributes:
        states: (B, Q, D) of the last decoder layer.
        memory: the encoder's output.
        reference: (Q, 2) points, x and y in 0..1, that the queries look from; None for queries without.
    """

    states: Tensor
    memory: Memory
    reference: Tensor | None = None


@dataclass
class Predictions:
    """Outputs of L decoder layers for B images and Q queries, the last layer last. At inference L is 1.

    Attributes:
        logits: (L, B, Q, C) class logits; C counts the no-object column where the classifier has one.
        boxes: (L, B, Q, 4) cxcywh, normalised to the unpadded image.
        states: (L, B, Q, D) states of the decoder that the logits were made from.
        top_left: (L, B, Q, 2) x and y of the top-left corner, normalised alike. Pair DETR in training only.
        pair_embeddings: two (P, B, Q, E) of the centre and the top-left decoder, of their last P layers. Pair DETR in
            training only.
        mask_queries: of models with masks only.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor | None = None
    top_left: Tensor | None = None
    pair_embeddings: tuple[Tensor, Tensor] | None = None
    mask_queries: MaskQueries | None = None
