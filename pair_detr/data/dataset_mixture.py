"""Datasets that are trained on together, with boxes or with image labels (``DATALOADER.DATASET_*``)."""

import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.build import filter_images_with_only_crowd_annotations, print_instances_class_histogram
from detectron2.utils import comm

from pair_detr.data.catalog import annotation_type_of, load_dataset
from pair_detr.data.checks.report import image_labels_of
from pair_detr.data.checks.trainable import require_boxes, validate
from pair_detr.data.class_matching import VocabularyMatch, match_classes, require_class_names, with_classes
from pair_detr.utils.messages import counted

logger = logging.getLogger(__name__)

ANNOTATION_TYPES = ("box", "image")
_KNOWN_KEYS = ("bbox", "bbox_mode", "category_id", "iscrowd")


@dataclass(frozen=True)
class SourceOptions:
    """How one dataset of ``DATASETS.TRAIN`` is used; ``ratio`` is in proportion to the others, ``batch_size`` per
    process.
    """

    name: str
    ann_type: str
    ratio: float
    batch_size: int
    repeat_factors: bool
    min_sizes: tuple[int, ...]
    max_size: int


def source_options(cfg: CfgNode) -> list[SourceOptions]:
    """Reads ``DATALOADER.DATASET_*`` and ``USE_RFS``, an entry per dataset of ``DATASETS.TRAIN``.

    Raises:
        ValueError: a key has another number of entries, or an entry makes no sense.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name the datasets to train on.")
    if cfg.SOLVER.EPOCHS.MAX:
        raise ValueError(
            f"SOLVER.EPOCHS.MAX is {cfg.SOLVER.EPOCHS.MAX}, but datasets that are mixed have no common epoch: set it "
            "to 0, and SOLVER.MAX_ITER and SOLVER.STEPS."
        )
    world_size = comm.get_world_size()
    loader = cfg.DATALOADER
    columns = {
        "DATASET_ANN": [annotation_type_of(name) for name in names],
        "DATASET_RATIO": [1.0] * len(names),
        "DATASET_BS": [cfg.SOLVER.IMS_PER_BATCH // world_size] * len(names),
        "USE_RFS": [False] * len(names),
        "DATASET_MIN_SIZES": [cfg.INPUT.MIN_SIZE_TRAIN] * len(names),
        "DATASET_MAX_SIZES": [cfg.INPUT.MAX_SIZE_TRAIN] * len(names),
    }
    for key in columns:
        if values := list(loader[key]):
            columns[key] = _checked(key, values, names)
    parts = cfg.SOLVER.ACCUMULATE_STEPS
    if parts > 1 and any(size % parts for size in columns["DATASET_BS"]):
        raise ValueError(
            f"DATALOADER.DATASET_BS is {columns['DATASET_BS']}, which SOLVER.ACCUMULATE_STEPS {parts} does not divide: "
            f"set multiples of {parts}."
        )
    for name, ann_type in zip(names, columns["DATASET_ANN"], strict=True):
        if ann_type == "image" and cfg.MODEL.DETR.CLASS_AGNOSTIC:
            raise ValueError(
                f"MODEL.DETR.CLASS_AGNOSTIC is True, and {name} has image labels, which say nothing where there is one "
                "class: remove it from DATASETS.TRAIN, or set CLASS_AGNOSTIC to False."
            )
        if ann_type == "image" and cfg.MODEL.DETR.MASK.FREEZE_DETECTOR:
            raise ValueError(
                f"MODEL.DETR.MASK.FREEZE_DETECTOR is True, and {name} has image labels, which say nothing about masks: "
                "remove it from DATASETS.TRAIN, or set FREEZE_DETECTOR to False."
            )
        if ann_type == "box" and annotation_type_of(name) == "image":
            raise ValueError(f"DATALOADER.DATASET_ANN is box for {name}, which has image labels: set it to image.")
    return [
        SourceOptions(name, ann, float(ratio), size, bool(rfs), tuple(mins), maximum)
        for name, ann, ratio, size, rfs, mins, maximum in zip(names, *columns.values(), strict=True)
    ]


def load_source_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """Images of all datasets in ``DATASETS.TRAIN``, one dataset after another, with the classes of the first.

    Each dict says by ``dataset_source`` which dataset it is of, and by ``ann_type`` whether it has boxes ("box", in
    ``annotations``) or labels ("image", in ``pos_category_ids``); class indices are those of the first dataset.

    Labels are not of objects whose boxes are known: images with labels that are also in one of the datasets with boxes
    have ``annotations`` of all objects there but those of their labels' classes.

    Raises:
        KeyError, FileNotFoundError, ValueError: a dataset cannot be loaded or trained on, an image-label set has no
            class in common with the first dataset, or one with boxes has classes that the first has not.
    """
    options = source_options(cfg)
    vocabulary = require_class_names(options[0].name)
    dicts: list[dict[str, Any]] = []
    with_boxes: dict[str, list[dict[str, Any]]] = {}
    for number, source in enumerate(options):
        images = validate(
            source.name, load_dataset(source.name), annotation_type=source.ann_type, masks=cfg.MODEL.MASK_ON
        )
        match = _match(source, vocabulary, options[0].name)
        images = _with_vocabulary(source, images, match)
        if source.ann_type == "box":
            with_boxes[source.name] = images
            if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
                images = filter_images_with_only_crowd_annotations(images)
            print_instances_class_histogram(images, vocabulary)
        dicts.extend({**record, "dataset_source": number, "ann_type": source.ann_type} for record in images)
    _add_known_objects(dicts, itertools.chain.from_iterable(with_boxes.values()))
    if with_boxes:
        require_boxes(list(with_boxes), list(itertools.chain.from_iterable(with_boxes.values())))
    return dicts


def _add_known_objects(dicts: Sequence[dict[str, Any]], with_boxes: Iterable[dict[str, Any]]) -> None:
    labeled = {Path(record["file_name"]).absolute() for record in dicts if record["ann_type"] == "image"}
    known: dict[Path, dict[tuple, dict[str, Any]]] = defaultdict(dict)
    for record in with_boxes if labeled else ():
        if (file_name := Path(record["file_name"]).absolute()) not in labeled:
            continue
        for annotation in record.get("annotations", ()):
            # Masks are of no use, and an object counts once, in however many datasets it is.
            own = {key: annotation[key] for key in _KNOWN_KEYS if key in annotation}
            known[file_name][(*own["bbox"], own["category_id"])] = own
    count = 0
    for record in dicts:
        if record["ann_type"] == "image" and (objects := known.get(Path(record["file_name"]).absolute())):
            labels = record["pos_category_ids"]
            record["annotations"] = [own for own in objects.values() if own["category_id"] not in labels]
            count += bool(record["annotations"])
    if count:
        logger.info("%s with labels have boxes of other classes, which the labels are not of.", counted(count, "image"))


def _match(source: SourceOptions, vocabulary: Sequence[str], vocabulary_name: str) -> VocabularyMatch:
    classes = require_class_names(source.name)
    synonyms, vocabulary_synonyms = (
        MetadataCatalog.get(n).get("thing_synonyms") for n in (source.name, vocabulary_name)
    )
    try:
        match = match_classes(classes, vocabulary, synonyms, vocabulary_synonyms)
    except ValueError as error:
        raise ValueError(f'Dataset "{vocabulary_name}": {error}.') from error
    if source.name != vocabulary_name:
        logger.info('Dataset "%s", vocabulary of "%s": %s.', source.name, vocabulary_name, match.describe())
    if source.ann_type == "box" and len(match.to_vocabulary) < len(classes):
        raise ValueError(
            f'Dataset "{source.name}" has boxes of classes that "{vocabulary_name}", the first of DATASETS.TRAIN, has '
            f"not: {match.describe()}. Their objects would count as background: put the dataset with all the classes "
            "first, or give both the same categories."
        )
    if not match.to_vocabulary:
        raise ValueError(
            f'None of the classes of "{source.name}" is one of "{vocabulary_name}", the first of DATASETS.TRAIN: '
            f"{match.describe()}. Its labels would teach nothing: name its classes as the vocabulary does, or add "
            "synonyms (thing_synonyms in the metadata)."
        )
    return match


def _with_vocabulary(
    source: SourceOptions, images: Sequence[dict[str, Any]], match: VocabularyMatch
) -> list[dict[str, Any]]:
    if source.ann_type == "box":
        same = all(own == index for own, index in match.to_vocabulary.items())
        if not same and any("first_stuff_class" in record for record in images):
            raise ValueError(
                f'Dataset "{source.name}" is in Detectron2\'s separated panoptic form, but not the first of '
                "DATASETS.TRAIN, whose classes count: put it first, or use the standard form (without _separated)."
            )
        return with_classes(images, match.to_vocabulary)
    kept = []
    for record in images:
        labels = sorted({match.to_vocabulary[i] for i in image_labels_of(record) if i in match.to_vocabulary})
        if labels:
            kept.append({**record, "pos_category_ids": labels, "annotations": []})
    if not kept:
        raise ValueError(f'No image of "{source.name}" has a label in the vocabulary: {match.describe()}.')
    if len(kept) < len(images):
        logger.warning(
            'Dataset "%s": %d of %d images have no label in the vocabulary, and are left out.',
            source.name,
            len(images) - len(kept),
            len(images),
        )
    return kept


def _checked(key: str, values: list[Any], names: Sequence[str]) -> list[Any]:
    label = f"DATALOADER.{key}"
    if len(values) != len(names):
        raise ValueError(
            f"{label} has {len(values)} entries {values} for the {len(names)} datasets of DATASETS.TRAIN "
            f"{tuple(names)}: give one for each, or [] for the default."
        )
    requirements = {
        "DATASET_ANN": ("box or image", lambda value: value in ANNOTATION_TYPES),
        "DATASET_RATIO": ("positive", lambda value: _is_number(value) and 0 < value < math.inf),
        "DATASET_BS": ("a positive number of images", _is_size),
        "USE_RFS": ("True or False", lambda value: isinstance(value, bool)),
        "DATASET_MIN_SIZES": ("a list of sizes in pixels", _are_sizes),
        "DATASET_MAX_SIZES": ("a size in pixels", _is_size),
    }
    what, good = requirements[key]
    for name, value in zip(names, values, strict=True):
        if not good(value):
            raise ValueError(f"{label} is {value!r} for {name}; it must be {what}.")
    return values


def _is_number(value: Any) -> bool:
    # A bool is an int in Python.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value > 0


def _are_sizes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_size, value))
