"""Generated images of colored shapes: a detection problem that is learned in minutes and needs no download."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.shapes_folder import SHAPES, make_folder
from pair_detr.utils.json_files import write_json

# An image, (96, 96, 3) uint8 RGB; and for every shape its class and the (96, 96) boolean mask of its visible pixels.
Drawing = tuple[np.ndarray, list[tuple[int, np.ndarray]]]
# The colors of a shape's N pixels, (N, 3) or (3,) uint8, for its class and its (H, W) mask.
Paint = Callable[[int, np.ndarray, np.random.Generator], np.ndarray]

CLASS_NAMES = ("circle", "rectangle", "triangle")
IMAGE_SIZE = 96
MAX_SHAPES = 5
# Sides of a shape's box in pixels, both ends included.
SIDE_RANGE = (12, 38)
MAX_OVERLAP = 0.3
SPLITS = ("train", "val")

# Raised whenever the same seed would give other images, so that data of an earlier version are not reused.
_VERSION = 2
_ATTEMPTS = 20


def register_shapes(root: str, prefix: str = "shapes") -> None:
    """Registers ``<prefix>_train`` and ``<prefix>_val``, which :func:`make_shapes` writes into the folder ``root``."""
    for split in SPLITS:
        register_coco(
            f"{prefix}_{split}",
            str(_annotation_file(Path(root), split)),
            str(Path(root) / split),
            thing_classes=list(CLASS_NAMES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASS_NAMES))},
            remedy=f'Run "python -m pair_detr.tools.make_shapes --output {root}".',
        )


def make_shapes(root: str, num_train: int = 8000, num_val: int = 200, seed: int = 0) -> bool:
    """Writes the dataset into a folder, which is complete or absent at any time; waits for processes that do the same.

    Image i of a split depends on the seed, the split and i alone; training and validation images never coincide. What
    was written earlier with the same arguments is kept, with others replaced.

    Returns:
        whether images were made; False if the folder was up to date.

    Raises:
        FileExistsError: ``root`` exists, but was not written by this function, or there is something else in it.
        ValueError: a split would be empty.
    """
    folder = Path(root).expanduser().resolve()
    counts = dict(zip(SPLITS, (num_train, num_val), strict=True))
    if min(counts.values()) < 1:
        raise ValueError(f"{num_train} training and {num_val} validation images: each split needs at least one")

    def write(new: Path) -> None:
        for number, (split, count) in enumerate(counts.items()):
            _write_split(new, split, count, seed, number)

    return make_folder(folder, SHAPES, {"version": _VERSION, "seed": seed, **counts}, write)


def any_color(class_id: int, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The paint of classes that are shapes alone: one color, which says nothing of the class."""
    return rng.integers(0, 256, 3, dtype=np.uint8)


