"""The classes of a model, from its training data, and those of the other datasets of its config."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from pair_detr.config.choices import MULTI_DATASET_SAMPLER
from pair_detr.data.catalog import annotation_type_of, class_names_of
from pair_detr.data.class_matching import ClassMismatchError, describe_classes, match_order
from pair_detr.data.datasets.panoptic_classes import category_ids_of
from pair_detr.data.scalars import id_of

_KEY = "MODEL.DETR.NUM_CLASSES"


def resolve_num_classes(cfg: CfgNode) -> int:
    """Number of classes that a model for ``cfg`` predicts.

    ``MODEL.DETR.NUM_CLASSES`` if it is set, else the number of ``thing_classes`` of the data in ``DATASETS.TRAIN`` (of
    ``DATASETS.TEST`` if there are none). A number that is set must be that of every registered dataset of the config;
    without one, these must have the same classes, in any order. A class-agnostic model may be tested on others.

    Raises:
        KeyError: the number is to be taken from a dataset that is not registered.
        ValueError: the number does not agree with a dataset, datasets differ in their classes, or neither a number
            nor a dataset with classes is given.
        FileNotFoundError: the number is to be taken from a dataset whose files are missing.
    """
    num_classes = cfg.MODEL.DETR.NUM_CLASSES
    if num_classes < 0:
        raise ValueError(f"{_KEY} is {num_classes}; set the number of classes, or 0 to take it from the data.")
    test_sets = () if cfg.MODEL.DETR.CLASS_AGNOSTIC else cfg.DATASETS.TEST
    if num_classes > 0:
        for name in dict.fromkeys((*datasets_in_label_space(cfg), *test_sets)):
            classes = class_names_or_none(name)
            if classes is not None and num_classes != len(classes):
                raise ValueError(
                    f'{_KEY} {num_classes} does not agree with dataset "{name}", which has '
                    f"{describe_classes(classes)}. "
                    f"Set {_KEY} to {len(classes)}, or to 0 to take it from the training data, or correct DATASETS."
                )
        return num_classes

    sources = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    if not sources:
        raise ValueError(f"{_KEY} is 0 and DATASETS.TRAIN and DATASETS.TEST are empty: set one of them.")
    classes = class_names_of(sources[0])
    if not classes:
        raise ValueError(f'{_KEY} is 0, but dataset "{sources[0]}" has no thing_classes in its metadata: set either.')
    for name in datasets_in_label_space(cfg)[1:]:
        match_training_set(sources[0], name)
    for name in test_sets:
        match_test_set(classes, name, f'the classes of "{sources[0]}"')
    return len(classes)


def match_training_set(first: str, name: str) -> tuple[int, ...] | None:
    """Finds the classes of a training set in those of the first, which the model has.

    Returns:
        the index in ``first`` of each class of ``name``; None if they have the same order, or no names.

    Raises:
        ValueError: the classes differ in more than their order.
        KeyError, OSError: see :func:`pair_detr.data.catalog.class_names_of`.
    """
    expected, classes = class_names_of(first), class_names_of(name)
    if expected is None and classes is None:
        return None
    try:
        return match_order(classes or [], expected or [])
    except ClassMismatchError as error:
        raise ValueError(
            f'DATASETS.TRAIN mixes datasets of different classes: "{name}" has {describe_classes(classes or [])}, '
            f'"{first}" {describe_classes(expected or [])} ({error}). Train on one of them, give both the same '
            f"classes, or set DATALOADER.SAMPLER_TRAIN {MULTI_DATASET_SAMPLER}, which takes the classes of the first."
        ) from error


def match_test_set(
    classes: Sequence[str],
    name: str,
    origin: str,
    remedy: str = "Set DATASETS.TEST to data with the classes of the model, in any order, or to () to train without "
    "evaluation.",
) -> tuple[int, ...] | None:
    """Finds the classes of a model in those of a test set; ``origin`` and ``remedy`` are for the message.

    Returns:
        the index in the test set of each class of the model; None if they have the same order, or the classes of the
        test set are not known.

    Raises:
        ValueError: the classes differ in more than their order, so that detections cannot be compared with objects.
    """
    found = class_names_or_none(name)
    if found is None:
        return None
    try:
        return match_order(classes, found)
    except ClassMismatchError as error:
        raise ValueError(
            f'The model has {describe_classes(classes)}, {origin}, but test set "{name}" has '
            f"{describe_classes(found)} ({error}). {remedy}"
        ) from error


@dataclass(frozen=True)
class ClassDifference:
    """How the classes of a dataset differ from those of another, and whether a run on both stops."""

    text: str
    stops: bool


def compare_classes(first: str, name: str) -> ClassDifference | None:
    """Compares the classes of two datasets, of which a model would have those of the first.

    Returns:
        None where they are the same in the same order, or not known.
    """
    try:
        expected, classes = class_names_of(first), class_names_of(name)
    except (KeyError, OSError, ValueError, ImportError):
        return None
    if not expected or not classes:
        return None
    try:
        order = match_order(classes, expected)
    except ClassMismatchError as error:
        text = f"it has {describe_classes(classes)}, {first} {describe_classes(expected)} ({error})"
        if annotation_type_of(name) == "image":
            return ClassDifference(f"{text}; labels are matched by name", stops=False)
        return ClassDifference(f"{text}; a model of one can be neither trained nor evaluated on the other", stops=True)
    if order is None:
        return None
    if any(MetadataCatalog.get(x).get("stuff_dataset_id_to_contiguous_id") for x in (first, name)):
        return ClassDifference(f"those of {first} in another order, which panoptic data must not have", stops=True)
    return ClassDifference(f"those of {first} in another order; they are matched by name", stops=False)


def resolve_class_names(cfg: CfgNode) -> list[str] | None:
    """Names of the classes that a model for ``cfg`` predicts; None where no dataset of the config can tell."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if classes := class_names_or_none(name):
            return classes
    return None


def resolve_category_ids(cfg: CfgNode, names: Sequence[str] | None) -> tuple[int | str, ...] | None:
    """Ids of classes in the files of the data, such as COCO's 1 to 90; None where no dataset can tell."""
    if names is None:
        return None
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if (ids := category_ids_if_at_hand(name, names)) is not None:
            return ids
    return None


def category_ids_if_at_hand(name: str, names: Sequence[str]) -> tuple[int | str, ...] | None:
    """Ids of classes in the files of a dataset; None if it has other classes, says no ids, or cannot be loaded."""
    try:
        classes, ids = class_names_of(name), category_ids_of(MetadataCatalog.get(name))
        order = match_order(names, classes or [])
    except (KeyError, OSError, ValueError, ImportError):
        return None
    if ids is None:
        return None
    ordered = ids if order is None else [ids[index] for index in order]
    return tuple(map(id_of, ordered))


def datasets_in_label_space(cfg: CfgNode) -> tuple[str, ...]:
    """The training sets whose class indices are those of the model."""
    # Others that are mixed in are brought to the classes of the first, by name.
    mixed = cfg.DATALOADER.SAMPLER_TRAIN == MULTI_DATASET_SAMPLER
    return tuple(cfg.DATASETS.TRAIN[:1] if mixed else cfg.DATASETS.TRAIN)


def class_names_or_none(name: str) -> list[str] | None:
    """Classes of a dataset that the model could do without: one to evaluate on, or with the number given."""
    try:
        return class_names_of(name)
    except (KeyError, FileNotFoundError):
        # The model can be built and used elsewhere; loading the data reports it.
        return None
