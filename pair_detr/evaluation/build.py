"""The evaluator of a dataset, chosen by its metadata."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, SemSegEvaluator

from pair_detr.data import load_dataset, panoptic_classes, require_constant_ids
from pair_detr.data.checks.limits import QUERIES_KEY, warn_beyond
from pair_detr.data.checks.report import inspect_dicts, warn_of_suspicious
from pair_detr.data.checks.segment_files import require_segment_files
from pair_detr.data.checks.trainable import check_files
from pair_detr.data.datasets.panoptic_classes import is_separated
from pair_detr.data.datasets.panoptic_png import read_stuff
from pair_detr.data.model_classes import match_test_set, resolve_class_names
from pair_detr.evaluation import (
    COCOEvaluator,
    OpenVocabularyCOCOEvaluator,
    PanopticEvaluator,
    ReorderedClassesEvaluator,
)
from pair_detr.evaluation.coco_ground_truth import are_annotated
from pair_detr.evaluation.instances import EvaluatedObjects, evaluated_objects, things_file
from pair_detr.evaluation.lvis import LVISEvaluator, require_lvis, require_lvis_file
from pair_detr.evaluation.panoptic import require_panoptic_quality
from pair_detr.evaluation.pascal_voc import VOCEvaluator
from pair_detr.evaluation.requirements import masks_can_be_evaluated, require_objects, warn_of_objects
from pair_detr.open_vocabulary import load_vocabulary

logger = logging.getLogger(__name__)

PANOPTIC_EVALUATOR = "coco_panoptic_seg"
_OWN_CLASSES = "Name data with the classes of the model, in any order."
# The limits to the detections per image where TEST.MAX_DETECTIONS is 0; COCO's is one per class.
_MAX_DETECTIONS = {"coco": 100, "pascal_voc": 100, "lvis": 300, PANOPTIC_EVALUATOR: 100}


def build_evaluator(cfg: CfgNode, name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Builds the evaluator that ``TEST.EVALUATOR`` names, or that the dataset's ``evaluator_type`` does.

    The evaluator takes detections with the class indices of the model, whose classes the dataset may have in another
    order.

    Args:
        cfg: of the model.
        name: registered dataset.
        output_folder: where results go; default ``<OUTPUT_DIR>/inference/<name>``.

    Raises:
        KeyError: the dataset is not registered.
        ValueError: the evaluator is unknown, or lacks something in the dataset's metadata; the dataset has other
            classes than the model, or no object to find.
        ImportError: its package is not installed.
    """
    test_set = _TestSet(cfg, name, output_folder)
    if cfg.MODEL.DETR.CLASS_AGNOSTIC:
        # The other evaluators' metrics are about classes.
        return _coco(test_set)
    order = test_set.class_order()
    evaluator = _EVALUATORS[test_set.kind](test_set)
    return evaluator if order is None else ReorderedClassesEvaluator(evaluator, np.argsort(order))


def build_object_evaluator(
    cfg: CfgNode, name: str, classes: Sequence[str], origin: str
) -> tuple[DatasetEvaluator, COCOEvaluator]:
    """Builds COCO's evaluator of the objects of a dataset, whatever else the dataset is evaluated by.

    Args:
        cfg: of the model.
        name: registered dataset.
        classes: names of the classes of the model.
        origin: where these come from, for messages.

    Returns:
        the evaluator that takes the detections of the model, and the one with the results; often they are the same.

    Raises:
        KeyError, ValueError: see :func:`build_evaluator`; or not all objects of the dataset are annotated, as in LVIS.
    """
    test_set = _TestSet(cfg, name)
    if test_set.reads_lvis:
        raise ValueError(
            f'"{name}" is evaluated as LVIS, whose images have only some of their objects annotated, so that nobody '
            "knows which other detections are wrong. Name a dataset that is annotated in full."
        )
    if not are_annotated(test_set.records):
        raise ValueError(f'"{name}" has no annotations to compare detections with.')
    test_set.require_metric()
    if not test_set.has_average_precision:
        raise ValueError(f'"{name}" has no file with the instances of its things: give it INSTANCES.')
    order = None if cfg.MODEL.DETR.CLASS_AGNOSTIC else match_test_set(classes, name, origin, _OWN_CLASSES)
    inner = evaluator = _coco(test_set, writes=False)
    results = inner.evaluator if isinstance(inner, ReorderedClassesEvaluator) else inner
    if order is not None:
        evaluator = ReorderedClassesEvaluator(inner, np.argsort(order))
    return evaluator, results


