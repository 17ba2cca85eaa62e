"""MODEL.WEIGHTS: weights of this package or of any known code base, to start a training from or to evaluate."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from pair_detr.checkpoint import (
    PREFIX,
    ConversionError,
    config_mismatches,
    convert,
    hub,
    is_native,
    read_checkpoint,
    zoo,
)
from pair_detr.checkpoint.coco_ids import RAW_IDS
from pair_detr.checkpoint.shapes_backbone import ShapesHandler
from pair_detr.checkpoint.warm_start import MisfitError, adapt_state_dict, require_agreement
from pair_detr.config.renamed import with_current_names
from pair_detr.config.variants import are_related
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.file_stamps import Stamp, are_unchanged, recorded_reads
from pair_detr.utils.finiteness import describe_non_finite
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

for _handler in (ShapesHandler(), hub.HubHandler(), zoo.ZooHandler()):
    PathManager.register_handler(_handler)

_REMEDIES = (
    "Download the file on a machine with internet access and set MODEL.WEIGHTS to its path here, or set "
    'MODEL.WEIGHTS "" to start from random weights.'
)
# What weights need of a config and their tensors do not show: a mismatch lowers AP without an error.
_SILENT_KEYS = (
    "INPUT.",
    "MODEL.PIXEL_",
    "MODEL.RESNETS.",
    "MODEL.DETR.NUM_HEADS",
    "MODEL.DETR.VARIANT",
    "MODEL.DETR.MASK.",
    "MODEL.DETR.LOSS.CLASSIFICATION",
    "MODEL.DETR.PAIR.CLASS_DECODER",
    "MODEL.DETR.QUERY_SELECTION",
    "MODEL.DETR.BOX_REFINEMENT",
    "MODEL.DETR.RELATIVE_BOXES",
    "MODEL.CLIP.LOGIT_SCALE",
    "MODEL.CLIP.QUERIES",
    "MODEL.CLIP.OBJECTNESS",
)
_MASK_HEAD = f"{PREFIX}mask_head."


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not belong to the model."""


@dataclass(frozen=True)
class Weights:
    """Weights under this package's names.

    Attributes:
        path: where they come from.
        layout: whose they were, such as "official DETR".
        state: the state dict of a detector, or of its backbone alone.
        class_names: of its classes, if the file says so.
        required_config: config entries that they were trained with, by their full names, as far as is known.
        category_ids: of the classes in the files of their data, if the file says so.
        metadata: all that a checkpoint of this package says, see :mod:`pair_detr.checkpoint.self_description`.
        input_config: config entries of the images to test with, as far as they are known.
    """

    path: str
    layout: str
    state: dict[str, Tensor]
    class_names: Sequence[str] | None
    required_config: dict[str, Any]
    category_ids: Sequence[int | str] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    input_config: Mapping[str, Any] = field(default_factory=dict)


# What require_weights has read and nobody has taken yet, and from which files, by MODEL.WEIGHTS and whether a
# classifier over COCO's raw ids stays one.
_read_ahead: dict[tuple[str, bool], tuple[Weights, dict[str, Stamp]]] = {}


def read_weights(weights: str, num_classes: int | None = None) -> Weights:
    """Reads ``MODEL.WEIGHTS``, and converts those of another code base.

    What :func:`require_weights` has read is handed over the first time, unless the file has changed since.

    Args:
        weights: local file, folder of transformers, URL, name that Detectron2 resolves (``detectron2://...``), or one
            of the hub (``hub://owner/name``) or of the zoo (``zoo://conditional_detr_r50``).
        num_classes: of the model; a classifier over COCO's raw ids, 91 or 250 of panoptic models, is reduced to the 80
            or 133 classes unless it is one of these.

    Raises:
        FileNotFoundError: it does not exist or cannot be reached.
        CheckpointError: the file cannot be read, is of no known code base, or holds NaN or infinity.
    """
    ahead, stamps = _read_ahead.pop((weights, num_classes in RAW_IDS), (None, {}))
    if ahead is not None and are_unchanged(stamps):
        return ahead
    read = _read(weights, num_classes)
    if fault := describe_non_finite(read.state):
        raise CheckpointError(
            f"MODEL.WEIGHTS {weights}: {fault}. They are of a training that had diverged. Take an earlier checkpoint, "
            "or other weights."
        )
    return read


