"""Checks of a data set before it costs any training time."""

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from pair_detr.data.catalog import annotation_type_of, load_dataset
from pair_detr.data.degenerate import BoxFault, box_fault, warn_of_dropped
from pair_detr.data.doubts import doubts_of
from pair_detr.data.image_files import read_pixels
from pair_detr.data.masks import MaskFault, mask_fault
from pair_detr.data.messages import join_some
from pair_detr.data.panoptic import mask_file, read_mask_file
from pair_detr.data.panoptic_checks import inspect_segment_files, require_segment_files, unannotated_doubts

logger = logging.getLogger(__name__)


@dataclass
class ClassCount:
    """How often a class occurs.

    Args:
        boxes: its usable boxes; crowds are none.
        box_images: images with such a box.
        labelled_images: images with its label.
    """

    boxes: int = 0
    box_images: int = 0
    labelled_images: int = 0


@dataclass
class DatasetReport:
    """What is wrong with a data set.

    Args:
        name: the data set.
        num_images: its images.
        annotation_type: "box", or "image" if its annotations are labels of whole images.
        num_boxes: its usable boxes; crowds are none.
        num_labels: its image labels.
        classes: occurrences by class name, in the order of the classes; empty where the data set does not name them.
        num_masks: usable boxes with a mask; those of panoptic data, whose masks are in files, all have one.
        missing_masks: usable boxes without a mask; an error where masks are trained on.
        bad_masks: masks, or polygons of them, that cannot be used.
        degenerate: boxes that training drops.
        unknown_classes: annotations and labels whose class does not exist; an error.
        missing_files: images, or PNG files with their segments, that do not exist; an error.
        bad_segment_files: PNG files whose segments cannot be read; an error where masks are trained on.
        duplicate_files: images that occur more than once.
        unlabelled: images without a label, where labels are what there should be.
        doubts: what can be trained on, but looks like a mistake: names of classes that occur twice, boxes that are
            probably in another format than declared, panoptic images without an entry, segments without a pixel.
    """

    name: str
    num_images: int
    annotation_type: str = "box"
    num_boxes: int = 0
    num_labels: int = 0
    num_masks: int = 0
    missing_masks: list[MaskFault] = field(default_factory=list)
    bad_masks: list[MaskFault] = field(default_factory=list)
    classes: dict[str, ClassCount] = field(default_factory=dict)
    degenerate: list[BoxFault] = field(default_factory=list)
    unknown_classes: list[str] = field(default_factory=list)
    missing_files: list[str] = field(default_factory=list)
    bad_segment_files: list[str] = field(default_factory=list)
    duplicate_files: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def trainable(self) -> bool:
        """Whether training on it alone can start.

        Degenerate boxes, duplicates and images without labels are no obstacle if a box, or a label, is left.
        """
        usable = self.num_labels if self.annotation_type == "image" else self.num_boxes
        return not (self.missing_files or self.unknown_classes or self.bad_segment_files) and usable > 0


def check_dataset(name: str) -> DatasetReport:
    """Loads a registered data set and looks for everything that training would stumble on; images are not opened.

    What looks like a mistake (``doubts``) is logged as a warning.

    Raises:
        KeyError, FileNotFoundError, ValueError: the data set cannot be loaded at all, see
            :func:`pair_detr.data.catalog.load_dataset`.
    """
    report = inspect_dicts(name, load_dataset(name), masks=True)
    warn_of_doubts(report)
    return report


