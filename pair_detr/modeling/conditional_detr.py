"""Conditional DETR (arXiv 2108.06152)."""

from pair_detr.config.variants import register_variant
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.detector import Detector, DetectorOptions


@register_variant("conditional_detr")
class ConditionalDETR(Detector):
    """Queries own reference points, attend to the memory around them, and predict boxes as offsets to them."""

    published_name = "Conditional DETR"
    transformers_name = "ConditionalDetr"

    @staticmethod
    def build_decoder(options: DetectorOptions) -> ConditionalDecoder:
        """See :meth:`Detector.build_decoder`."""
        layers = ConditionalDecoder.build_layers(options.num_decoder_layers, *options.layer)
        return ConditionalDecoder(layers, options.dim, options.num_heads if options.box_bias else 0)
