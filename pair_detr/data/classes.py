"""The number of classes of a model, from its training data."""

import logging

from detectron2.config import CfgNode

from pair_detr.data.catalog import class_names_of
from pair_detr.data.sources import MULTI_DATASET_SAMPLER

logger = logging.getLogger(__name__)

_KEY = "MODEL.DETR.NUM_CLASSES"


def resolve_num_classes(cfg: CfgNode) -> int:
    """Number of classes that a model for ``cfg`` predicts.

    ``MODEL.DETR.NUM_CLASSES`` if it is set, else the number of ``thing_classes`` of the data in ``DATASETS.TRAIN`` (of
    ``DATASETS.TEST`` if there are none). A number that is set must be that of every registered data set of the config.

    Raises:
        KeyError: the number is to be taken from a data set that is not registered.
        ValueError: the number does not agree with a data set, training sets differ in their classes, or neither a
            number nor a data set with classes is given.
        FileNotFoundError: the number is to be taken from a data set whose files are missing.
    """
    num_classes = cfg.MODEL.DETR.NUM_CLASSES
    if num_classes < 0:
        raise ValueError(f"{_KEY} is {num_classes}; set the number of classes, or 0 to take it from the data.")
    if num_classes > 0:
        for name in dict.fromkeys((*sharing_classes(cfg), *cfg.DATASETS.TEST)):
            _check(num_classes, name, classes_if_at_hand(name))
        return num_classes

    sources = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    if not sources:
        raise ValueError(f"{_KEY} is 0 and DATASETS.TRAIN and DATASETS.TEST are empty: set one of them.")
    classes = class_names_of(sources[0])
    if not classes:
        raise ValueError(f'{_KEY} is 0, but data set "{sources[0]}" has no thing_classes in its metadata: set either.')
    for name in sharing_classes(cfg)[1:]:
        if (other := class_names_of(name)) != classes:
            raise ValueError(
                f'DATASETS.TRAIN mixes data sets of different classes: "{sources[0]}" has {_describe(classes)}, '
                f'"{name}" has {_describe(other or [])}. Train on one of them, or give both the '
                "same classes in the same order."
            )
    for name in cfg.DATASETS.TEST:
        test_classes = classes_if_at_hand(name)
        _check(len(classes), name, test_classes, origin=f'the classes of "{sources[0]}"')
        if test_classes is not None and test_classes != classes:
            logger.warning(
                'Test set "%s" has %s, but training set "%s" has %s: predictions are compared by position.',
                name,
                _describe(test_classes),
                sources[0],
                _describe(classes),
            )
    return len(classes)


def resolve_class_names(cfg: CfgNode) -> list[str] | None:
    """Names of the classes that a model for ``cfg`` predicts; None where no data set of the config can tell."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if classes := classes_if_at_hand(name):
            return classes
    return None


def sharing_classes(cfg: CfgNode) -> tuple[str, ...]:
    """The training sets whose class indices are those of the model."""
    # Others that are mixed in are brought to the classes of the first, by name.
    mixed = cfg.DATALOADER.SAMPLER_TRAIN == MULTI_DATASET_SAMPLER
    return tuple(cfg.DATASETS.TRAIN[:1] if mixed else cfg.DATASETS.TRAIN)


def classes_if_at_hand(name: str) -> list[str] | None:
    """Classes of a data set that the model could do without: one to evaluate on, or with the number given."""
    try:
        return class_names_of(name)
    except (KeyError, FileNotFoundError):
        # The model can be built and used elsewhere; loading the data reports it.
        return None


def _check(num_classes: int, name: str, classes: list[str] | None, origin: str = _KEY) -> None:
    if classes is None or num_classes == len(classes):
        return
    if origin == _KEY:
        remedy = f"Set {_KEY} to {len(classes)}, or to 0 to take it from the training data, or correct DATASETS."
    else:
        remedy = "Set DATASETS.TEST to a data set with the classes of the training data, or to () to train without one."
    raise ValueError(
        f'{num_classes} classes ({origin}) do not agree with data set "{name}", which has {_describe(classes)}. '
        + remedy
    )


def _describe(classes: list[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"
