"""Which boxes of an image are unusable, which are crowds, and what that leaves of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pair_detr.data.checks.invalid_boxes import BoxFault, box_fault
from pair_detr.utils.messages import counted


@dataclass
class BoxCount:
    """How many boxes training can use, and why it cannot use others.

    Args:
        boxes: usable ones; crowds are none.
        crowds: annotations that mark a group of objects (``iscrowd``).
        unusable: boxes that are dropped.
        images_without_objects: images without any annotation.
    """

    boxes: int = 0
    crowds: int = 0
    unusable: int = 0
    images_without_objects: int = 0

    def explain_lack(self) -> str:
        """Where no box is usable: what there is in their place, and what to do about it."""
        causes = (
            (self.crowds, "crowd", "crowds", " (nothing is learned from these: set iscrowd to 0 for single objects)"),
            (self.unusable, "unusable box", "unusable boxes", " (correct them)"),
            (self.images_without_objects, "image", "images", " without objects"),
        )
        return "found: " + ", ".join(
            counted(number, noun, plural) + remark for number, noun, plural, remark in causes if number
        )


def faulty_boxes(record: dict[str, Any]) -> dict[int, BoxFault]:
    """The unusable boxes of an image, by the position of their annotation."""
    size = (record["width"], record["height"]) if "width" in record and "height" in record else None
    return {
        index: BoxFault(record["file_name"], index, annotation.get("bbox"), reason)
        for index, annotation in enumerate(record.get("annotations", ()))
        if (reason := box_fault(annotation.get("bbox"), annotation.get("bbox_mode"), size)) is not None
    }


def count_boxes(dicts: Sequence[dict[str, Any]]) -> BoxCount:
    """Counts the boxes of validated images, of which unusable ones are listed under ``dropped_boxes``."""
    count = BoxCount()
    for record in dicts:
        annotations, dropped = record["annotations"], record.get("dropped_boxes", ())
        crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
        count.crowds += crowds
        count.boxes += len(annotations) - crowds
        count.unusable += len(dropped)
        count.images_without_objects += not annotations and not dropped
    return count


def name_crowd(record: dict[str, Any], index: int, class_name: str | None) -> str:
    """A crowd, for a list: "annotation 3 of a.jpg (person)"."""
    of_class = f" ({class_name})" if class_name is not None else ""
    return f"annotation {index} of {PurePath(record['file_name']).name}{of_class}"
