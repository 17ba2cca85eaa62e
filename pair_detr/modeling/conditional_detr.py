"""Conditional DETR (arXiv 2108.06152)."""

from pair_detr.config.variants import register_variant
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.detector import Detector
from pair_detr.modeling.options import DetectorOptions


@register_variant("conditional_detr")
class ConditionalDETR(Detector):
    """Queries own reference points, attend to the memory around them, and predict boxes as offsets to them."""

    published_name = "Conditional DETR"
    transformers_name = "ConditionalDetr"

    @staticmethod
    def build_decoder(options: DetectorOptions) -> ConditionalDecoder:
        """See :meth:`Detector.build_decoder`."""
        layers = ConditionalDecoder.build_layers(options.num_decoder_layers, *options.layer)
        decoder = ConditionalDecoder(layers, options.dim, options.num_heads if options.box_bias else 0)
        freeze_unused_points(decoder, options)
        return decoder


def freeze_unused_points(decoder: ConditionalDecoder, options: DetectorOptions) -> None:
    """Freezes a decoder's own reference points where those of its queries are selected.

    They stay for the sake of the weights' names; DistributedDataParallel would wait for their gradients.
    """
    decoder.ref_point_head.requires_grad_(options.queries.selection == "none")