def inspect_dicts(
    name: str, dicts: Sequence[dict[str, Any]], annotation_type: str | None = None, masks: bool = False
) -> DatasetReport:
    """As :func:`check_dataset`, for images already loaded in Detectron2's standard format.

    Args:
        name: the data set.
        dicts: its images.
        annotation_type: "box" or "image", whether labels are the classes of an image's boxes where it has no
            ``pos_category_ids``; by default what the metadata say.
        masks: whether to look at masks, too, which takes its time.
    """
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_classes")
    report = DatasetReport(name, num_images=len(dicts), annotation_type=annotation_type or annotation_type_of(name))
    # By index, as names may occur twice.
    counts = [ClassCount() for _ in classes or ()]
    for record in dicts:
        report.degenerate.extend(record.get("dropped_boxes", ()))
        faults = _faults_of(record)
        report.degenerate.extend(faults.values())
        annotations = record.get("annotations", ())
        boxes = Counter(a["category_id"] for i, a in enumerate(annotations) if i not in faults and not a.get("iscrowd"))
        labels = image_labels_of(record) if report.annotation_type == "image" else record.get("pos_category_ids", [])
        report.num_boxes += boxes.total()
        report.num_labels += len(labels)
        if masks:
            _inspect_masks(report, record, faults)
        if report.annotation_type == "image" and not labels:
            report.unlabelled.append(record["file_name"])
        if classes is None:
            continue
        known = range(len(classes))
        report.unknown_classes.extend(
            f"annotation {index} of {record['file_name']} has class {annotation['category_id']!r}"
            for index, annotation in enumerate(annotations)
            if annotation["category_id"] not in known
        )
        report.unknown_classes.extend(
            f"{record['file_name']} has the label {label!r}"
            for label in record.get("pos_category_ids", ())
            if label not in known
        )
        for index, number in boxes.items():
            if index in known:
                counts[index].boxes += number
                counts[index].box_images += 1
        for label in set(labels).intersection(known):
            counts[label].labelled_images += 1
    report.classes = dict(zip(classes or (), counts, strict=True))
    occurrences = Counter(record["file_name"] for record in dicts)
    report.missing_files = _missing([*occurrences, *filter(None, map(mask_file, dicts))])
    report.duplicate_files = [file_name for file_name, count in occurrences.items() if count > 1]
    report.doubts = [*doubts_of(dicts, classes or ()), *unannotated_doubts(metadata)]
    if masks and not report.missing_files:
        report.bad_segment_files, doubts = inspect_segment_files(dicts)
        report.doubts.extend(doubts)
    return report


def image_labels_of(record: dict[str, Any]) -> list[int]:
    """Classes that an image shows: its ``pos_category_ids`` or, if it has none of these, the classes of its boxes."""
    if "pos_category_ids" in record:
        return list(record["pos_category_ids"])
    return sorted({annotation["category_id"] for annotation in record.get("annotations", ())})


def validate(
    name: str, dicts: Sequence[dict[str, Any]], annotation_type: str | None = None, masks: bool = False
) -> list[dict[str, Any]]:
    """Makes sure that a data set can be trained on.

    Degenerate boxes, and with ``masks`` unusable masks with their boxes, are dropped, with one warning that counts
    them; files that occur twice are a warning.

    Args:
        name: the data set.
        dicts: its images in Detectron2's standard format; left unchanged.
        annotation_type: as of :func:`inspect_dicts`.
        masks: whether every box needs a mask.

    Returns:
        the images without the degenerate boxes; each has "annotations", if only an empty list.

    Raises:
        FileNotFoundError: images are missing.
        ValueError: annotations have classes that the data set's metadata do not know, or lack a mask; or files with
            segments cannot be read.
    """
    masks = masks and (annotation_type or annotation_type_of(name)) == "box"
    report = inspect_dicts(name, dicts, annotation_type, masks)
    check_files(report)
    require_segment_files(name, report.bad_segment_files)
    warn_of_doubts(report)
    if report.unknown_classes:
        classes = MetadataCatalog.get(name).thing_classes
        raise ValueError(
            f'Data set "{name}": {join_some(report.unknown_classes)}, but its {len(classes)} classes have the ids 0 '
            f"to {len(classes) - 1} ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}). Correct the "
            "annotations, or the data set's thing_classes."
        )
    if report.missing_masks:
        raise ValueError(
            f'Data set "{name}": {join_some(list(map(str, report.missing_masks)))}, but MODEL.MASK_ON needs a mask for '
            f"each of its {report.num_boxes} boxes. Add the masks to the annotations (segmentation: polygons or run "
            "lengths, in COCO's format), or set MODEL.MASK_ON to False."
        )
    if report.duplicate_files:
        logger.warning(
            'Data set "%s": %d images occur more than once, each with annotations of its own: %s. Merge the entries '
            "unless this is intended.",
            name,
            len(report.duplicate_files),
            join_some(report.duplicate_files),
        )
    kept, dropped = [], []
    for record in dicts:
        faults: dict[int, BoxFault | MaskFault] = {
            **(_mask_faults_of(record)[1] if masks else {}),
            **_faults_of(record),
        }
        dropped.extend(faults.values())
        annotations = [a for index, a in enumerate(record.get("annotations", ())) if index not in faults]
        kept.append({**record, "annotations": annotations})
    warn_of_dropped(name, dropped)
    return kept


