"""The weights that a training starts from, and the config that they bring along."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from pair_detr.checkpoint import ConversionError, read_checkpoint
from pair_detr.checkpoint.self_description import CONFIG_TEXT, config_of
from pair_detr.checkpoint.weights import CheckpointError, fetch_weights, read_ahead
from pair_detr.config_files import load_config
from pair_detr.recipes.backbone_files import settings_of_file
from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware

NO_WEIGHTS = "none"
# Of COCO's 80 classes; Pair DETR starts from them as well.
COCO_WEIGHTS = "zoo://conditional_detr_r50"
_SMALL, _FINETUNE = "recipes/small", "finetune/r50"
_DEPTH_OF_FINETUNE = 50


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        cfg: without what the data and the machine decide.
        name: of the weights, for people.
        reason: why these.
        settings: config entries that name the weights, or that they need; ``cfg`` has them.
        detects: whether they are of a whole detector, rather than of a backbone.
        fixes_sizes: whether they are made for images of the config's sizes.
    """

    cfg: CfgNode
    name: str
    reason: str
    settings: Mapping[str, Any]
    detects: bool = False
    fixes_sizes: bool = False


def find_start(weights: str, data: DataSummary, machine: Hardware) -> Start:
    """Finds out what weights are, and which config suits them.

    Args:
        weights: of a detector or of the small network's backbone, by a path or a name; "" takes COCO's on a GPU, and
            ImageNet's of the small network on a CPU; :data:`NO_WEIGHTS` the small network as it is.
        data: to train on.
        machine: to train on.

    Raises:
        FileNotFoundError: there are no such weights, or they cannot be reached.
        CheckpointError: they are neither.
        ValueError: their classifier is one of texts.
    """
    if weights == NO_WEIGHTS:
        # Statistics of random weights are not worth keeping.
        settings = {"MODEL.TIMM.WEIGHTS": "", "MODEL.TIMM.NORM": "BN"}
        return _start_small(settings, "random weights", "as on the command line")
    require_start(weights, machine)
    if not weights and machine.device == "cpu":
        settings = {"MODEL.TIMM.WEIGHTS": load_config(_SMALL).MODEL.TIMM.WEIGHTS}
        return _start_small(settings, "ImageNet weights", "a small network for a CPU")
    reason = "as on the command line" if weights else "it knows objects already"
    return _start_from(weights or COCO_WEIGHTS, data, reason)


def require_start(weights: str, machine: Hardware) -> None:
    """Fetches the weights that :func:`find_start` would take, so that nothing is done in vain without them.

    Raises:
        FileNotFoundError: there are none, or they cannot be reached.
    """
    if weights == NO_WEIGHTS:
        return
    chosen = weights or (load_config(_SMALL).MODEL.TIMM.WEIGHTS if machine.device == "cpu" else COCO_WEIGHTS)
    try:
        fetch_weights(chosen)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The weights to start from, {chosen}, cannot be had: {error.__cause__ or 'there is no such file'}. Name "
            "others with --weights, such as a file that was downloaded elsewhere (see docs/getting_started.md), or "
            f"start from none with --weights {NO_WEIGHTS}, which takes many more images and epochs."
        ) from error


def _start_from(weights: str, data: DataSummary, reason: str) -> Start:
    try:
        found = config_of(weights)
    except CheckpointError:
        if not _fits_small_network(weights):
            raise
        settings = {"MODEL.TIMM.WEIGHTS": weights, **settings_of_file(Path(fetch_weights(weights)))}
        return _start_small(settings, "weights of a backbone", reason)
    if found.MODEL.CLIP.TEXT_WEIGHTS:
        raise ValueError(
            f"--weights {weights}: its classifier is one of texts, and needs texts of your classes; "
            "docs/open_vocabulary.md has configs for it."
        )
    is_own = CONFIG_TEXT in read_ahead(weights).metadata
    cfg = load_config(_FINETUNE)
    if is_own or not _fits_finetune_config(found):
        cfg.MODEL, cfg.INPUT = found.MODEL, found.INPUT
        # What is of its data and of its stages of training.
        cfg.MODEL.DETR.NUM_CLASSES = 0
        cfg.MODEL.DETR.PANOPTIC.ENABLED = cfg.MODEL.DETR.MASK.FREEZE_DETECTOR = False
        cfg.MODEL.DETR.CLASS_AGNOSTIC = False
        cfg.MODEL.MASK_ON = cfg.MODEL.MASK_ON and data.have_masks
    cfg.MODEL.WEIGHTS = weights
    return Start(cfg, "weights of a detector", reason, {"MODEL.WEIGHTS": weights}, detects=True, fixes_sizes=is_own)


def _start_small(settings: Mapping[str, Any], name: str, reason: str) -> Start:
    nodes: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = nodes
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    cfg = load_config(_SMALL)
    # Unlike options, it takes dictionaries.
    cfg.merge_from_other_cfg(CfgNode(nodes))
    return Start(cfg, name, reason, settings)


def _fits_finetune_config(cfg: CfgNode) -> bool:
    """Whether weights are those that Pair DETR starts from there; others are trained as the detector that they are."""
    resnet = cfg.MODEL.RESNETS
    is_resnet_50 = resnet.DEPTH == _DEPTH_OF_FINETUNE and resnet.RES5_DILATION == 1
    return cfg.MODEL.DETR.VARIANT == "conditional_detr" and is_resnet_50 and not cfg.MODEL.MASK_ON


def _fits_small_network(weights: str) -> bool:
    """Whether a file has the backbone's parameters of the small network, by their names and shapes."""
    # Imported here: the other backbones work without timm.
    import timm

    with torch.device("meta"):
        model = timm.create_model(load_config(_SMALL).MODEL.TIMM.NAME)
    try:
        state: Mapping[str, Tensor] = read_checkpoint(fetch_weights(weights)).state
    except ConversionError:
        return False
    # Its classifier is not needed.
    expected = {name: x.shape for name, x in model.named_parameters() if not name.startswith("classifier.")}
    return all(name in state and state[name].shape == shape for name, shape in expected.items())