def require_test_set(cfg: CfgNode, name: str, is_trained_on: bool = False) -> None:
    """Makes sure, before a model runs, that an evaluation has its images, annotations and evaluator.

    What a perfect model could not find is a warning.

    Args:
        cfg: config.
        name: the dataset.
        is_trained_on: whether it has been loaded for training, which has checked and reported it.

    Raises:
        KeyError, FileNotFoundError, ValueError, ImportError: see :func:`build_evaluator`; or files are missing.
    """
    test_set = _TestSet(cfg, name)
    kind, records = test_set.kind, test_set.records
    if kind == "lvis":
        require_lvis(name)
    if not is_trained_on:
        report = inspect_dicts(name, records, masks=cfg.MODEL.MASK_ON)
        check_files(report)
        require_segment_files(name, report.bad_segment_files)
        warn_of_suspicious(report)
    require_constant_ids(name)
    test_set.class_order()
    test_set.require_metric()
    if test_set.reads_lvis:
        require_lvis_file(name)
    if test_set.has_panoptic_quality:
        require_panoptic_quality(name, records)
        things = MetadataCatalog.get(name).get("json_file")
        if things and not test_set.has_average_precision:
            logger.warning('Test set "%s": there will be no AP of things, as %s does not exist.', name, things)
    if test_set.has_average_precision:
        objects = test_set.objects.records
        require_objects(name, objects)
        warn_of_objects(name, objects, masks=cfg.MODEL.MASK_ON)
    if kind == "pascal_voc":
        VOCEvaluator(name).require_objects()
    if cfg.TEST.EXPECTED_RESULTS and not are_annotated(records):
        raise ValueError(
            f'TEST.EXPECTED_RESULTS is set, but test set "{name}" has no annotations to get results with: set it to '
            "[], or name another dataset in DATASETS.TEST."
        )
    label = f'Test set "{name}"'
    if test_set.reads_lvis or test_set.has_average_precision:
        counted, per_class = (records, False) if test_set.reads_lvis else (objects, True)
        missed = "detections beyond it are not counted, so that even a perfect model misses objects"
        warn_beyond(label, counted, "TEST.MAX_DETECTIONS", test_set.max_detections, missed, per_class)
    missed = "the model returns no more detections"
    warn_beyond(label, records, "TEST.DETECTIONS_PER_IMAGE", cfg.TEST.DETECTIONS_PER_IMAGE, missed)
    warn_beyond(label, records, QUERIES_KEY, cfg.MODEL.DETR.NUM_QUERIES, "a query finds one object")


class _TestSet:
    """A dataset to evaluate on, the ``kind`` of its evaluator, and the ``folder`` for its results."""

    def __init__(self, cfg: CfgNode, name: str, folder: str | None = None) -> None:
        self.cfg = cfg
        self.name = name
        self.folder = folder or str(Path(cfg.OUTPUT_DIR) / "inference" / name)
        if name not in DatasetCatalog.list():
            raise KeyError(f"DATASETS.TEST names {name}, which is not registered. See DATASETS.REGISTER.")
        metadata = MetadataCatalog.get(name)
        is_auto = cfg.TEST.EVALUATOR == "auto"
        self.kind: str = metadata.get("evaluator_type", None) if is_auto else cfg.TEST.EVALUATOR
        if self.kind not in _EVALUATORS:
            raise ValueError(
                f"There is no evaluator for {name}: {'its evaluator_type' if is_auto else 'TEST.EVALUATOR'} is "
                f'"{self.kind}". Choose one with TEST.EVALUATOR: {", ".join(_EVALUATORS)}.'
            )

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Its images."""
        return load_dataset(self.name)

    @cached_property
    def objects(self) -> EvaluatedObjects:
        """What COCO's AP is computed of."""
        return evaluated_objects(self.name, self.records, self.cfg.MODEL.DETR.CLASS_AGNOSTIC)

    @property
    def has_panoptic_quality(self) -> bool:
        """Whether segments are evaluated."""
        detr = self.cfg.MODEL.DETR
        return self.kind == PANOPTIC_EVALUATOR and detr.PANOPTIC.ENABLED and not detr.CLASS_AGNOSTIC

    @property
    def reads_lvis(self) -> bool:
        """Whether the evaluator is that of LVIS, which reads the annotations by itself."""
        return self.kind == "lvis" and not self.cfg.MODEL.DETR.CLASS_AGNOSTIC

    @property
    def has_average_precision(self) -> bool:
        """Whether COCO's AP is computed; of panoptic data if they have a file of things."""
        if self.cfg.MODEL.DETR.CLASS_AGNOSTIC:
            return True
        if self.kind == PANOPTIC_EVALUATOR:
            return things_file(self.name) is not None
        return self.kind in ("coco", "pascal_voc")

    def require_metric(self) -> None:
        """Raises a ValueError if there is nothing to evaluate the model with."""
        if self.has_average_precision or self.has_panoptic_quality or self.kind != PANOPTIC_EVALUATOR:
            return
        has_stuff = not all(panoptic_classes(self.name).is_thing)
        raise ValueError(
            f"{self.name} is panoptic, but the model is not, and the dataset has no file with instances of things to "
            'evaluate it with. Set TEST.EVALUATOR "coco" for the AP of its segments of things, give the dataset '
            + (
                "INSTANCES in DATASETS.REGISTER, or set MODEL.DETR.PANOPTIC.ENABLED and MODEL.MASK_ON to True."
                if has_stuff
                else "INSTANCES in DATASETS.REGISTER."
            )
        )

    @property
    def max_detections(self) -> int:
        """The evaluation's limit to the detections per image."""
        limit = self.cfg.TEST.MAX_DETECTIONS
        if limit < 0:
            raise ValueError(f"TEST.MAX_DETECTIONS is {limit}; it must be 1 or more, or 0 for the evaluator's default.")
        return limit or _MAX_DETECTIONS.get(self.kind, _MAX_DETECTIONS["coco"])

    @property
    def tasks(self) -> tuple[str, ...]:
        """What of objects is evaluated."""
        return ("bbox", "segm") if self.cfg.MODEL.MASK_ON else ("bbox",)

    def class_order(self) -> tuple[int, ...] | None:
        """The class of the dataset that each class of the model is; None where both have the same order.

        Raises:
            ValueError: the dataset has other classes; or it has stuff, and another order.
        """
        cfg, name = self.cfg, self.name
        if cfg.MODEL.DETR.CLASS_AGNOSTIC:
            return None
        vocabulary = load_vocabulary(cfg)
        if vocabulary is not None:
            order = match_test_set(vocabulary.names, name, f"those of {vocabulary.source}")
        elif (classes := resolve_class_names(cfg)) is not None:
            order = match_test_set(classes, name, "those of the first dataset in DATASETS")
        else:
            return None
        has_stuff = MetadataCatalog.get(name).get("stuff_dataset_id_to_contiguous_id")
        if order is not None and (has_stuff or self.kind == PANOPTIC_EVALUATOR):
            raise ValueError(
                f'Test set "{name}" has the classes of the model, but in another order, which panoptic segments cannot '
                "be compared in. Give its categories the same ids as those of the training data, things and stuff "
                "alike."
            )
        return order


