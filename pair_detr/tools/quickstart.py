"""From nothing to a trained detector and pictures of what it sees: ``python -m pair_detr.tools.quickstart``.

With ``--masks`` it segments what it detects.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pycocotools import mask as mask_util

from pair_detr import engine
from pair_detr.config_files import config_file, load_config
from pair_detr.data import datasets_root, load_dataset, make_shapes
from pair_detr.data.annotation_masks import decode_mask
from pair_detr.engine.run_lock import claimed
from pair_detr.tools.common import add_overwrite_argument, run, tool_parser
from pair_detr.utils.console_script import console_script
from pair_detr.utils.json_files import read_json
from pair_detr.utils.outputs import require_outputs, writing

# Their configs.
MODELS = {
    "pair_detr": "quickstart",
    "conditional_detr": "conditional_detr/quickstart",
    "detr": "detr/quickstart",
}

_NUM_PICTURES = 8
_PAIRS_IN_A_ROW = 2
_MIN_SCORE = 0.3
_MASK_OPACITY = 0.45


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the data, trains, evaluates, draws, and prints the result.

    The last line is ``AP=0.xxx AP50=0.xxx``, with masks followed by `` mask_AP=0.xxx mask_AP50=0.xxx``.
    """
    parser = tool_parser(
        "Makes a dataset of shapes, trains a detector on it - on a CPU in a few minutes -, evaluates it, and draws "
        "what it finds. Prints where everything is; the last line is its AP.",
        "quickstart --model pair_detr",
        "quickstart --masks SOLVER.MAX_ITER 400 SOLVER.STEPS '(280,)'",
    )
    parser.add_argument("--model", choices=MODELS, default="pair_detr", help="detector to train")
    parser.add_argument("--masks", action="store_true", help="predict masks as well as boxes")
    parser.add_argument("--output", help="folder of the results (default: output/quickstart/<model>, or <model>_masks)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted training")
    add_overwrite_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options, as in SOLVER.MAX_ITER 200")
    args = parser.parse_args(arguments)
    folder = f"{args.model}_masks" if args.masks else args.model
    output = Path(args.output or Path("output", "quickstart", folder))
    masks = ["MODEL.MASK_ON", "True"] if args.masks else []
    options = [*masks, *args.opts, "OUTPUT_DIR", str(output)]
    config = str(config_file(MODELS[args.model]))

    pictures = output / "predictions.png"
    require_outputs([pictures], overwrite=args.overwrite)
    with claimed(output, "choose another folder with --output"):
        data = _make_data()
        resume = ["--resume"] if args.resume else []
        results = engine.run(engine.argument_parser().parse_args(["--config-file", config, *resume, *options]))
        cfg = load_config(str(output / "config.yaml"))
        dataset = cfg.DATASETS.TEST[0]
        draw_predictions(
            load_dataset(dataset)[:_NUM_PICTURES],
            output / "inference" / dataset / "coco_instances_results.json",
            MetadataCatalog.get(dataset),
            pictures,
        )
    print(_summary(results, args.model, pictures, data))  # noqa: T201


def _summary(results: dict[str, dict[str, float]], model: str, pictures: Path, data: Path) -> str:
    """What follows on the summary of the training."""
    # As a fraction, for programs that read it: all that people read is in percent.
    last_line = " ".join(
        f"{prefix}{metric}={results[task][metric] / 100:.3f}"
        for task, prefix in (("bbox", ""), ("segm", "mask_"))
        if task in results
        for metric in ("AP", "AP50")
    )
    program = f"{console_script()} quickstart"
    masks = "" if "segm" in results else f"\n  boxes and masks   {program} --masks"
    other = ("--masks " if "segm" in results else "") + "--model " + "|".join(m for m in MODELS if m != model)
    return f"""  other detectors   {program} {other}{masks}
  your own data     {console_script()} train --data FOLDER

Pictures    {pictures} (left the truth, right what {model} found)
Data        {data}

As fractions of 1:
{last_line}"""


def draw_predictions(images: list[dict], results_file: Path, metadata: Metadata, output: Path) -> None:
    """Draws images in pairs: on the left the annotated objects, on the right the predicted ones.

    Where the predictions have masks, those of both sides are drawn.

    Args:
        images: in Detectron2's standard format.
    """
    class_ids = metadata.thing_dataset_id_to_contiguous_id
    predicted: dict[int, list[_Object]] = defaultdict(list)
    entries = read_json(results_file)
    with_masks = any("segmentation" in entry for entry in entries)
    for entry in entries:
        if entry["score"] >= _MIN_SCORE:
            class_id = class_ids[entry["category_id"]]
            label = f"{metadata.thing_classes[class_id]} {entry['score']:.2f}"
            mask = mask_util.decode(entry["segmentation"]) if with_masks else None
            predicted[entry["image_id"]].append(_Object(entry["bbox"], class_id, label, mask))

    columns = 2 * _PAIRS_IN_A_ROW
    rows = math.ceil(len(images) / _PAIRS_IN_A_ROW)
    figure = Figure(figsize=(4 * columns, 4.3 * rows), layout="tight")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for image, left, right in zip(images, axes[::2], axes[1::2], strict=False):
        truth = [
            _Object(
                BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS),
                annotation["category_id"],
                metadata.thing_classes[annotation["category_id"]],
                decode_mask(annotation["segmentation"], image["height"], image["width"]) if with_masks else None,
            )
            for annotation in image["annotations"]
        ]
        pixels = read_image(image["file_name"], "RGB")
        _draw(left, pixels, truth, f"{Path(image['file_name']).name}: truth")
        _draw(right, pixels, predicted[image["image_id"]], "predicted")
    with writing(output) as temporary:
        figure.savefig(temporary)


class _Object(NamedTuple):
    """Box as x, y, width and height in pixels, its class, what to write above it, and its (H, W) mask, if any."""

    xywh: Sequence[float]
    class_id: int
    label: str
    mask: np.ndarray | None


def _draw(axis: Axes, pixels: np.ndarray, objects: list[_Object], title: str) -> None:
    # Detectron2's Visualizer would need OpenCV, which nothing else here does.
    area = {"interpolation": "nearest", "extent": (0, pixels.shape[1], pixels.shape[0], 0)}
    axis.imshow(pixels, **area)
    axis.set_title(title, pad=14)
    for (x, y, width, height), class_id, label, mask in objects:
        color = f"C{class_id}"
        if mask is not None:
            axis.imshow(np.multiply.outer(mask, to_rgba(color, _MASK_OPACITY)), **area)
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=3))
        axis.text(x, y, label, color="white", va="bottom", bbox={"facecolor": color, "pad": 1, "linewidth": 0})


def _make_data() -> Path:
    """Makes the shapes where the package registers them."""
    folder = datasets_root() / "shapes"
    try:
        make_shapes(str(folder))
    except PermissionError as error:
        raise PermissionError(
            f"The shapes cannot be written to {folder}: set the environment's DETECTRON2_DATASETS to another folder."
        ) from error
    return folder


if __name__ == "__main__":
    run(main)
