"""Datasets: registration, checks, augmentation and loaders."""

from pair_detr.data.build import build_test_loader, build_train_loader, images_per_process, load_training_dicts
from pair_detr.data.catalog import class_names_of, datasets_root, load_dataset, panoptic_classes
from pair_detr.data.checks.input_keys import check_input
from pair_detr.data.checks.report import check_dataset
from pair_detr.data.constant_ids import require_constant_ids
from pair_detr.data.dataset_mapper import DetectionMapper
from pair_detr.data.datasets import builtin  # noqa: F401  (registers the datasets)
from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.coco_panoptic import register_coco_panoptic
from pair_detr.data.datasets.from_config import register_from_config
from pair_detr.data.datasets.image_folder import register_image_folder
from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.data.datasets.panoptic_classes import PanopticClasses
from pair_detr.data.datasets.panoptic_shapes import make_panoptic_shapes
from pair_detr.data.datasets.pascal_voc import register_voc
from pair_detr.data.datasets.shapes import make_shapes, register_shapes
from pair_detr.data.datasets.yolo import register_yolo
from pair_detr.data.model_classes import (
    datasets_in_label_space,
    resolve_category_ids,
    resolve_class_names,
    resolve_num_classes,
)
from pair_detr.data.transforms import build_augmentation

__all__ = [
    "DetectionMapper",
    "PanopticClasses",
    "build_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "check_input",
    "class_names_of",
    "datasets_in_label_space",
    "datasets_root",
    "images_per_process",
    "load_dataset",
    "load_training_dicts",
    "make_panoptic_shapes",
    "make_shapes",
    "panoptic_classes",
    "register_coco",
    "register_coco_panoptic",
    "register_from_config",
    "register_image_folder",
    "register_image_labels",
    "register_shapes",
    "register_voc",
    "register_yolo",
    "require_constant_ids",
    "resolve_category_ids",
    "resolve_class_names",
    "resolve_num_classes",
]
