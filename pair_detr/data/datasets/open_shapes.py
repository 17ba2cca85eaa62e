"""Open vocabulary on generated shapes: boxes of base classes, and photos with image labels of novel ones.

The classes are those of :mod:`pair_detr.data.datasets.shape_classes`. Images with boxes show objects of novel classes
as well, of which nobody has noted anything: as in OV-COCO (Bansal et al., "Zero-Shot Object Detection", 2018).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.data.datasets.shape_classes import HOLDOUTS, Holdout
from pair_detr.data.datasets.shape_paint import draw_classes
from pair_detr.data.datasets.shapes import MAX_SHAPES, Drawing, seeded, write_images
from pair_detr.data.datasets.shapes_folder import FolderLayout, make_folder
from pair_detr.data.datasets.withhold import as_image_labels, without_boxes
from pair_detr.utils.json_files import write_json

NUM_TRAIN, NUM_PHOTOS, NUM_VAL = 4000, 1000, 300
MAX_PHOTO_SHAPES = 3
TEXTS = "texts.npy"
# Folders of the images.
_PARTS = ("train", "photos", "val")

# Raised whenever the same seed would give other images or a holdout other classes, so that earlier data are not reused.
_VERSION = 1
_LAYOUT = FolderLayout(
    "open shapes",
    "open_shapes.json",
    frozenset({"version", "holdout", "seed", "train", "photos", "val"}),
    re.compile(
        r"open_shapes\.json|(train|photos|val)(/\d{6}\.png)?"
        r"|annotations(/(train_boxes|train_image_labels|val)\.json)?"
    ),
    # Text weights do not depend on the images.
    kept=re.compile(r"texts\w*\.(npy|json)"),
)


def register_open_shapes(root: str | Path) -> None:
    """Registers what :func:`make_open_shapes` writes into a folder below ``root`` for each holdout.

    These are ``open_shapes_<holdout>_train_boxes``, ``_train_image_labels`` and ``_val``. The novel classes are in the
    metadata of the first, so that they are not negatives there, and of the last, which is evaluated for base and novel
    classes apart.
    """
    for holdout in HOLDOUTS.values():
        folder, prefix = Path(root) / holdout.name, f"open_shapes_{holdout.name}"
        shared: dict[str, Any] = {
            "thing_classes": list(holdout.class_names),
            "remedy": f'Run "python -m pair_detr.tools.make_open_shapes --holdout {holdout.name}"; DETECTRON2_DATASETS '
            'names the folder of "open_shapes".',
        }
        boxes = shared | {
            "thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(holdout.classes))},
            "novel_classes": [own.name for own in holdout.novel_classes],
        }
        annotations = folder / "annotations"
        register_coco(f"{prefix}_train_boxes", annotations / "train_boxes.json", folder / "train", **boxes)
        register_coco(f"{prefix}_val", annotations / "val.json", folder / "val", **boxes)
        register_image_labels(
            f"{prefix}_train_image_labels", annotations / "train_image_labels.json", folder / "photos", **shared
        )


def make_open_shapes(
    folder: str | Path,
    holdout: Holdout,
    num_train: int = NUM_TRAIN,
    num_photos: int = NUM_PHOTOS,
    num_val: int = NUM_VAL,
    seed: int = 0,
) -> bool:
    """Writes the images and annotations of a holdout; see :func:`pair_detr.data.datasets.shapes_folder.make_folder`.

    Args:
        num_train: images with 1 to 5 objects of all classes, of which only those of base classes have boxes and masks.
        num_photos: images with 1 to 3 objects of one novel class and its label, the classes in turn.
        num_val: images as those of training, with boxes and masks of all classes.
        seed: of the images. Image i of a part depends on the seed, the part and i alone.

    Returns:
        whether images were made; False if the folder was up to date.

    Raises:
        FileExistsError: ``folder`` exists, but was not written by this function, or there is something else in it.
        ValueError: a part would be empty, or a novel class have no photo.
    """
    if num_train < 1 or num_val < 1 or num_photos < len(holdout.novel_classes):
        raise ValueError(
            f"{num_train} training images, {num_photos} photos and {num_val} validation images: at least 1, "
            f"{len(holdout.novel_classes)} (as many as there are novel classes) and 1 are needed."
        )
    counts = dict(zip(_PARTS, (num_train, num_photos, num_val), strict=True))
    novel = [holdout.classes.index(own) + 1 for own in holdout.novel_classes]

    def write(new: Path) -> None:
        train, photos, val = (_write_part(new, part, count, holdout, seed) for part, count in counts.items())
        for name, content in (
            ("train_boxes", without_boxes(train, novel)),
            ("train_image_labels", as_image_labels(photos, labels=novel, shown=novel)),
            ("val", val),
        ):
            write_json(content, new / "annotations" / f"{name}.json")

    return make_folder(
        Path(folder), _LAYOUT, {"version": _VERSION, "holdout": holdout.name, "seed": seed, **counts}, write
    )


def draw_scene(rng: np.random.Generator, holdout: Holdout) -> Drawing:
    """Draws an image with 1 to 5 objects of all classes."""
    return draw_classes(rng, holdout.classes, MAX_SHAPES)


def draw_base_objects(rng: np.random.Generator, holdout: Holdout) -> Drawing:
    """As :func:`draw_scene`, but only objects of base classes are told; labels are positions in ``base_classes``.

    There may be none.
    """
    image, shapes = draw_scene(rng, holdout)
    labels = {holdout.classes.index(own): label for label, own in enumerate(holdout.base_classes)}
    return image, [(labels[class_id], mask) for class_id, mask in shapes if class_id in labels]


def _write_part(folder: Path, part: str, count: int, holdout: Holdout, seed: int) -> dict[str, Any]:
    """Draws the images of a part; returns them with all boxes in COCO's format."""

    def draw(index: int) -> Drawing:
        rng = seeded(seed, _PARTS.index(part), index)
        return _draw_photo(rng, holdout, index) if part == "photos" else draw_scene(rng, holdout)

    images, annotations = write_images(folder / part, count, draw, f"open_shapes_{holdout.name}, {part}")
    return {
        "info": {"description": f"Generated shapes, version {_VERSION}, holdout {holdout.name}, seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(holdout.class_names)],
    }


def _draw_photo(rng: np.random.Generator, holdout: Holdout, index: int) -> Drawing:
    shown = holdout.novel_classes[index % len(holdout.novel_classes)]
    image, shapes = draw_classes(rng, [shown], MAX_PHOTO_SHAPES)
    return image, [(holdout.classes.index(shown), mask) for _, mask in shapes]
