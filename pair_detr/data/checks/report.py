"""What is in a dataset and what is wrong with it."""

import logging
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from detectron2.data import MetadataCatalog

from pair_detr.data.annotation_masks import MaskFault, faulty_masks
from pair_detr.data.catalog import annotation_type_of, load_dataset
from pair_detr.data.checks.invalid_boxes import BoxFault, faulty_boxes
from pair_detr.data.checks.missing_files import explain_missing
from pair_detr.data.checks.segment_files import inspect_segment_files, unannotated_suspicions
from pair_detr.data.checks.suspicious import suspicions_of
from pair_detr.data.datasets.panoptic_masks import mask_file
from pair_detr.data.image_names import missing_files
from pair_detr.utils.messages import counted

logger = logging.getLogger(__name__)


@dataclass
class ClassCount:
    """How often a class occurs.

    Args:
        boxes: its usable boxes; crowds are none.
        box_images: images with such a box.
        crowds: its crowds.
        difficult: those of its usable boxes that Pascal VOC calls difficult.
        labeled_images: images with its label.
    """

    boxes: int = 0
    box_images: int = 0
    crowds: int = 0
    difficult: int = 0
    labeled_images: int = 0


@dataclass
class DatasetReport:
    """What is wrong with a dataset.

    Args:
        annotation_type: "box", or "image" if its annotations are labels of whole images.
        num_boxes: its usable boxes; crowds are none.
        num_difficult: those of them that Pascal VOC calls difficult; they are trained on.
        num_labels: its image labels.
        classes: occurrences by class name, in the order of the classes; empty where the dataset does not name them.
        num_masks: usable boxes with a mask; those of panoptic data, whose masks are in files, all have one.
        missing_masks: usable boxes without a mask; an error where masks are trained on.
        bad_masks: masks, or polygons of them, that cannot be used.
        crowds: annotations that mark a group of objects, which nothing is learned from.
        invalid_boxes: boxes that training drops.
        without_objects: images that are annotated to have none, or are not annotated.
        crowds_alone: images whose only usable annotations are crowds.
        unusable_alone: images whose boxes are all dropped.
        unknown_classes: annotations and labels whose class does not exist; an error.
        missing_files: images, or PNG files with their segments, that do not exist; an error.
        missing_hint: what their names get wrong, if that can be told.
        bad_segment_files: PNG files whose segments cannot be read; an error where masks are trained on.
        duplicate_files: images that occur more than once.
        unlabeled: images without a label, where labels are what there should be.
        suspicious: what can be trained on, but looks like a mistake: names of classes that occur twice, boxes that are
            probably in another format than declared, objects that are mostly crowds, panoptic images without an entry,
            segments without a pixel.
        faulty_boxes: for each image its boxes that training drops, by the position of their annotation.
    """

    name: str
    num_images: int
    annotation_type: str = "box"
    num_boxes: int = 0
    num_difficult: int = 0
    num_labels: int = 0
    num_masks: int = 0
    missing_masks: list[MaskFault] = field(default_factory=list)
    bad_masks: list[MaskFault] = field(default_factory=list)
    classes: dict[str, ClassCount] = field(default_factory=dict)
    crowds: list[str] = field(default_factory=list)
    invalid_boxes: list[BoxFault] = field(default_factory=list)
    without_objects: list[str] = field(default_factory=list)
    crowds_alone: list[str] = field(default_factory=list)
    unusable_alone: list[str] = field(default_factory=list)
    unknown_classes: list[str] = field(default_factory=list)
    missing_files: list[str] = field(default_factory=list)
    missing_hint: str = ""
    bad_segment_files: list[str] = field(default_factory=list)
    duplicate_files: list[str] = field(default_factory=list)
    unlabeled: list[str] = field(default_factory=list)
    suspicious: list[str] = field(default_factory=list)
    faulty_boxes: list[dict[int, BoxFault]] = field(default_factory=list, repr=False)

    @property
    def trainable(self) -> bool:
        """Whether training on it alone can start.

        Invalid boxes, duplicates and images without labels are no obstacle if a box, or a label, is left.
        """
        usable = self.num_labels if self.annotation_type == "image" else self.num_boxes
        return not (self.missing_files or self.unknown_classes or self.bad_segment_files) and usable > 0

    def describe(self) -> str:
        """Images, boxes and labels in numbers, such as "10 images (1 without objects), 25 boxes, 2 crowds"."""
        kinds = (
            (self.without_objects, "without objects"),
            (self.crowds_alone, "with crowds alone"),
            (self.unusable_alone, "with unusable boxes alone"),
        )
        details = ", ".join(f"{len(files)} {kind}" for files, kind in kinds if files)
        images = counted(self.num_images, "image") + (f" ({details})" if details else "")
        if self.annotation_type == "image":
            return f"{images}, {counted(self.num_labels, 'image label')}"
        boxes = counted(self.num_boxes, "box", "boxes")
        boxes += f", {self.num_masks} of them with masks" if self.num_masks else ""
        boxes += f", {self.num_difficult} of them difficult" if self.num_difficult else ""
        return f"{images}, {boxes}" + (f", {counted(len(self.crowds), 'crowd')}" if self.crowds else "")


def check_dataset(name: str) -> DatasetReport:
    """Loads a registered dataset and looks for everything that training would stumble on; images are not opened.

    What looks like a mistake (``suspicious``) is logged as a warning.

    Raises:
        KeyError, FileNotFoundError, ValueError: the dataset cannot be loaded at all, see
            :func:`pair_detr.data.catalog.load_dataset`.
    """
    report = inspect_dicts(name, load_dataset(name), masks=True)
    warn_of_suspicious(report)
    return report


