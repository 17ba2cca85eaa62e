"""Which classes a detector has learned from boxes; all others are novel to it."""

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from pair_detr.data.model_classes import class_names_or_none
from pair_detr.open_vocabulary.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def base_classes(cfg: CfgNode, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Names of the base classes of a config.

    They are those of MODEL.CLIP.REGION.BASE_CLASSES; else the classes of the first dataset to train on, without the
    ``novel_classes`` of its metadata, or of the test sets' if it names none; else, with a warning, the vocabulary's.
    """
    if names := cfg.MODEL.CLIP.REGION.BASE_CLASSES:
        return tuple(names)
    training = next(iter(cfg.DATASETS.TRAIN), None)
    if training is None or not (classes := class_names_or_none(training)):
        logger.warning(
            "Which classes were learned from boxes is not known: all %d of the vocabulary count as base classes. Name "
            "them in MODEL.CLIP.REGION.BASE_CLASSES.",
            len(vocabulary),
        )
        return vocabulary.names
    # No look-up by get(), which would make metadata of a dataset that is not registered.
    known = [MetadataCatalog.get(name) for name in (training, *cfg.DATASETS.TEST) if name in MetadataCatalog.list()]
    novel = next((names for metadata in known if (names := metadata.get("novel_classes"))), ())
    return tuple(name for name in classes if name not in novel)
