"""What a dataset has to pass before it is trained or evaluated on."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from pair_detr.data.annotation_masks import MaskFault, faulty_masks
from pair_detr.data.catalog import annotation_type_of
from pair_detr.data.checks.invalid_boxes import BoxFault, warn_of_dropped
from pair_detr.data.checks.report import DatasetReport, find_missing, inspect_dicts, warn_of_suspicious
from pair_detr.data.checks.segment_files import require_segment_files
from pair_detr.data.datasets.panoptic_masks import read_mask_file
from pair_detr.images.reading import read_pixels
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

_MISSING_REMEDY = "Restore them, correct the image folder, or remove them from the annotations."


def validate(
    name: str, dicts: Sequence[dict[str, Any]], annotation_type: str | None = None, masks: bool = False
) -> list[dict[str, Any]]:
    """Makes sure that a dataset can be trained on.

    Invalid boxes, and with ``masks`` unusable masks with their boxes, are dropped, with one warning that counts them,
    and another one for polygons that a mask is left without; files that occur twice are a warning. What is in the
    dataset is logged in numbers.

    Args:
        masks: whether every box needs a mask.

    Returns:
        the images without the invalid boxes, which are listed under "dropped_boxes" where there are some; each has
        "annotations", if only an empty list.

    Raises:
        FileNotFoundError: images are missing.
        ValueError: annotations have classes that the dataset's metadata do not know, or lack a mask; or files with
            segments cannot be used.
    """
    masks = masks and (annotation_type or annotation_type_of(name)) == "box"
    report = inspect_dicts(name, dicts, annotation_type, masks)
    check_files(report)
    require_segment_files(name, report.bad_segment_files)
    logger.info('Dataset "%s": %s.', name, report.describe())
    warn_of_suspicious(report)
    if report.annotation_type == "box" and not any("annotations" in record for record in dicts):
        logger.warning(
            'Dataset "%s": its images have no annotations at all, as those of a test set; training takes them for '
            "images without objects. Remove it from DATASETS.TRAIN unless they are.",
            name,
        )
    if report.unknown_classes:
        classes = MetadataCatalog.get(name).thing_classes
        raise ValueError(
            f'Dataset "{name}": {join_some(report.unknown_classes)}, but its {len(classes)} classes have the ids 0 '
            f"to {len(classes) - 1} ({join_some(classes, 5)}). Correct the "
            "annotations, or the dataset's thing_classes."
        )
    if report.missing_masks:
        raise ValueError(
            f'Dataset "{name}": {join_some(list(map(str, report.missing_masks)))}, but MODEL.MASK_ON needs a mask for '
            f"each of its {report.num_boxes} boxes. Add the masks to the annotations (segmentation: polygons or run "
            "lengths, in COCO's format), or set MODEL.MASK_ON to False."
        )
    if report.duplicate_files:
        logger.warning(
            'Dataset "%s": %s more than once, each with annotations of its own: %s. Merge the entries '
            "unless this is intended.",
            name,
            counted(len(report.duplicate_files), "image occurs", "images occur"),
            join_some(report.duplicate_files),
        )
    kept, dropped = [], []
    for record, bad_boxes in zip(dicts, report.faulty_boxes, strict=True):
        faults: dict[int, BoxFault | MaskFault] = {**(faulty_masks(record)[1] if masks else {}), **bad_boxes}
        dropped.extend(faults.values())
        annotations = [a for index, a in enumerate(record.get("annotations", ())) if index not in faults]
        kept.append({**record, "annotations": annotations})
        if faults:
            kept[-1]["dropped_boxes"] = [*record.get("dropped_boxes", ()), *faults.values()]
    warn_of_dropped(name, dropped)
    if masks and (polygons := [str(fault) for record in dicts for fault in record.get("bad_polygons", ())]):
        logger.warning(
            'Dataset "%s": %s. Left %s out of masks that have others. "python -m '
            'pair_detr.tools.check_dataset %s" lists all.',
            name,
            join_some(polygons, 3),
            counted(len(polygons), "such polygon"),
            name,
        )
    return kept


def unreadable_images(dicts: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Opens each image, and the file with its segments if there is one; yields what is wrong with them."""
    for record in dicts:
        try:
            image = read_pixels(record["file_name"], "RGB")
            check_image_size(dict(record), image)
            read_mask_file(record)
        except (OSError, ValueError, SizeMismatchError) as error:
            yield f"{record['file_name']}: {error}"


def require_boxes(names: Sequence[str], dicts: Sequence[dict[str, Any]]) -> None:
    """Raises a ValueError if validated training sets have not, between them, a box to learn from."""
    # A single set may well consist of background.
    annotations = [annotation for record in dicts for annotation in record["annotations"]]
    if not all(annotation.get("iscrowd") for annotation in annotations):
        return
    dropped = sum(len(record.get("dropped_boxes", ())) for record in dicts)
    empty = sum(not record["annotations"] and not record.get("dropped_boxes") for record in dicts)
    found = [
        counted(number, noun, plural) + remark
        for number, noun, plural, remark in (
            (len(annotations), "crowd", "", " (nothing is learned from these: set iscrowd to 0 for single objects)"),
            (dropped, "unusable box", "unusable boxes", " (correct them)"),
            (empty, "image", "", " without objects"),
        )
        if number
    ]
    raise ValueError(
        f"DATASETS.TRAIN {list(names)}: none of the {counted(len(dicts), 'image')} has a usable box to learn from: "
        f'found: {", ".join(found)}. "python -m pair_detr.tools.check_dataset NAME" lists what is wrong.'
    )


def check_files(report: DatasetReport) -> None:
    """Raises a FileNotFoundError that names the missing images, if any."""
    if report.missing_files:
        raise FileNotFoundError(
            f'Dataset "{report.name}": {len(report.missing_files)} of {report.num_images} images do not exist: '
            f"{join_some(report.missing_files)}. {report.missing_hint or _MISSING_REMEDY} "
            f'"python -m pair_detr.tools.check_dataset {report.name}" (with --config-file if a config registers it) '
            "lists all."
        )


def require_images(name: str, dicts: Sequence[dict[str, Any]]) -> None:
    """As :func:`check_files`, of images whose annotations have been checked or do not matter."""
    report = DatasetReport(name, num_images=len(dicts))
    find_missing(report, dicts)
    check_files(report)
