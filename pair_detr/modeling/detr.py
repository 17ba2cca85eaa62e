"""DETR (arXiv 2005.12872)."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from pair_detr.config.variants import register_variant
from pair_detr.modeling.decoder import TransformerDecoder
from pair_detr.modeling.detector import Detector, initialize_transformer
from pair_detr.modeling.heads import LocationHead
from pair_detr.structures import Memory, Predictions


@register_variant("detr")
class DETR(Detector):
    """Queries are decoded by standard attention; boxes are predicted outright."""

    published_classification = "softmax"
    has_reference_points = False

    @configurable
    def __init__(self, *, classifier: Callable[[int], nn.Module], num_decoder_layers: int, **shared: Any) -> None:
        """
        Args:
            classifier: makes the module that maps (..., D) states of the decoder to (..., C) logits, given D.
            num_decoder_layers: L.
            shared: see :class:`Detector`.
        """
        super().__init__(**shared)
        dim = shared["dim"]
        self.decoder = TransformerDecoder(
            num_decoder_layers, dim, shared["num_heads"], shared["ffn_dim"], shared["dropout"]
        )
        initialize_transformer(self.decoder)
        self.class_head = classifier(dim)
        self.box_head = LocationHead(dim, 4, zero_init=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See :meth:`Detector.from_config`."""
        return super().from_config(cfg) | {"num_decoder_layers": cfg.MODEL.DETR.DEC_LAYERS}

    def decode(self, memory: Memory) -> Predictions:
        """See :meth:`Detector.decode`."""
        states = self.supervised(self.decoder(memory, self.query_embed.weight))
        masks = self.mask_queries(states, memory)
        return Predictions(self.class_head(states), self.box_head(states), states, mask_queries=masks)
