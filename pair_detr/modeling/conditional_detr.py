"""Conditional DETR (arXiv 2108.06152)."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from pair_detr.config.variants import register_variant
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.detector import Detector, initialize_transformer
from pair_detr.modeling.heads import LocationHead
from pair_detr.structures import Memory, Predictions


@register_variant("conditional_detr")
class ConditionalDETR(Detector):
    """Queries own reference points, attend to the memory around them, and predict boxes as offsets to them."""

    @configurable
    def __init__(self, *, classifier: Callable[[int], nn.Module], num_decoder_layers: int, **shared: Any) -> None:
        """Arguments as of :class:`pair_detr.modeling.DETR`."""
        super().__init__(**shared)
        dim = shared["dim"]
        layers = ConditionalDecoder.build_layers(
            num_decoder_layers, dim, shared["num_heads"], shared["ffn_dim"], shared["dropout"]
        )
        self.decoder = ConditionalDecoder(layers, dim)
        initialize_transformer(self.decoder)
        self.class_head = classifier(dim)
        self.box_head = LocationHead(dim, 4, zero_init=True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See :meth:`Detector.from_config`."""
        return super().from_config(cfg) | {"num_decoder_layers": cfg.MODEL.DETR.DEC_LAYERS}

    def decode(self, memory: Memory) -> Predictions:
        """See :meth:`Detector.decode`."""
        states, reference = self.decoder(memory, self.query_embed.weight)
        states = self.supervised(states)
        masks = self.mask_queries(states, memory, reference)
        return Predictions(self.class_head(states), self.box_head(states, reference), states, mask_queries=masks)
