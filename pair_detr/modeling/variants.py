"""What MODEL.DETR.VARIANT chooses from. A new variant is a detector, a criterion and one entry here."""

from dataclasses import dataclass

from detectron2.config import CfgNode

from pair_detr.losses.criterion import PairCriterion, SetCriterion
from pair_detr.modeling import DETR, ConditionalDETR, Detector, PairDETR


@dataclass(frozen=True)
class Variant:
    """The parts of a variant.

    Attributes:
        detector: predicts.
        criterion: supervises the predictions.
        classification: "focal" or "softmax", what its paper trains with.
    """

    detector: type[Detector]
    criterion: type[SetCriterion]
    classification: str


VARIANTS: dict[str, Variant] = {
    "pair_detr": Variant(PairDETR, PairCriterion, "focal"),
    "conditional_detr": Variant(ConditionalDETR, SetCriterion, "focal"),
    "detr": Variant(DETR, SetCriterion, "softmax"),
}


def variant_of(cfg: CfgNode) -> Variant:
    """The entry that MODEL.DETR.VARIANT names.

    Raises:
        ValueError: there is none.
    """
    name = cfg.MODEL.DETR.VARIANT
    if name not in VARIANTS:
        raise ValueError(f"MODEL.DETR.VARIANT is {name!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def classification_of(cfg: CfgNode) -> str:
    """The reading of the logits that MODEL.DETR.LOSS.CLASSIFICATION names; "auto" is that of the variant's paper."""
    name = cfg.MODEL.DETR.LOSS.CLASSIFICATION
    return variant_of(cfg).classification if name == "auto" else name