def inspect_dicts(
    name: str, dicts: Sequence[dict[str, Any]], annotation_type: str | None = None, masks: bool = False
) -> DatasetReport:
    """As :func:`check_dataset`, for images already loaded in Detectron2's standard format.

    Args:
        annotation_type: "box" or "image", whether labels are the classes of an image's boxes where it has no
            ``pos_category_ids``; by default what the metadata say.
        masks: whether to look also at masks, which takes its time.
    """
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_classes")
    report = DatasetReport(name, num_images=len(dicts), annotation_type=annotation_type or annotation_type_of(name))
    # By index, as names may occur twice.
    counts = [ClassCount() for _ in classes or ()]
    for record in dicts:
        faults = faulty_boxes(record)
        report.faulty_boxes.append(faults)
        _inspect_boxes(report, record, faults, classes or (), counts)
        if masks:
            _inspect_masks(report, record, faults)
        labels = image_labels_of(record) if report.annotation_type == "image" else record.get("pos_category_ids", [])
        report.num_labels += len(labels)
        if report.annotation_type == "image" and not labels:
            report.unlabeled.append(record["file_name"])
        if classes is None:
            continue
        known = range(len(classes))
        report.unknown_classes.extend(
            f"annotation {index} of {record['file_name']} has class {annotation['category_id']!r}"
            for index, annotation in enumerate(record.get("annotations", ()))
            if annotation["category_id"] not in known
        )
        report.unknown_classes.extend(
            f"{record['file_name']} has the label {label!r}"
            for label in record.get("pos_category_ids", ())
            if label not in known
        )
        for label in set(labels).intersection(known):
            counts[label].labeled_images += 1
    report.classes = dict(zip(_told_apart(classes or ()), counts, strict=True))
    find_missing(report, dicts)
    occurrences = Counter(record["file_name"] for record in dicts)
    report.duplicate_files = [file_name for file_name, count in occurrences.items() if count > 1]
    report.suspicious = [*suspicions_of(dicts, classes or (), report.faulty_boxes), *unannotated_suspicions(metadata)]
    if masks and not report.missing_files:
        report.bad_segment_files, suspicious = inspect_segment_files(dicts)
        report.suspicious.extend(suspicious)
    return report


def find_missing(report: DatasetReport, dicts: Sequence[dict[str, Any]]) -> None:
    """Puts the files that do not exist into a report, and what is wrong with their names."""
    files = [record["file_name"] for record in dicts]
    report.missing_files = missing_files(list(dict.fromkeys([*files, *filter(None, map(mask_file, dicts))])))
    if report.missing_files:
        root = MetadataCatalog.get(report.name).get("image_root")
        report.missing_hint = explain_missing(report.missing_files, root)


def image_labels_of(record: dict[str, Any]) -> list[int]:
    """Classes that an image shows: its ``pos_category_ids`` or, if it has none of these, the classes of its boxes."""
    if "pos_category_ids" in record:
        return list(record["pos_category_ids"])
    return sorted({annotation["category_id"] for annotation in record.get("annotations", ())})


def warn_of_suspicious(report: DatasetReport) -> None:
    """Logs a warning for all that is suspicious in a report."""
    for suspicion in report.suspicious:
        logger.warning('Dataset "%s": %s.', report.name, suspicion)


def _inspect_boxes(
    report: DatasetReport,
    record: dict[str, Any],
    faults: dict[int, BoxFault],
    classes: Sequence[str],
    counts: Sequence[ClassCount],
) -> None:
    dropped = [*record.get("dropped_boxes", ()), *faults.values()]
    usable = [(i, a) for i, a in enumerate(record.get("annotations", ())) if i not in faults]
    boxes = [annotation for _, annotation in usable if not annotation.get("iscrowd")]
    crowds = [(index, annotation) for index, annotation in usable if annotation.get("iscrowd")]
    report.invalid_boxes.extend(dropped)
    report.num_boxes += len(boxes)
    report.num_difficult += sum(bool(annotation.get("difficult")) for annotation in boxes)
    known = range(len(classes))
    for index, annotation in crowds:
        name = f" ({classes[annotation['category_id']]})" if annotation["category_id"] in known else ""
        report.crowds.append(f"annotation {index} of {PurePath(record['file_name']).name}{name}")
    if report.annotation_type == "box" and not boxes:
        files = report.crowds_alone if crowds else report.unusable_alone if dropped else report.without_objects
        files.append(record["file_name"])
    for annotation in boxes:
        if annotation["category_id"] in known:
            counts[annotation["category_id"]].boxes += 1
            counts[annotation["category_id"]].difficult += bool(annotation.get("difficult"))
    for label in {annotation["category_id"] for annotation in boxes}.intersection(known):
        counts[label].box_images += 1
    for _, annotation in crowds:
        if annotation["category_id"] in known:
            counts[annotation["category_id"]].crowds += 1


def _inspect_masks(report: DatasetReport, record: dict[str, Any], unusable_boxes: Container[int]) -> None:
    report.bad_masks.extend(record.get("bad_polygons", ()))
    missing, bad = faulty_masks(record)
    report.missing_masks.extend(fault for index, fault in missing.items() if index not in unusable_boxes)
    report.bad_masks.extend(bad.values())
    report.num_masks += sum(
        not annotation.get("iscrowd") and not any(index in faults for faults in (unusable_boxes, missing, bad))
        for index, annotation in enumerate(record.get("annotations", ()))
    )


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names of classes, with their number where a name occurs more than once."""
    occurrences = Counter(names)
    return [name if occurrences[name] == 1 else f"{name} (class {number})" for number, name in enumerate(names)]
