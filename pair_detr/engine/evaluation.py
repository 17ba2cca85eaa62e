"""The evaluator of a data set, chosen by its metadata."""

import io
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from pycocotools.coco import COCO

from pair_detr.data import check_dataset, class_names_of, require_constant_ids
from pair_detr.data.lvis_evaluation import LVISEvaluator
from pair_detr.data.open_vocabulary_evaluation import OpenVocabularyCOCOEvaluator
from pair_detr.data.panoptic_classes import is_separated
from pair_detr.data.panoptic_evaluation import ThingsEvaluator, read_classes, require_panoptic_quality
from pair_detr.data.validation import check_files, warn_without_boxes
from pair_detr.data.voc_evaluation import VOCEvaluator
from pair_detr.engine.class_agnostic import merge_classes

logger = logging.getLogger(__name__)

PANOPTIC_EVALUATOR = "coco_panoptic_seg"


def build_evaluator(cfg: CfgNode, name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Builds the evaluator that ``TEST.EVALUATOR`` names, or that the data set's ``evaluator_type`` does.

    Args:
        cfg: config.
        name: registered data set.
        output_folder: where results and converted annotations go; default ``<OUTPUT_DIR>/inference/<name>``.

    Raises:
        KeyError: the data set is not registered.
        ValueError: the evaluator is unknown, or lacks something in the data set's metadata.
        ImportError: its package is not installed.
    """
    kind = _evaluator_kind(cfg, name)
    folder = Path(output_folder or Path(cfg.OUTPUT_DIR) / "inference" / name)
    if cfg.MODEL.DETR.CLASS_AGNOSTIC:
        # The other evaluators' metrics are about classes.
        return _coco(cfg, name, str(folder), class_agnostic=True)
    return _EVALUATORS[kind](cfg, name, str(folder))


def require_test_set(cfg: CfgNode, name: str) -> None:
    """Makes sure, before a training, that the evaluation at its end has its images, annotations and evaluator.

    Raises:
        KeyError, FileNotFoundError, ValueError, ImportError: as of :func:`build_evaluator`, or files are missing.
    """
    kind = _evaluator_kind(cfg, name)
    if kind == "lvis":
        _require_lvis(name)
    if kind == PANOPTIC_EVALUATOR and cfg.MODEL.DETR.PANOPTIC.ENABLED:
        require_panoptic_quality(name)
    report = check_dataset(name)
    check_files(report)
    require_constant_ids(name)
    warn_without_boxes(report)


def _evaluator_kind(cfg: CfgNode, name: str) -> str:
    if name not in DatasetCatalog.list():
        raise KeyError(f"DATASETS.TEST names {name}, which is not registered. See DATASETS.REGISTER.")
    metadata = MetadataCatalog.get(name)
    kind = metadata.get("evaluator_type", None) if cfg.TEST.EVALUATOR == "auto" else cfg.TEST.EVALUATOR
    if kind not in _EVALUATORS:
        raise ValueError(
            f"There is no evaluator for {name}: "
            + (f'its evaluator_type is "{kind}"' if cfg.TEST.EVALUATOR == "auto" else f'TEST.EVALUATOR is "{kind}"')
            + f". Choose one with TEST.EVALUATOR: {', '.join(_EVALUATORS)}."
        )
    return kind


def _coco(cfg: CfgNode, name: str, folder: str, class_agnostic: bool = False) -> DatasetEvaluator:
    metadata = MetadataCatalog.get(name)
    convert = "json_file" not in metadata.as_dict()
    if not convert:
        # Loading fills in which category is which class; without, all predictions would count as wrong.
        class_names_of(name)
    # Without Detectron2's C++ extension it takes pycocotools' COCOeval by itself.
    options = {"tasks": _tasks(cfg), "output_dir": folder, "allow_cached_coco": False}
    novel = None if class_agnostic else metadata.get("novel_classes")
    if novel:
        evaluator = OpenVocabularyCOCOEvaluator(name, novel, **options)
    else:
        has_stuff = metadata.get("stuff_dataset_id_to_contiguous_id") and not class_agnostic
        evaluator = (ThingsEvaluator if has_stuff else COCOEvaluator)(name, **options)
    if convert:
        # Detectron2 leaves its converted file in the metadata, and would trust it in later evaluations as well.
        del metadata.json_file
    _complete(evaluator._coco_api)
    if unmasked := _without_mask(evaluator._coco_api):
        if cfg.MODEL.MASK_ON:
            logger.warning(
                'Test set "%s": %d objects have no segmentation, the first is annotation %s. Boxes are evaluated, but '
                "masks are not: add the segmentations, crowds included.",
                name,
                len(unmasked),
                unmasked[0],
            )
        evaluator._tasks = ("bbox",)
    return merge_classes(evaluator) if class_agnostic else evaluator


def _tasks(cfg: CfgNode) -> tuple[str, ...]:
    return ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)


def _without_mask(coco: COCO) -> list[str]:
    """Objects that the evaluation of masks would fail on."""
    return [
        f"{number} of image {annotation['image_id']}"
        for number, annotation in enumerate(coco.dataset.get("annotations", ()))
        if not annotation.get("segmentation")
    ]


def _complete(coco: COCO) -> None:
    """Gives annotations what COCO's evaluation needs and training does not, so that own files need not have it."""
    annotations = coco.dataset.get("annotations", [])
    for number, annotation in enumerate(annotations, start=1):
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        # COCOeval writes the id of the object found where 0 stands for none, into an array of floats.
        annotation["id"] = number
    if annotations:
        with redirect_stdout(io.StringIO()):
            coco.createIndex()


def _pascal_voc(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    """COCO's AP as "bbox", as of any other data set, and Pascal VOC's as "voc"."""
    return DatasetEvaluators([_coco(cfg, name, folder), VOCEvaluator(name)])


def _require_lvis(name: str) -> None:
    # lvis imports OpenCV, even to evaluate.
    if find_spec("lvis") is None or find_spec("cv2") is None:
        raise ImportError(f'The evaluator of {name} needs the packages lvis and OpenCV: run "pip install lvis".')


def _lvis(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    _require_lvis(name)
    return LVISEvaluator(name, tasks=_tasks(cfg), output_dir=folder)


def _panoptic(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    """PQ, and AP of things and mIoU of stuff where the data set has what they need."""
    metadata = MetadataCatalog.get(name)
    evaluators: list[DatasetEvaluator] = []
    if cfg.MODEL.DETR.PANOPTIC.ENABLED:
        require_panoptic_quality(name)
        evaluators.append(COCOPanopticEvaluator(name, folder))
        if is_separated(metadata):
            evaluators.append(SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=read_classes))
    instances = metadata.get("json_file")
    if instances and Path(instances).is_file():
        evaluators.append(_coco(cfg, name, folder))
    if not evaluators:
        raise ValueError(
            f"{name} is panoptic, but the model is not, and the data set has no instances of things alone to evaluate "
            "it with. Set MODEL.DETR.PANOPTIC.ENABLED (with MODEL.MASK_ON), give the data set INSTANCES in "
            "DATASETS.REGISTER, or set DATASETS.TEST to ()."
        )
    return DatasetEvaluators(evaluators)


_EVALUATORS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "coco": _coco,
    "pascal_voc": _pascal_voc,
    "lvis": _lvis,
    PANOPTIC_EVALUATOR: _panoptic,
}