def _coco(test_set: _TestSet, writes: bool = True) -> DatasetEvaluator:
    name, objects = test_set.name, test_set.objects
    require_objects(name, objects.records)
    tasks = test_set.tasks
    if "segm" in tasks and are_annotated(objects.records) and not masks_can_be_evaluated(name, objects.records):
        tasks = ("bbox",)
    make: Callable[..., DatasetEvaluator] = COCOEvaluator
    novel = MetadataCatalog.get(name).get("novel_classes")
    if novel and objects.class_indices is None and not test_set.cfg.MODEL.DETR.CLASS_AGNOSTIC:
        make = partial(OpenVocabularyCOCOEvaluator, novel_classes=novel)
    evaluator = make(
        name,
        objects.records,
        objects.class_names,
        category_ids=objects.category_ids,
        tasks=tasks,
        output_dir=test_set.folder if writes else None,
        max_detections=test_set.max_detections,
    )
    return evaluator if objects.class_indices is None else ReorderedClassesEvaluator(evaluator, objects.class_indices)


def _pascal_voc(test_set: _TestSet) -> DatasetEvaluator:
    """COCO's AP as "bbox", like that of any other dataset, and Pascal VOC's as "voc"."""
    return DatasetEvaluators([_coco(test_set), VOCEvaluator(test_set.name)])


def _lvis(test_set: _TestSet) -> DatasetEvaluator:
    require_lvis(test_set.name)
    limit = test_set.max_detections
    return LVISEvaluator(test_set.name, tasks=test_set.tasks, output_dir=test_set.folder, max_detections=limit)


def _panoptic(test_set: _TestSet) -> DatasetEvaluator:
    """PQ, and AP of things and mIoU of stuff where the dataset has what they need."""
    test_set.require_metric()
    name, folder = test_set.name, test_set.folder
    evaluators: list[DatasetEvaluator] = []
    if test_set.has_panoptic_quality:
        require_panoptic_quality(name, test_set.records)
        evaluators.append(PanopticEvaluator(name, test_set.records, folder))
        if is_separated(MetadataCatalog.get(name)):
            evaluators.append(SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=read_stuff))
    if test_set.has_average_precision:
        evaluators.append(_coco(test_set))
    return DatasetEvaluators(evaluators)


# USER: an evaluator of your own can be added here; TEST.EVALUATOR or the evaluator_type of a dataset names it.
_EVALUATORS: dict[str, Callable[[_TestSet], DatasetEvaluator]] = {
    "coco": _coco,
    "pascal_voc": _pascal_voc,
    "lvis": _lvis,
    PANOPTIC_EVALUATOR: _panoptic,
}