def read_ahead(weights: str, num_classes: int | None = None) -> Weights:
    """:func:`read_weights`, which hands the same ones over to whoever calls it next."""
    key = (weights, num_classes in RAW_IDS)
    ahead, stamps = _read_ahead.get(key, (None, {}))
    if ahead is not None and are_unchanged(stamps):
        return ahead
    with recorded_reads() as stamps:
        found = read_weights(weights, num_classes)
    _read_ahead.clear()
    _read_ahead[key] = found, stamps
    return found


def _read(weights: str, num_classes: int | None) -> Weights:
    path = fetch_weights(weights)
    try:
        checkpoint = read_checkpoint(path)
        if is_native(checkpoint.state):
            metadata = checkpoint.hints.get("metadata", {})
            names, required_config = metadata.get("class_names"), metadata.get("config", {})
            ids = metadata.get("category_ids")
            return Weights(weights, "this package's", checkpoint.state, names, required_config, ids, metadata)
        converted = convert(checkpoint, keep_91=num_classes in RAW_IDS)
    except ConversionError as error:
        raise CheckpointError(f"MODEL.WEIGHTS {weights}: {error}") from error
    metadata = converted.metadata
    required_config = metadata["config"] | zoo.settings_of(weights)
    return Weights(
        weights,
        metadata["layout"],
        converted.model,
        metadata["class_names"],
        required_config,
        input_config=checkpoint.hints.get("input_config", {}),
    )


def pin_weights(weights: str) -> str:
    """Weights of the hub with the commit that their branch is at now, so that a config names them for good.

    Raises:
        FileNotFoundError: they cannot be reached.
    """
    if not weights.startswith((hub.SCHEME, zoo.SCHEME)):
        return weights
    fetch_weights(weights)
    source = zoo.source_of(weights)
    return hub.pin_revision(source) if source.startswith(hub.SCHEME) else weights


def require_weights(cfg: CfgNode) -> None:
    """Reads ``MODEL.WEIGHTS``, so that a run without them, or with unfit ones, stops before minutes of set-up.

    They are kept for the :func:`read_weights` that follows.

    Raises:
        FileNotFoundError, CheckpointError: as :func:`read_weights`, or they were trained with another channel order,
            other pixel statistics or another backbone than the config says.
        ValueError: there are none, but the detector is frozen.
    """
    if not cfg.MODEL.WEIGHTS:
        if cfg.MODEL.DETR.MASK.FREEZE_DETECTOR:
            raise ValueError(
                'MODEL.DETR.MASK.FREEZE_DETECTOR is True, but MODEL.WEIGHTS is "": the detector would stay random. '
                "Set MODEL.WEIGHTS to a trained detector, or FREEZE_DETECTOR to False."
            )
        return
    weights = read_ahead(cfg.MODEL.WEIGHTS, cfg.MODEL.DETR.NUM_CLASSES)
    require_config(weights.required_config, cfg, f"MODEL.WEIGHTS {weights.path} do")
    dilation, known = "MODEL.RESNETS.RES5_DILATION", weights.required_config.keys()
    if {"MODEL.DETR.VARIANT", "MODEL.RESNETS.DEPTH"} <= known and dilation not in known:
        logger.warning(
            "%s do not say whether they are of a dilated model (DC5): %s is %d in the config. With the wrong one AP is "
            "low.",
            weights.path,
            dilation,
            cfg.MODEL.RESNETS.RES5_DILATION,
        )


def require_config(required_config: Mapping[str, Any], cfg: CfgNode, subject: str) -> None:
    """Makes sure that weights are used as they were trained, where their tensors would not show it.

    Args:
        required_config: entries that they were trained with, by their full names, past or present.
        cfg: of the model.
        subject: of the message.

    Raises:
        CheckpointError: an entry that changes what they compute, but no shape, differs.
    """
    has_effect = tuple(key for key in _SILENT_KEYS if cfg.MODEL.MASK_ON or key != "MODEL.DETR.MASK.")
    required_config = with_current_names(required_config)
    required_config = {key: value for key, value in required_config.items() if key.startswith(has_effect)}
    if are_related(required_config.get("MODEL.DETR.VARIANT"), cfg.MODEL.DETR.VARIANT):
        del required_config["MODEL.DETR.VARIANT"]
    if found := config_mismatches(required_config, cfg):
        raise CheckpointError(
            f"{subject} not fit the config: {'; '.join(found)}. Set these entries, or take other weights."
        )


