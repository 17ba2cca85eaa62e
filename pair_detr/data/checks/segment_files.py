"""Checks of the PNG files of panoptic data before they cost any training time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import Metadata

from pair_detr.data.datasets.coco_panoptic import unannotated_images
from pair_detr.data.datasets.panoptic_masks import mask_file, missing_segments, size_fault
from pair_detr.data.datasets.panoptic_png import mode_fault, read_headers
from pair_detr.utils.messages import counted, join_some

# Files that are decoded; all would take as long as an epoch's reading.
_SAMPLES = 8
_NAMED = 5

_REMEDY = "Make the ids in the JSON file those in the PNG files"


def inspect_segment_files(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Reads the headers of all PNG files and the pixels of a few, and looks for what training would stumble on.

    Returns:
        what is wrong with files that cannot be used, and what is suspicious, each as a sentence.
    """
    if faults := _header_faults(records):
        return faults, []
    without_all, without_some = _sampled_faults(records)
    faults = [f"{fault}, which are all of the image. {_REMEDY}." for fault in without_all]
    note = f"{join_some(without_some)}, and they are left out. {_REMEDY}; check_dataset --open-images lists all"
    return faults, [note] if without_some else []


def require_segment_files(name: str, faults: Sequence[str]) -> None:
    """Raises a ValueError if there are faults of :func:`inspect_segment_files` in the dataset ``name``."""
    if faults:
        raise ValueError(
            f'Dataset "{name}": {counted(len(faults), "PNG file")} with segments cannot be used: '
            f"{join_some(faults, _NAMED)}"
        )


def unannotated_suspicions(metadata: Metadata) -> list[str]:
    """Says that images have no entry with segments, if some have none."""
    files = unannotated_images(metadata)
    if not files:
        return []
    return [
        f"{counted(len(files), 'image has', 'images have')} no entry in annotations, and left out: "
        f"{join_some(files)}. Add their segments, "
        "or remove them from images"
    ]


@dataclass(frozen=True)
class AbsentSegments:
    """Segments of an image that have no pixel in its PNG file; ``num_objects`` of them are no crowds."""

    text: str
    num_objects: int
    are_all: bool


def absent_segments(records: Iterable[dict[str, Any]]) -> Iterator[AbsentSegments]:
    """Decodes all PNG files, and yields what images lack; files that cannot be read are left out."""
    for record in records:
        try:
            missing = missing_segments(record)
        except (OSError, ValueError):
            continue
        if missing:
            segments = record["segments_info"]
            objects = sum(segment["id"] in missing and not segment.get("iscrowd") for segment in segments)
            yield AbsentSegments(_absent(record, missing), objects, len(missing) == len(segments))


def _header_faults(records: Sequence[dict[str, Any]]) -> list[str]:
    records = [record for record in records if mask_file(record) and "://" not in mask_file(record)]
    faults = []
    for record, header in zip(records, read_headers([mask_file(record) for record in records]), strict=True):
        file = mask_file(record)
        if header is None:
            faults.append(f"{file} cannot be read as a picture. Restore the file, or remove its image")
            continue
        expected = record.get("width", header.size[0]), record.get("height", header.size[1])
        if header.size != expected:
            faults.append(size_fault(file, header.size, record["file_name"], expected))
        elif "pan_seg_file_name" in record and (fault := mode_fault(header.mode)):
            faults.append(f"{file} {fault}")
    return faults


def _sampled_faults(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Of a few files, spread over the dataset: those without any of their segments, and those that lack some."""
    records = [record for record in records if "pan_seg_file_name" in record and record["segments_info"]]
    chosen = np.unique(np.linspace(0, len(records) - 1, _SAMPLES).astype(int)) if records else []
    found = list(absent_segments(records[index] for index in chosen))
    return [absent.text for absent in found if absent.are_all], [absent.text for absent in found if not absent.are_all]


def _absent(record: dict[str, Any], segments: Sequence[int]) -> str:
    return f"{record['pan_seg_file_name']} has no pixel of segments {join_some(list(map(str, segments)), _NAMED)}"
