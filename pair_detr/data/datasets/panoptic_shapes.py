"""Panoptic segments of the generated shapes: these are things, and what is behind them is stuff."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from pair_detr.data.annotation_masks import decode_mask
from pair_detr.data.datasets.coco_panoptic import class_metadata, register_coco_panoptic
from pair_detr.data.datasets.shapes import CLASS_NAMES, SPLITS
from pair_detr.data.datasets.shapes_folder import writing_shapes
from pair_detr.utils.atomic import temporary_folder
from pair_detr.utils.json_files import read_json, write_json
from pair_detr.utils.messages import join_some

BACKGROUND = "background"
_SEGMENTS = re.compile(r"\d{6}\.png")
_CATEGORIES = [
    *({"id": i, "name": name, "isthing": 1} for i, name in enumerate(CLASS_NAMES, start=1)),
    {"id": len(CLASS_NAMES) + 1, "name": BACKGROUND, "isthing": 0},
]


def register_panoptic_shapes(root: str | Path) -> None:
    """Registers ``panoptic_shapes_train`` and ``panoptic_shapes_val``, of the shapes in ``root``."""
    root = Path(root)
    remedy = 'Run "python -m pair_detr.tools.make_shapes --panoptic"; DETECTRON2_DATASETS names the folder of "shapes".'
    for split in SPLITS:
        json_file, segments, instances = _files(root, split)
        register_coco_panoptic(
            f"panoptic_shapes_{split}",
            json_file,
            segments,
            root / split,
            instances_json=instances,
            remedy=remedy,
            **class_metadata(_CATEGORIES),
        )


def make_panoptic_shapes(root: str | Path) -> bool:
    """Makes panoptic segments of the shapes in the folder ``root``; an earlier result of the same shapes is kept.

    Returns:
        whether segments were made.

    Raises:
        FileExistsError: there are other files in a folder of the segments.
        OSError: there are no shapes in ``root``, or it cannot be written.
    """
    with writing_shapes(Path(root)):
        made = [_make_split(Path(root), split) for split in SPLITS]
    return any(made)


def _files(root: Path, split: str) -> tuple[Path, Path, Path]:
    """File of the segments' descriptions, folder of their PNG files, and the shapes' own annotations."""
    annotations = root / "annotations"
    return (
        annotations / f"panoptic_shapes_{split}.json",
        root / f"panoptic_{split}",
        annotations / f"shapes_{split}.json",
    )


def _make_split(root: Path, split: str) -> bool:
    json_file, folder, instances = _files(root, split)
    # Shapes that are made anew replace the whole folder, so that segments in it are of the shapes in it.
    if json_file.is_file():
        return False
    # One without a description is of a process that was killed.
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if others := [name for name in found if not _SEGMENTS.fullmatch(name)]:
        raise FileExistsError(
            f"{folder} is to hold the segments of the shapes, but has other files: {join_some(others)}. Move them."
        )
    content = read_json(instances)
    shapes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        shapes[annotation["image_id"]].append(annotation)
    with temporary_folder(root) as temporary:
        new = temporary / "new"
        new.mkdir()
        annotations = [_write_segments(image, shapes[image["id"]], new) for image in content["images"]]
        if folder.exists():
            folder.replace(temporary / "old")
        new.replace(folder)
    # Last, as the sign that all is there.
    write_json({"images": content["images"], "annotations": annotations, "categories": _CATEGORIES}, json_file)
    return True


def _write_segments(image: dict[str, Any], shapes: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    size = image["height"], image["width"]
    ids = np.full(size, len(shapes) + 1, dtype=np.uint8)
    for number, shape in enumerate(shapes, start=1):
        # Masks are of the visible part, so that none hides another.
        ids[decode_mask(shape["segmentation"], *size).astype(bool)] = number
    colors = np.zeros((*size, 3), dtype=np.uint8)
    colors[..., 0] = ids
    file_name = f"{Path(image['file_name']).stem}.png"
    Image.fromarray(colors).save(folder / file_name, compress_level=1)
    segments = [
        {"id": number, "category_id": shape["category_id"], "bbox": shape["bbox"], "area": shape["area"], "iscrowd": 0}
        for number, shape in enumerate(shapes, start=1)
    ]
    background = mask_util.encode(np.asfortranarray(ids == len(shapes) + 1, dtype=np.uint8))
    segments.append(
        {
            "id": len(shapes) + 1,
            "category_id": len(CLASS_NAMES) + 1,
            "bbox": [int(value) for value in mask_util.toBbox(background)],
            "area": int(mask_util.area(background)),
            "iscrowd": 0,
        }
    )
    return {"image_id": image["id"], "file_name": file_name, "segments_info": segments}
