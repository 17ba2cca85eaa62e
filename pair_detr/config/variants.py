"""What MODEL.DETR.VARIANT chooses from: the detectors that have registered themselves, this package's or your own."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from detectron2.config import CfgNode

if TYPE_CHECKING:
    from pair_detr.modeling.detector import Detector

VARIANTS: dict[str, type["Detector"]] = {}


def register_variant(name: str) -> Callable[[type["Detector"]], type["Detector"]]:
    """Decorates a detector that MODEL.DETR.VARIANT is to call ``name``.

    Raises:
        ValueError: the name is taken.
    """

    def register(detector: type["Detector"]) -> type["Detector"]:
        taken = VARIANTS.get(name)
        # A notebook's cell, or a module that is reloaded, defines the same class again.
        if taken is not None and (taken.__module__, taken.__qualname__) != (detector.__module__, detector.__qualname__):
            raise ValueError(f"The variant {name!r} is registered already, as {taken.__name__}.")
        VARIANTS[name] = detector
        return detector

    return register


def variant_of(cfg: CfgNode) -> type["Detector"]:
    """The detector that MODEL.DETR.VARIANT names.

    Raises:
        ValueError: there is none.
    """
    name = cfg.MODEL.DETR.VARIANT
    if name not in VARIANTS:
        raise ValueError(f"MODEL.DETR.VARIANT is {name!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def are_related(a: str | None, b: str | None) -> bool:
    """Whether one of two variants is the other with more parts, so that either starts from the other's weights."""
    if a not in VARIANTS or b not in VARIANTS:
        return False
    return issubclass(VARIANTS[a], VARIANTS[b]) or issubclass(VARIANTS[b], VARIANTS[a])


def classification_of(cfg: CfgNode) -> str:
    """MODEL.DETR.LOSS.CLASSIFICATION, "focal" or "softmax"; "auto" is that of the variant's paper."""
    name = cfg.MODEL.DETR.LOSS.CLASSIFICATION
    return variant_of(cfg).published_classification if name == "auto" else name