def draw_image(
    rng: np.random.Generator,
    outlines: Sequence[str] = CLASS_NAMES,
    paint: Paint = any_color,
    max_shapes: int = MAX_SHAPES,
) -> Drawing:
    """Draws one image: one or more shapes, each of a random class, on noise.

    A later shape hides what is below it: at most 30% of any shape.

    Args:
        outlines: of every class, "circle", "rectangle" or "triangle".
        paint: tells the colors of a shape of a class.
        max_shapes: in the image.
    """
    # Weaker than the shapes' contrast, else minutes of training go into denoising; 16 levels keep the PNG files small.
    image = rng.integers(0, 16, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8) * 4 + 96
    owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1)
    classes: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(1, max_shapes + 1)):
        for _ in range(_ATTEMPTS):
            class_id = int(rng.integers(len(outlines)))
            shape = _draw_shape(outlines[class_id], rng)
            height, width = shape.shape
            top, left = rng.integers(0, IMAGE_SIZE - height + 1), rng.integers(0, IMAGE_SIZE - width + 1)
            window = (slice(top, top + height), slice(left, left + width))
            area = int(shape.sum())
            hidden = np.bincount(owner[window][shape] + 1, minlength=len(classes) + 1)[1:]
            if hidden.sum() > MAX_OVERLAP * area:
                continue
            visible = np.array([np.count_nonzero(owner == i) for i in range(len(classes))])
            if np.any(visible - hidden < (1 - MAX_OVERLAP) * np.array(areas)):
                continue
            owner[window][shape] = len(classes)
            image[window][shape] = paint(class_id, shape, rng)
            classes.append(class_id)
            areas.append(area)
            break
    return image, [(class_id, owner == number) for number, class_id in enumerate(classes)]


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
    """Outlines of an (H, W) boolean mask without holes along its pixels; rasterizing them gives the mask again.

    Returns:
        COCO polygons [x1, y1, x2, y2, ...] in pixels, one for every 4-connected part.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Directed edges with the mask to their right, by their start: a vertex where two parts touch has two.
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbor, start, step in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    ):
        rows, columns = np.nonzero(inside & ~neighbor)
        for x, y in zip((columns + start[0]).tolist(), (rows + start[1]).tolist(), strict=True):
            edges.setdefault((x, y), []).append(step)
    polygons = []
    while edges:
        # The topmost edge's left end is a corner that the outline passes only once.
        first = x, y = next(iter(edges))
        polygon: list[int] = []
        step = None
        while not polygon or (x, y) != first:
            steps = edges[x, y]
            # Where two parts touch, turning right stays with this one.
            turn = None if step is None else (-step[1], step[0])
            next_step = steps.pop(steps.index(turn) if turn in steps else 0)
            if not steps:
                del edges[x, y]
            if next_step != step:
                polygon += (x, y)
            step = next_step
            x, y = x + step[0], y + step[1]
        polygons.append(polygon)
    return polygons


def _draw_shape(name: str, rng: np.random.Generator) -> np.ndarray:
    """Mask of a shape, of the size of its box or (the tip of a triangle) up to a pixel smaller."""
    width, height = (int(side) for side in rng.integers(SIDE_RANGE[0], SIDE_RANGE[1] + 1, 2))
    if name == "rectangle":
        return np.ones((height, width), dtype=bool)
    if name == "circle":
        height = width
    # Centers of the pixels, from -1 to 1 across the box.
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height)[:, None] + 0.5) / height * 2 - 1
    if name == "circle":
        return x**2 + y**2 <= 1
    return np.abs(x) <= (y + 1) / 2


def write_images(
    folder: Path, count: int, draw: Callable[[int], Drawing], name: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draws images into a new folder.

    Args:
        draw: image by its number, from 0.
        name: of the dataset, for the progress bar.

    Returns:
        COCO's lists of images and of annotations; the id of a category is its class plus 1.
    """
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=name, unit="image", disable=None):
        image, shapes = draw(index)
        file_name = f"{index:06d}.png"
        Image.fromarray(image).save(folder / file_name, compress_level=1)
        images.append({"id": index + 1, "file_name": file_name, "width": IMAGE_SIZE, "height": IMAGE_SIZE})
        for annotation in _annotations(shapes):
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **annotation})
    return images, annotations


def seeded(seed: int, *key: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the numbers of ``key`` alone: of a split and an image, for example."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _write_split(root: Path, split: str, count: int, seed: int, number: int) -> None:
    images, annotations = write_images(
        root / split, count, lambda index: draw_image(seeded(seed, number, index)), f"shapes_{split}"
    )
    content = {
        "info": {"description": f"Generated shapes, version {_VERSION}, seed {seed}"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)],
    }
    write_json(content, _annotation_file(root, split))


def _annotations(shapes: list[tuple[int, np.ndarray]]) -> Iterator[dict[str, Any]]:
    for class_id, mask in shapes:
        rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
        yield {
            "category_id": class_id + 1,
            "bbox": [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": mask_to_polygons(mask),
        }


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"shapes_{split}.json"
