"""Open vocabulary on generated shapes: boxes of rectangles and triangles, image labels of circles."""

from pathlib import Path
from typing import Any

from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.data.datasets.shapes import CLASS_NAMES
from pair_detr.data.datasets.shapes_folder import writing_shapes
from pair_detr.data.datasets.withhold import as_image_labels, category_ids
from pair_detr.utils.json_files import read_json
from pair_detr.utils.outputs import require_outputs, write_marked_json

NOVEL_CLASS = "circle"

# Files below the folder of the shapes.
_ALL_BOXES_FILE = "annotations/shapes_train.json"
_VAL_FILE = "annotations/shapes_val.json"
_BOX_FILE = "annotations/open_shapes_train_boxes.json"
_LABEL_FILE = "annotations/open_shapes_train_image_labels.json"


def register_open_shapes(root: str | Path) -> None:
    """Registers ``open_shapes_train_boxes``, ``open_shapes_train_image_labels`` and ``open_shapes_val``.

    The first two are what :func:`make_open_shapes` writes below ``root``, the folder of the shapes; the third has the
    validation images with the boxes of all classes, and is evaluated for base and novel classes apart. Images with
    boxes show no circle, and so are fully annotated: circles are negatives there.
    """
    root = Path(root)
    shared: dict[str, Any] = {
        "thing_classes": list(CLASS_NAMES),
        "remedy": 'Run "python -m pair_detr.tools.make_open_shapes"; DETECTRON2_DATASETS names the folder of "shapes".',
    }
    boxes = shared | {"thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(CLASS_NAMES))}}
    register_coco("open_shapes_train_boxes", str(root / _BOX_FILE), str(root / "train"), **boxes)
    register_coco("open_shapes_val", str(root / _VAL_FILE), str(root / "val"), novel_classes=[NOVEL_CLASS], **boxes)
    register_image_labels("open_shapes_train_image_labels", root / _LABEL_FILE, root / "train", **shared)


def make_open_shapes(root: str | Path, overwrite: bool = False) -> dict[str, int]:
    """Divides the training images of the shapes in two, and writes an annotation file for each part below ``root``.

    Images without a circle get their boxes, those with nothing but circles the image label; all others, where a label
    would leave open what it is about, are not used. ``overwrite`` also replaces files of these names that are not of
    this function.

    Returns:
        number of images in each file of annotations.

    Raises:
        FileExistsError: there are such files.
        OSError: there are no shapes in ``root``, or it cannot be written.
    """
    root = Path(root)
    require_outputs([root / _BOX_FILE, root / _LABEL_FILE], overwrite=overwrite)
    content = read_json(root / _ALL_BOXES_FILE)
    novel = category_ids(content, [NOVEL_CLASS])
    base = {category["id"] for category in content["categories"]} - novel
    shown = as_image_labels(content, labels=novel | base, shown=novel | base)["images"]
    classes = {image["id"]: set(image["pos_category_ids"]) for image in shown}
    boxes = {
        **content,
        "images": [image for image in content["images"] if classes[image["id"]] <= base],
        "annotations": [a for a in content["annotations"] if classes[a["image_id"]] <= base],
    }
    labels = {**content, "images": [image for image in shown if classes[image["id"]] == novel], "annotations": []}
    with writing_shapes(root):
        for file, part in ((_BOX_FILE, boxes), (_LABEL_FILE, labels)):
            write_marked_json(part, root / file)
    return {file: len(part["images"]) for file, part in ((_BOX_FILE, boxes), (_LABEL_FILE, labels))}
