"""What an evaluation needs of its data, made sure of before a model runs."""

import logging
from collections.abc import Sequence
from typing import Any

from pair_detr.evaluation.coco_ground_truth import (
    are_annotated,
    is_to_be_found,
    objects_of,
    unfindable_boxes,
    unusable_masks,
)
from pair_detr.utils.messages import counted, join_some, log_once

logger = logging.getLogger(__name__)

_NAMED = 3


def require_objects(name: str, records: Sequence[dict[str, Any]]) -> None:
    """Raises a ValueError if there are annotations, but no object to find, so that COCO's AP is no number."""
    if not are_annotated(records) or any(is_to_be_found(annotation) for _, _, annotation in objects_of(records)):
        return
    annotations = [annotation for _, _, annotation in objects_of(records)]
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    unusable = unfindable_boxes(records)
    boxes = f", {len(unusable)} have no usable box: {join_some(list(map(str, unusable)), _NAMED)}" if unusable else ""
    raise ValueError(
        f'Test set "{name}": none of its {counted(len(records), "image")} has an object to find, so that there is no '
        f"AP; of {counted(len(annotations), 'annotation')} {counted(crowds, 'is a crowd', 'are crowds')} (iscrowd)"
        f"{boxes}. Correct the annotations, or take it out of DATASETS.TEST. To have predictions written without an "
        'AP, remove the list "annotations" from its JSON file (the key from its records, if it is registered in '
        "Python)."
    )


def warn_of_objects(name: str, records: Sequence[dict[str, Any]], masks: bool) -> None:
    """Says which objects of a test set no prediction can find, and that there is no ground truth if there is none."""
    if not are_annotated(records):
        logger.warning(
            'Test set "%s" has no annotations: predictions for its %s are written, but there will be no AP.',
            name,
            counted(len(records), "image"),
        )
    if boxes := unfindable_boxes(records):
        logger.warning(
            'Test set "%s": no prediction can find %d of its boxes: %s. Empty ones count as not found, as in '
            "pycocotools; others are left out. Correct or remove them.",
            name,
            len(boxes),
            join_some(list(map(str, boxes)), _NAMED),
        )
    if masks:
        masks_can_be_evaluated(name, records)


def masks_can_be_evaluated(name: str, records: Sequence[dict[str, Any]]) -> bool:
    """Whether every object has a mask; a warning says which have none, or one that cannot be used."""
    faults = unusable_masks(records)
    if faults:
        # It is asked at the start, and again for each evaluation.
        log_once(
            logger,
            logging.WARNING,
            f'Test set "{name}": {counted(len(faults), "object has", "objects have")} no mask to compare with: '
            f"{join_some(list(map(str, faults)), _NAMED)}. Boxes are evaluated, but masks are not: add or correct the "
            "segmentations, those of crowds included.",
        )
    return not faults
