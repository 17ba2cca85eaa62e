"""What a checkpoint says about its model, so that nothing else is needed to build it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from pair_detr.checkpoint import zoo
from pair_detr.checkpoint.weights import CheckpointError, fetch_weights, read_ahead
from pair_detr.config_files import load_config, parse_config
from pair_detr.data import PanopticClasses

# Entries of the metadata.
CONFIG_TEXT = "config_text"
_PANOPTIC = "panoptic_classes"
_VOCABULARY = "vocabulary"
_FIELDS = ("names", "is_thing", "category_ids", "channels")


def describe_model(model: nn.Module, config_text: str = "") -> dict[str, Any]:
    """Plain values, and the texts of a vocabulary, that say what a model detects.

    Args:
        model: a meta-architecture.
        config_text: of the config that it is built from, in YAML; "" if it is not known.
    """
    known: dict[str, Any] = {}
    for key in ("class_names", "category_ids"):
        value = getattr(model, key, None)
        known[key] = value if value is None else list(value)
    if config_text:
        known[CONFIG_TEXT] = config_text
    if (panoptic := getattr(model, "panoptic", None)) is not None:
        known[_PANOPTIC] = {name: list(getattr(panoptic.classes, name)) for name in _FIELDS}
    if (names := getattr(model, "vocabulary", None)) is not None:
        known[_VOCABULARY] = {"names": list(names), "weights": model.detector.class_head.texts.detach().cpu()}
    return known


def panoptic_classes_of(metadata: Mapping[str, Any]) -> PanopticClasses | None:
    """The classes of a panoptic model; None of another, or where they are not known."""
    content = metadata.get(_PANOPTIC)
    if not isinstance(content, Mapping) or set(content) != set(_FIELDS):
        return None
    return PanopticClasses(**{name: tuple(content[name]) for name in _FIELDS})


def config_of(weights: str, options: Sequence[Any] = (), datasets: bool = False) -> CfgNode:
    """The config of a model, from its weights alone.

    That of a training is in the checkpoint: as values, which run no code and need none of the files that it names.
    Weights of other code bases show their architecture; those of the zoo are of a config of this package.

    Args:
        weights: MODEL.WEIGHTS, which the config has.
        options: keys and values in turn, which count more than those of the weights.
        datasets: keep those of the training, which may not be where they were.

    Raises:
        FileNotFoundError, CheckpointError: the weights cannot be read, or do not tell their config.
        KeyError, ValueError: as :func:`pair_detr.config_files.load_config`.
    """
    own = ["MODEL.WEIGHTS", weights]
    if weights.startswith(zoo.SCHEME):
        entry = zoo.find_entry(weights)
        settings = [part for item in entry.settings for part in item]
        return load_config(entry.config, [*settings, *own, *options])
    found = read_ahead(weights)
    if isinstance(text := found.metadata.get(CONFIG_TEXT), str):
        own += ["MODEL.DEVICE", load_config("").MODEL.DEVICE, "MODEL.TIMM.WEIGHTS", ""]
        own += [] if datasets else ["DATASETS.REGISTER", [], "DATASETS.TRAIN", (), "DATASETS.TEST", ()]
        if _VOCABULARY in found.metadata:
            # There are its texts as well.
            own += ["MODEL.CLIP.TEXT_WEIGHTS", fetch_weights(weights), "MODEL.CLIP.VOCABULARY", ""]
        return parse_config(text, f"The config in {weights}", [*own, *options])
    if "MODEL.DETR.VARIANT" in found.required_config and "MODEL.RESNETS.DEPTH" in found.required_config:
        settings = [part for item in (found.required_config | found.input_config).items() for part in item]
        return load_config("", [*settings, *own, *options])
    raise CheckpointError(
        f"{weights} does not tell the config of its model: it is of an earlier release, or a backbone. Give the config "
        f"file that it was trained with, such as {Path(weights).with_name('config.yaml')}."
    )
