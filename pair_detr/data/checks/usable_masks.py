"""Which annotations of an image lack a mask, or have one that cannot be used."""

from typing import Any

from pair_detr.data.annotation_masks import MaskFault, mask_fault


def faulty_masks(record: dict[str, Any]) -> tuple[dict[int, MaskFault], dict[int, MaskFault]]:
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
