"""Which parts of a model other code bases cannot hold."""

from collections.abc import Iterable, Mapping
from typing import Any

from pair_detr.checkpoint.formats.registry import TORCHVISION_PIXELS
from pair_detr.config.variants import VARIANTS

# By config entry: what the others have, and what a model with anything else has instead.
_CLASS_DECODER = "MODEL.DETR.PAIR.CLASS_DECODER"
_QUERY_DECODER, _SPATIAL = "MODEL.DETR.MASK.QUERY_DECODER", "MODEL.DETR.MASK.SPATIAL_QUERY"
_FIXED_SIZE = "INPUT.FIXED_SIZE"
_MEAN, _STD, _STRIDE = "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1"


def unsupported_tensors(shapes: Mapping[str, Any]) -> list[str]:
    """Parts of a detector, by the names and shapes of its tensors, that no other code base here has; one phrase each.

    Args:
        shapes: by the names of this package, without "detector.".
    """
    found = []
    if _has_part(shapes, "class_head.projection"):
        found.append("its classifier compares with texts (MODEL.CLIP.TEXT_WEIGHTS)")
    if _has_part(shapes, "backbone") and "backbone.stem.conv1.weight" not in shapes:
        found.append("its backbone is no ResNet of Detectron2 (MODEL.BACKBONE.NAME)")
    if _has_part(shapes, "top_left_decoder") and list(shapes.get("box_head.mlp.layers.2.bias", ())) != [4]:
        found.append(
            "it decodes boxes from pairs (MODEL.DETR.PAIR.BOX_DECODING pair; with center it becomes a Conditional DETR)"
        )
    if _has_part(shapes, "query_builder.reference_embed"):
        found.append(
            "it selects what its queries look from (MODEL.DETR.QUERY_SELECTION; with none it becomes a Conditional "
            "DETR)"
        )
    return found


def unsupported_settings(settings: Mapping[str, Any], target: str) -> list[str]:
    """Parts of a model, by the config entries that it was trained with, that a code base cannot hold; a phrase each.

    Args:
        settings: by their full names; any may be absent.
        target: "official" or "transformers".
    """
    usual: dict[str, tuple[Any, str]] = {
        "INPUT.FORMAT": ("RGB", "the channels of its images"),
        _CLASS_DECODER: ("center", "the decoder of its classes"),
        _QUERY_DECODER: ("center", "the decoder of its masks"),
        _SPATIAL: (False, "the queries of its masks"),
    }
    # Elsewhere, padding is no part of an image.
    usual[_FIXED_SIZE] = ([], "the size that its images are padded to")
    if target == "official":
        for key, what in (
            (_MEAN, "its pixel mean"),
            (_STD, "its pixel deviation"),
            (_STRIDE, "the stride of its ResNet"),
        ):
            usual[key] = (TORCHVISION_PIXELS[key], what)
    if (variant := settings.get("MODEL.DETR.VARIANT")) in VARIANTS:
        published = VARIANTS[variant].published_classification
        usual["MODEL.DETR.LOSS.CLASSIFICATION"] = (published, "how its logits become scores")
    found = []
    for key, (value, what) in usual.items():
        own = settings.get(key, value)
        if (list(own) if isinstance(own, tuple) else own) != value:
            found.append(f"{what} ({key} {own})")
    return found


def _has_part(shapes: Iterable[str], part: str) -> bool:
    return any(key.startswith(f"{part}.") for key in shapes)