def load_weights(model: nn.Module, weights: Weights, *, complete: bool = False) -> None:
    """Loads weights into a model, and logs what :func:`.adapt_state_dict` had to adapt.

    Args:
        model: a meta-architecture; its ``class_names``, if it has any, decide which rows of a classifier are taken.
        weights: of any model that this one can start from.
        complete: the weights must determine the whole model, as for an evaluation.

    Raises:
        CheckpointError: they do not fit.
    """
    detector = getattr(model, "detector", None)
    # A head of boxes relative to others has other units.
    is_relative = getattr(getattr(detector, "box_head", None), "relative", False)
    # Weights that do not say it may be relative only if they select boxes at all; then the config is trusted.
    selects = any(key.startswith(f"{PREFIX}query_builder.reference_embed.") for key in weights.state)
    was_relative = weights.required_config.get("MODEL.DETR.RELATIVE_BOXES", selects and is_relative)
    renewed = {"box_head"} if is_relative != was_relative else set()
    try:
        state = model.state_dict()
        start = adapt_state_dict(
            weights.state,
            state,
            weights.class_names,
            getattr(model, "class_names", None),
            detector=type(detector),
            renewed=renewed,
        )
        require_agreement(state, start.state)
    except MisfitError as error:
        raise CheckpointError(f"MODEL.WEIGHTS {weights.path}: {error}") from error
    if complete and start.uninitialized:
        raise CheckpointError(
            f"MODEL.WEIGHTS {weights.path} cannot be evaluated with this config, as they are of another model:\n"
            f"{start.table()}\nUse the config that they were trained with (MODEL.DETR.VARIANT, MODEL.DETR.NUM_CLASSES, "
            "MODEL.DETR.NUM_QUERIES, MODEL.CLIP.TEXT_WEIGHTS of the same text encoder), or train."
        )
    # What is frozen would keep its random start for ever.
    is_frozen = getattr(model, "freeze_detector", False)
    if is_frozen and any(not key.startswith(_MASK_HEAD) for key in start.uninitialized):
        raise CheckpointError(
            f"MODEL.WEIGHTS {weights.path} are not those of the whole detector, which MODEL.DETR.MASK.FREEZE_DETECTOR "
            f"does not train:\n{start.table()}\nTake the weights of a detector with this config's classes and queries, "
            "or set FREEZE_DETECTOR to False."
        )
    model.load_state_dict(start.state, strict=False)
    logger.info("Loaded %s of %s (%s).", counted(len(start.state), "tensor"), weights.path, weights.layout)
    if start.rows:
        logger.warning("What does not come from %s as it is:\n%s", weights.path, start.table())
    log_exchanged_classes(model, weights.class_names, weights.path)


def log_exchanged_classes(model: nn.Module, class_names: Sequence[str] | None, path: str) -> None:
    """Says how the vocabulary of a model differs from the classes that its weights were trained with, if it does."""
    vocabulary = getattr(model, "vocabulary", None)
    if vocabulary is None or class_names is None:
        return
    before, now = ({normalize_name(name): name for name in names} for names in (class_names, vocabulary))
    new, gone = ([a[key] for key in a if key not in b] for a, b in ((now, before), (before, now)))
    if new or gone:
        logger.warning(
            "The vocabulary is not that of the training of %s. New classes: %s. Classes that are gone: %s.",
            path,
            join_some(new) or "none",
            join_some(gone) or "none",
        )
    elif list(before) != list(now):
        logger.info("The vocabulary is that of the training of %s, in another order.", path)


def fetch_weights(weights: str) -> str:
    """Local path of MODEL.WEIGHTS; a FileNotFoundError if it cannot be reached."""
    try:
        path = PathManager.get_local_path(weights)
    except Exception as error:  # each of the handlers of PathManager has exceptions of its own
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights} cannot be fetched ({error}). {_REMEDIES}") from error
    if not Path(path).exists():
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights} does not exist. {_REMEDIES}")
    return path
