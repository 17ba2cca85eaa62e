"""Data sets: registration, checks, augmentation and loaders."""

from pair_detr.data import builtin  # noqa: F401  (registers the data sets)
from pair_detr.data.augmentation import build_augmentation
from pair_detr.data.build import build_test_loader, build_train_loader, images_per_process, load_training_dicts
from pair_detr.data.catalog import class_names_of, datasets_root, load_dataset, panoptic_classes
from pair_detr.data.classes import resolve_category_ids, resolve_class_names, resolve_num_classes, sharing_classes
from pair_detr.data.coco import register_coco
from pair_detr.data.constant_ids import require_constant_ids
from pair_detr.data.image_folder import register_image_folder
from pair_detr.data.image_labels import register_image_labels
from pair_detr.data.input_checks import check_input
from pair_detr.data.mapper import DetectionMapper
from pair_detr.data.multi_dataset import MultiDatasetMapper, build_multi_dataset_sampler
from pair_detr.data.multi_sampler import MultiDatasetBatchSampler
from pair_detr.data.panoptic import register_coco_panoptic
from pair_detr.data.panoptic_classes import PanopticClasses
from pair_detr.data.panoptic_shapes import make_panoptic_shapes
from pair_detr.data.registration import register_from_config
from pair_detr.data.sampler import TrainingBatchSampler
from pair_detr.data.shapes import make_shapes, register_shapes
from pair_detr.data.split import register_split
from pair_detr.data.validation import DatasetReport, check_dataset
from pair_detr.data.voc import register_voc
from pair_detr.data.vocabulary import VocabularyMatch, match_classes
from pair_detr.data.yolo import register_yolo

__all__ = [
    "DatasetReport",
    "DetectionMapper",
    "MultiDatasetBatchSampler",
    "MultiDatasetMapper",
    "PanopticClasses",
    "TrainingBatchSampler",
    "VocabularyMatch",
    "build_augmentation",
    "build_multi_dataset_sampler",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "check_input",
    "class_names_of",
    "datasets_root",
    "images_per_process",
    "load_dataset",
    "load_training_dicts",
    "make_panoptic_shapes",
    "make_shapes",
    "match_classes",
    "panoptic_classes",
    "register_coco",
    "register_coco_panoptic",
    "register_from_config",
    "register_image_folder",
    "register_image_labels",
    "register_shapes",
    "register_split",
    "register_voc",
    "register_yolo",
    "require_constant_ids",
    "resolve_category_ids",
    "resolve_class_names",
    "resolve_num_classes",
    "sharing_classes",
]
