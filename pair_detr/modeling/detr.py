"""DETR (arXiv 2005.12872)."""

from pair_detr.config.variants import register_variant
from pair_detr.modeling.decoder import TransformerDecoder
from pair_detr.modeling.detector import Detector
from pair_detr.modeling.options import DetectorOptions


@register_variant("detr")
class DETR(Detector):
    """Queries are decoded by standard attention; boxes are predicted outright."""

    published_classification = "softmax"
    has_reference_points = False
    published_name = "DETR"
    transformers_name = "Detr"

    @staticmethod
    def build_decoder(options: DetectorOptions) -> TransformerDecoder:
        """See :meth:`Detector.build_decoder`."""
        return TransformerDecoder(options.num_decoder_layers, *options.layer)
