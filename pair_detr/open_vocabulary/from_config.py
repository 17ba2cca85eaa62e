"""The vocabulary that a config describes."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode

from pair_detr.data.class_matching import ClassMismatchError, match_order
from pair_detr.data.model_classes import class_names_or_none, match_test_set
from pair_detr.open_vocabulary.class_lists import read_class_list
from pair_detr.open_vocabulary.vocabulary import UnnamedClassesError, Vocabulary, require_same_names

logger = logging.getLogger(__name__)


def load_vocabulary(cfg: CfgNode) -> Vocabulary | None:
    """The vocabulary in MODEL.CLIP.TEXT_WEIGHTS; None if that is empty, and the classifier linear.

    The names of its classes are those that MODEL.CLIP.VOCABULARY or the .json file next to it tells. For a file that
    has neither they are those of a dataset of the config that has as many classes.

    Raises:
        FileNotFoundError, ValueError: see :meth:`Vocabulary.load`.
    """
    clip = cfg.MODEL.CLIP
    if not clip.TEXT_WEIGHTS:
        return None
    if clip.VOCABULARY:
        return Vocabulary.load(clip.TEXT_WEIGHTS, list(read_class_list(clip.VOCABULARY)))
    try:
        return Vocabulary.load(clip.TEXT_WEIGHTS)
    except UnnamedClassesError as error:
        for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
            if len(classes := (class_names_or_none(name) or [])) == error.count:
                logger.info("%s has no names of its own: its classes are those of %s.", clip.TEXT_WEIGHTS, name)
                return Vocabulary.load(clip.TEXT_WEIGHTS, classes)
        raise


def check_vocabulary(vocabulary: Vocabulary | None, training: Sequence[str], test: Sequence[str]) -> None:
    """Makes sure that labels mean the same in the vocabulary and in datasets.

    Args:
        vocabulary: of the model; None if it has a linear classifier.
        training: datasets whose class indices are the model's, see :func:`pair_detr.data.datasets_in_label_space`.
        test: further datasets, to evaluate on.

    Raises:
        ValueError: a dataset has other classes, or the first one to train on the same in another order, which all
            others may have.
    """
    if vocabulary is None:
        return
    for number, name in enumerate(training):
        classes = class_names_or_none(name)
        if classes and (number == 0 or not _is_reordered(vocabulary.names, classes)):
            require_same_names(classes, vocabulary.names, f'Dataset "{name}"', vocabulary.source)
    for name in test:
        try:
            match_test_set(vocabulary.names, name, f"those of {vocabulary.source}")
        except ValueError as error:
            raise ValueError(
                f"{error} A run has one vocabulary: take {name} out of DATASETS.TEST, and evaluate on it in a run of "
                "its own, --eval-only with the text weights of its classes."
            ) from error


def _is_reordered(names: Sequence[str], others: Sequence[str]) -> bool:
    try:
        return match_order(names, others) is not None
    except ClassMismatchError:
        return False
