"""Conditional DETR (arXiv 2108.06152)."""

from typing import Any

from detectron2.config import CfgNode, configurable

from pair_detr.classification import Classification
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.detector import Detector, initialize_transformer
from pair_detr.modeling.features import Memory, Predictions
from pair_detr.modeling.heads import LocationHead, classification_head


class ConditionalDETR(Detector):
    """Queries own reference points, attend to the memory around them, and predict boxes as offsets to them."""

    @configurable
    def __init__(
        self, *, num_classes: int, num_decoder_layers: int, classification: Classification, **shared: Any
    ) -> None:
        """Arguments as of :class:`pair_detr.modeling.DETR`."""
        super().__init__(**shared)
        dim = shared["dim"]
        layers = ConditionalDecoder.build_layers(
            num_decoder_layers, dim, shared["num_heads"], shared["ffn_dim"], shared["dropout"]
        )
        self.decoder = ConditionalDecoder(layers, dim)
        initialize_transformer(self.decoder)
        self.class_head = classification_head(dim, classification.num_logits(num_classes), classification.prior_prob)
        self.box_head = LocationHead(dim, 4, zero_init=True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See :meth:`Detector.from_config`."""
        return super().from_config(cfg) | {"num_decoder_layers": cfg.MODEL.DETR.DEC_LAYERS}

    def decode(self, memory: Memory) -> Predictions:
        """See :meth:`Detector.decode`."""
        states, reference = self.decoder(memory, self.query_embed.weight)
        states = self.supervised(states)
        return Predictions(logits=self.class_head(states), boxes=self.box_head(states, reference))
