"""Reading files in COCO's JSON format."""

import logging
from typing import Any

from pair_detr.data.datasets.coco_entries import (
    ANNOTATION_FIELDS,
    CATEGORY_FIELDS,
    IMAGE_FIELDS,
    AnnotationFindings,
    describe_fields,
    missing_lists,
    normalize_annotations,
    normalize_categories,
    normalize_images,
)
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import counted, join_some, log_once

logger = logging.getLogger(__name__)

# The lists of a file in the order in which they are checked.
_FIELDS = {"images": IMAGE_FIELDS, "categories": CATEGORY_FIELDS, "annotations": ANNOTATION_FIELDS}
_REMEDY = (
    f"Correct the file: {describe_fields(_FIELDS)} (bbox is [x, y, width, height] in pixels; iscrowd and ignore are 0 "
    "or 1)"
)
# In the names of files of COCO 2014 that have some annotations twice; Detectron2 also lets them pass.
_WITH_REPEATED_ANNOTATIONS = "minival"
_NAMED = 3


def read_coco_json(json_file: str) -> dict[str, Any]:
    """Reads annotations of objects in COCO's format, and checks that they can be used.

    Returns:
        what the file holds, in the form of :mod:`pair_detr.data.datasets.coco_entries`. A file of test images has no
        list "annotations".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or entries lack something or point to nothing; the message names them.
    """
    content = read_json(json_file)
    # Files of test images have no annotations.
    faults = missing_lists(content, _FIELDS, optional=("annotations",))
    if not faults and not content["categories"]:
        faults = ["categories is empty"]
    if not faults:
        images, categories = content["images"], content["categories"]
        faults = [*normalize_images(images), *normalize_categories(categories)]
        unique = _WITH_REPEATED_ANNOTATIONS not in str(json_file)
        findings = normalize_annotations(content.get("annotations", []), images, categories, unique=unique)
        faults += findings.faults
    if faults:
        raise ValueError(f"{json_file}: {join_some(faults)}. {_REMEDY}.")
    _log(json_file, findings)
    return content


def _log(json_file: str, findings: AnnotationFindings) -> None:
    if findings.num_ignored:
        message = (
            f"{json_file}: {counted(findings.num_ignored, 'object has', 'objects have')} ignore 1: such are crowds, "
            "which are not trained on and need not be found."
        )
        log_once(logger, logging.INFO, message)
    if findings.bad_areas:
        message = (
            f"{json_file}: the area of {counted(len(findings.bad_areas), 'object')} is not a positive number "
            f"({join_some(findings.bad_areas, _NAMED)}); the evaluation computes it."
        )
        log_once(logger, logging.WARNING, message)