def unreadable_images(dicts: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Opens each image, and the file with its segments if there is one.

    Yields:
        what is wrong with those that cannot be read or are of another size than annotated.
    """
    for record in dicts:
        try:
            image = read_pixels(record["file_name"], "RGB")
            check_image_size(dict(record), image)
            read_mask_file(record)
        except (OSError, ValueError, SizeMismatchError) as error:
            yield f"{record['file_name']}: {error}"


def require_boxes(names: Sequence[str], dicts: Sequence[dict[str, Any]]) -> None:
    """Makes sure that validated training sets have, between them, a box to learn from.

    Raises:
        ValueError: they have none.
    """
    # A single set may well consist of background.
    if all(annotation.get("iscrowd") for record in dicts for annotation in record.get("annotations", ())):
        raise ValueError(
            f"DATASETS.TRAIN {list(names)}: none of the {len(dicts)} images has a usable box to learn "
            'from. Correct the annotations; "python -m pair_detr.tools.check_dataset NAME" lists what is wrong.'
        )


def check_files(report: DatasetReport) -> None:
    """Raises a FileNotFoundError that names the missing images, if any."""
    if report.missing_files:
        raise FileNotFoundError(
            f'Data set "{report.name}": {len(report.missing_files)} of {report.num_images} images do not exist: '
            f"{join_some(report.missing_files)}. Restore them, correct the image folder, or remove them from the "
            f'annotations. "python -m pair_detr.tools.check_dataset {report.name}" (with --config-file if a '
            "config registers it) lists all."
        )


def warn_of_doubts(report: DatasetReport) -> None:
    """Logs what looks like a mistake as warnings."""
    for doubt in report.doubts:
        logger.warning('Data set "%s": %s.', report.name, doubt)


def _faults_of(record: dict[str, Any]) -> dict[int, BoxFault]:
    size = (record["width"], record["height"]) if "width" in record and "height" in record else None
    return {
        index: BoxFault(record["file_name"], index, annotation.get("bbox"), reason)
        for index, annotation in enumerate(record.get("annotations", ()))
        if (reason := box_fault(annotation.get("bbox"), annotation.get("bbox_mode"), size)) is not None
    }


def _inspect_masks(report: DatasetReport, record: dict[str, Any], unusable_boxes: Container[int]) -> None:
    report.bad_masks.extend(record.get("bad_polygons", ()))
    missing, bad = _mask_faults_of(record)
    report.missing_masks.extend(fault for index, fault in missing.items() if index not in unusable_boxes)
    report.bad_masks.extend(bad.values())
    report.num_masks += sum(
        not annotation.get("iscrowd") and not any(index in faults for faults in (unusable_boxes, missing, bad))
        for index, annotation in enumerate(record.get("annotations", ()))
    )


def _mask_faults_of(record: dict[str, Any]) -> tuple[dict[int, MaskFault], dict[int, MaskFault]]:
    """Annotations without a mask and with an unusable one, by their position; crowds need none."""
    missing: dict[int, MaskFault] = {}
    bad: dict[int, MaskFault] = {}
    if "pan_seg_file_name" in record:
        return missing, bad
    size = (record["width"], record["height"]) if "width" in record and "height" in record else None
    for index, annotation in enumerate(record.get("annotations", ())):
        segmentation = annotation.get("segmentation")
        if not annotation.get("iscrowd") and (reason := mask_fault(segmentation, size)) is not None:
            (bad if segmentation else missing)[index] = MaskFault(record["file_name"], index, reason)
    return missing, bad


def _missing(file_names: Sequence[str]) -> list[str]:
    """Those of ``file_names`` that do not exist, in their order."""
    # One listing of a folder is much faster than asking for each of COCO's 118k images.
    folders: dict[str, set[str]] = {}
    missing = []
    for file_name in file_names:
        # Addresses such as s3://... are for Detectron2's PathManager; asking for each would take too long.
        if "://" in file_name:
            continue
        folder, base = os.path.split(file_name)
        if folder not in folders:
            path = Path(folder)
            folders[folder] = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if base not in folders[folder]:
            missing.append(file_name)
    return missing
