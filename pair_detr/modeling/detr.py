"""DETR (arXiv 2005.12872)."""

from typing import Any

from detectron2.config import CfgNode, configurable

from pair_detr.classification import Classification
from pair_detr.modeling.decoder import TransformerDecoder
from pair_detr.modeling.detector import Detector, initialize_transformer
from pair_detr.modeling.features import Memory, Predictions
from pair_detr.modeling.heads import LocationHead, classification_head


class DETR(Detector):
    """Queries are decoded by standard attention; boxes are predicted outright."""

    @configurable
    def __init__(
        self, *, num_classes: int, num_decoder_layers: int, classification: Classification, **shared: Any
    ) -> None:
        """
        Args:
            num_classes: without the no-object class.
            num_decoder_layers: L.
            classification: how logits are read; decides the rows and the bias of the classifier.
            shared: see :class:`Detector`.
        """
        super().__init__(**shared)
        dim = shared["dim"]
        self.decoder = TransformerDecoder(
            num_decoder_layers, dim, shared["num_heads"], shared["ffn_dim"], shared["dropout"]
        )
        initialize_transformer(self.decoder)
        self.class_head = classification_head(dim, classification.num_logits(num_classes), classification.prior_prob)
        self.box_head = LocationHead(dim, 4, zero_init=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See :meth:`Detector.from_config`."""
        return super().from_config(cfg) | {"num_decoder_layers": cfg.MODEL.DETR.DEC_LAYERS}

    def decode(self, memory: Memory) -> Predictions:
        """See :meth:`Detector.decode`."""
        states = self.supervised(self.decoder(memory, self.query_embed.weight))
        return Predictions(logits=self.class_head(states), boxes=self.box_head(states))
