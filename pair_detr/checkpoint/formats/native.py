"""How this package names the weights of its models."""

from collections.abc import Iterable

PREFIX = "detector."
# A part that no other code base has; and what stands below a "detector." that is the attribute of somebody's module.
_OWN_PART = "class_head"
_FOREIGN_PARTS = {
    "bbox_embed",
    "bbox_head",
    "bbox_predictor",
    "class_embed",
    "class_labels_classifier",
    "detector",
    "detr",
    "model",
    "module",
    "transformer",
}


def is_native(keys: Iterable[str]) -> bool:
    """Whether the keys, or those of a state dict, are of this package's models."""
    parts = {key.split(".")[1] for key in keys if key.startswith(PREFIX)}
    return bool(parts) and (_OWN_PART in parts or not parts & _FOREIGN_PARTS)


def is_inner(keys: Iterable[str]) -> bool:
    """Whether the keys are those of this package's detector itself, without the meta-architecture around it."""
    return any(key.startswith(f"{_OWN_PART}.") for key in keys)
