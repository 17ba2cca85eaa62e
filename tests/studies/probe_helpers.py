"""A dataset whose boxes and masks follow the text rows of their classes."""

import json
from pathlib import Path

import numpy as np
from data_helpers import write_image

from pair_detr.open_vocabulary import Vocabulary

SIZE = (80, 60)


def write_class_data(folder: Path, count: int = 12, dim: int = 4) -> tuple[Path, Path]:
    """Writes annotations.json, texts.npy and the images, which are noise.

    A class has the same boxes in each of four images: the log of their area is linear in its row, their aspect is
    random, and they are centered in the image. Their masks are the upper half of the box, with odd numbers the left.

    Returns:
        the files of the annotations and of the text weights.
    """
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"class {number}" for number in range(count)]
    Vocabulary(tuple(names), rows).save(folder / "texts.npy")
    images = [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in range(4)]
    for image in images:
        write_image(folder / image["file_name"], *SIZE)
    annotations = []
    for number, row in enumerate(rows):
        side, root = 18 * np.exp(row[0] / 2), np.exp(rng.normal() / 6)
        width, height = side * root, side / root
        x, y = 40 - width / 2, 30 - height / 2
        right, bottom = (x + width / 2, y + height) if number % 2 else (x + width, y + height / 2)
        annotations += [
            {
                "image_id": image["id"],
                "category_id": number + 1,
                "bbox": [x, y, width, height],
                "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
            }
            for image in images
            for _ in range(1 + number % 3)
        ]
    # Of a class without a text row, a crowd, and a box of no use.
    extra = [{"category_id": count + 1}, {"iscrowd": 1}, {"bbox": [1, 1, 0, 5]}]
    annotations += [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 70, 5], "segmentation": [], **e} for e in extra]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate([*names, "unknown"], start=1)]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file, folder / "texts.npy"
