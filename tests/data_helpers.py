"""Tiny datasets in both layouts, and catalogs that forget what a test registers."""

import errno
import importlib.util
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from pair_detr import add_pair_detr_config
from pair_detr.data import register_coco

needs_panopticapi = pytest.mark.skipif(
    importlib.util.find_spec("panopticapi") is None, reason="needs the package panopticapi"
)


@contextmanager
def restored_catalogs() -> Iterator[None]:
    """Puts Detectron2's catalogs back as they were at the start of the block."""
    before = [(catalog, dict(catalog)) for catalog in (DatasetCatalog, MetadataCatalog)]
    try:
        yield
    finally:
        for catalog, entries in before:
            catalog.clear()
            catalog.update(entries)


def make_cfg(**datasets: object) -> CfgNode:
    """The project's config with the given keys of DATASETS."""
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    for key, value in datasets.items():
        setattr(cfg.DATASETS, key, value)
    return cfg


def write_image(file: Path, width: int, height: int) -> None:
    """Writes noise, of each name another."""
    seed = zlib.crc32(file.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def write_coco(folder: Path, annotations: list[dict], sizes: list[tuple[int, int]]) -> Path:
    """Writes images 1, 2, ... of (width, height) in ``sizes`` and annotations.json with the classes cat and dog."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for image_id, (width, height) in enumerate(sizes, start=1):
        write_image(folder / f"{image_id}.png", width, height)
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
    for number, annotation in enumerate(annotations, start=1):
        defaults = {"id": number, "iscrowd": 0, "category_id": 1, "area": 1}
        annotations[number - 1] = defaults | annotation
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def tiny_dataset_cfg(folder: Path) -> CfgNode:
    """Config for "tiny", ten images, every third of them upright, with a crowd and boxes; small sizes."""
    sizes = [(40, 60) if i % 3 == 0 else (60, 40) for i in range(10)]
    annotations = [{"image_id": i + 1, "bbox": [5, 10, 20, 15], "category_id": 1 + i % 2} for i in range(10)]
    annotations.append({"image_id": 1, "bbox": [0, 0, 30, 30], "iscrowd": 1})
    register_coco("tiny", str(write_coco(folder, annotations, sizes)), str(folder))
    cfg = make_cfg(TRAIN=("tiny",), TEST=("tiny",))
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 40, 48)
    cfg.INPUT.MAX_SIZE_TRAIN = 64
    cfg.INPUT.RESIZE_CROP.SCALES = [40, 50]
    cfg.INPUT.RESIZE_CROP.SIZE_RANGE = [24, 40]
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 7
    return cfg


def write_voc(root: Path) -> Path:
    """Writes the split train: a.jpg of 40x30 pixels with a dog and a cat, and b.png of 20x20 without objects."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    write_image(root / "JPEGImages" / "a.jpg", 40, 30)
    write_image(root / "JPEGImages" / "b.png", 20, 20)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    objects = voc_object("dog", 1, 1, 40, 30) + voc_object("cat", 10, 5, 20, 15)
    (root / "Annotations" / "a.xml").write_text(voc_annotation(40, 30, objects))
    (root / "Annotations" / "b.xml").write_text(voc_annotation(20, 20, ""))
    return root


def voc_annotation(width: int, height: int, objects: str) -> str:
    """The text of an annotation file."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def voc_object(name: str, *corners: int) -> str:
    """An object; corners as VOC counts them, from 1."""
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    flags = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    return f"<object><name>{name}</name>{flags}<bndbox>{box}</bndbox></object>"


def edit(file: Path, old: str, new: str) -> None:
    """Replaces text that the file must have."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def predict(dicts: list[dict], noise: float = 4) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs of a model whose predictions are near the truth, each with a score of its own."""
    rng = np.random.default_rng(0)
    inputs, outputs = [], []
    for record in dicts:
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        instances = Instances((record["height"], record["width"]))
        offsets = rng.normal(0, noise, (len(boxes), 4))
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4) + offsets, dtype=torch.float32))
        instances.scores = torch.tensor(rng.random(len(boxes)))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]], dtype=torch.long)
        inputs.append(record)
        outputs.append({"instances": instances})
    return inputs, outputs


PANOPTIC_SIZE = (48, 32)


def write_panoptic(folder: Path) -> dict[str, Path]:
    """Writes two noise images with segments of cat (a thing), sky and grass (stuff).

    The first one has two cats, a crowd of cats, both kinds of stuff and unlabeled pixels, the second one sky alone.
    Category ids are not contiguous, and stuff comes before things.

    Returns:
        the values of JSON, SEGMENTS and IMAGES in an entry of DATASETS.REGISTER.
    """
    paths = {"JSON": folder / "panoptic.json", "SEGMENTS": folder / "segments", "IMAGES": folder / "images"}
    for key in ("SEGMENTS", "IMAGES"):
        paths[key].mkdir(parents=True)
    width, height = PANOPTIC_SIZE
    first = np.zeros((height, width), dtype=np.int64)
    first[:10] = 300
    first[10:, :30] = 70000
    first[12:20, 5:15] = 7
    first[18:30, 20:40] = 256
    first[22:28, 40:46] = 9
    second = np.full((height, width), 1)
    classes = {300: 2, 70000: 4, 7: 9, 256: 9, 9: 9, 1: 2}
    images, annotations = [], []
    for image_id, ids in enumerate((first, second), start=11):
        write_image(paths["IMAGES"] / f"{image_id}.png", width, height)
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)
        Image.fromarray(colors).save(paths["SEGMENTS"] / f"seg{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
        segments = []
        for segment in sorted(set(ids.flatten().tolist()) - {0}):
            rows, columns = np.nonzero(ids == segment)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            entry = {"id": segment, "category_id": classes[segment], "iscrowd": int(segment == 9), "area": len(rows)}
            segments.append(entry | {"bbox": [int(x) for x in box]})
        annotations.append({"image_id": image_id, "file_name": f"seg{image_id}.png", "segments_info": segments})
    categories = [
        {"id": i, "name": name, "isthing": thing} for i, name, thing in ((2, "sky", 0), (4, "grass", 0), (9, "cat", 1))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    paths["JSON"].write_text(json.dumps(content))
    return paths


def save_a_part(content: Any, file: str | Path | IO[bytes]) -> None:
    """In place of torch.save: what happens where the disk becomes full."""
    if isinstance(file, (str, Path)):
        Path(file).write_bytes(b"PK")
    else:
        file.write(b"PK")
    raise OSError(errno.ENOSPC, "The disk is full")
