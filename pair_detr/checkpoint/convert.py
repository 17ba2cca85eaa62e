"""From the weights of any known code base to this package's, and what has to be known about them."""

import logging
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pair_detr.checkpoint.coco_ids import RAW_IDS
from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.formats.native import PREFIX
from pair_detr.checkpoint.formats.registry import CAFFE2_PIXELS, Layout, Match, recognize
from pair_detr.checkpoint.state_dicts import METADATA, Checkpoint

logger = logging.getLogger(__name__)

AUTHOR = "pair_detr"


@dataclass(frozen=True)
class Converted:
    """Weights of this package.

    Attributes:
        model: a state dict of :class:`pair_detr.modeling.meta_arch.DetectionTransformer`, or of its backbone alone.
        metadata: plain values: "source", "layout", "variant" (None for a backbone), "num_classes", "class_names" (where
            known) and "config", the entries of a config that the weights need, by their full names.
    """

    model: dict[str, Tensor]
    metadata: dict[str, Any]

    def checkpoint(self) -> dict[str, Any]:
        """What a checkpoint of Detectron2 holds."""
        return {"model": self.model, "__author__": AUTHOR, METADATA: self.metadata}


def convert(
    checkpoint: Checkpoint, *, source: str = "auto", num_classes: int | None = None, keep_91: bool = False
) -> Converted:
    """Converts weights, all of them or none.

    Args:
        checkpoint: weights in the layout of a known code base.
        source: which one; "auto" recognizes it.
        num_classes: required number of classes after the conversion; None takes what there is.
        keep_91: keep classifiers over COCO's 91 raw ids (250 of panoptic models) rather than take the 80 (133) classes
            out of them.

    Raises:
        ConversionError: the weights fit no code base exactly, or have another number of classes.
    """
    try:
        match = recognize(checkpoint.state, source)
    except ConversionError as error:
        raise ConversionError(f"{error} Looked at {checkpoint.describe()}.") from error
    # Exact matches have an architecture.
    assert match.architecture is not None
    config = _pixels(match.layout, checkpoint) | match.architecture.settings()
    state, names = match.renamed, None
    transformer = match.architecture.transformer
    if transformer is not None:
        state, count, names = _convert_classes(match, checkpoint, num_classes, keep_91)
        config |= {"MODEL.DETR.NUM_CLASSES": count}
        if "num_heads" in checkpoint.hints:
            config["MODEL.DETR.NUM_HEADS"] = checkpoint.hints["num_heads"]
        if "dilation" in checkpoint.hints:
            config["MODEL.RESNETS.RES5_DILATION"] = 2 if checkpoint.hints["dilation"] else 1
    metadata = {
        "source": match.layout.sources[0],
        "layout": match.layout.name,
        "variant": match.layout.variant,
        "num_classes": config.get("MODEL.DETR.NUM_CLASSES"),
        "class_names": names,
        "config": config,
    }
    return Converted({PREFIX + key: tensor for key, tensor in state.items()}, metadata)


def describe(path: str, converted: Converted) -> str:
    """One line for a log: what the weights are and what they need."""
    metadata = converted.metadata
    values = sum(tensor.numel() for tensor in converted.model.values())
    required_config = ", ".join(f"{key} {value}" for key, value in metadata["config"].items())
    return (
        f"{path}: {metadata['layout']}, {len(converted.model)} tensors, {values:,} values. It needs {required_config}."
    )


def _pixels(layout: Layout, checkpoint: Checkpoint) -> dict[str, Any]:
    author = checkpoint.hints.get("author")
    if layout.name != "Detectron2's ResNet" or author == "torchvision":
        return layout.pixels | checkpoint.hints.get("pixels", {})
    # The names are the same for backbones of Caffe (BGR) and of torchvision.
    if author == "Caffe2":
        return CAFFE2_PIXELS
    raise ConversionError(
        "The backbone does not say whether it was trained as torchvision's are (RGB, ImageNet statistics, stride in "
        'the 3x3 convolution) or Caffe\'s (BGR, standard deviation 1, stride in the 1x1). Add "__author__": '
        '"torchvision" or "Caffe2" to the file, next to "model".'
    )


def _convert_classes(
    match: Match, checkpoint: Checkpoint, num_classes: int | None, keep_91: bool
) -> tuple[dict[str, Tensor], int, list[str] | None]:
    """The state dict, its number of classes, and their names where they are known."""
    state, count = match.renamed, match.architecture.transformer.num_classes
    names = checkpoint.hints.get("class_names")
    if (raw := RAW_IDS.get(count)) and raw.are_meant_by(names):
        if keep_91 or num_classes == count:
            names = raw.all_names()
        else:
            message = "The classifier has %d rows for COCO's raw ids: took those of its %d classes."
            logger.info(message, raw.count, len(raw.ids))
            state, count, names = raw.keep_used(state), len(raw.ids), raw.names
    if num_classes is not None and count != num_classes:
        raise ConversionError(
            f"The weights are for {count} classes, --num-classes is {num_classes}. Convert them as they are; training "
            "adapts the classifier when it loads them into a model with another number of classes."
        )
    # A list of another length is transformers' default of two labels.
    return state, count, list(names) if names is not None and len(names) == count else None
