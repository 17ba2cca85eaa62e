"""Makes the annotation files of OV-COCO from COCO's: ``python -m pair_detr.tools.make_ov_coco``."""

from collections.abc import Sequence
from pathlib import Path

from pair_detr.data import datasets_root
from pair_detr.data.datasets.ov_coco import (
    IMAGE_LABEL_FILE,
    TRAIN_FILE,
    VAL_FILE,
    labels_from_boxes,
    labels_from_captions,
    training_boxes,
    validation_boxes,
)
from pair_detr.data.datasets.withhold import read_annotations
from pair_detr.tools.common import add_overwrite_argument, parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import require_outputs, write_marked_json

logger = tool_logger("make_ov_coco")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Writes ovcoco_2017_train_base, ovcoco_2017_val and ovcoco_2017_train_image_labels from "
        "coco/annotations/instances_{train,val}2017.json. From the full files come 107761 training and 4836 "
        "validation images.",
        "make_ov_coco --root datasets",
    )
    parser.add_argument(
        "--root",
        default=str(datasets_root()),
        metavar="FOLDER",
        help="that holds coco; without it, DETECTRON2_DATASETS or datasets",
    )
    parser.add_argument(
        "--captions",
        action="store_true",
        help="take the image labels from class names in captions_train2017.json rather than from the withheld boxes",
    )
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    root = Path(args.root).expanduser()
    annotations = root / "coco" / "annotations"
    inputs = [annotations / f"{name}.json" for name in ("instances_train2017", "instances_val2017")]
    captions = annotations / "captions_train2017.json"
    if missing := [str(path) for path in [*inputs, *([captions] if args.captions else [])] if not path.is_file()]:
        raise FileNotFoundError(
            f"{', '.join(missing)} do not exist. Put COCO's annotations of 2017 there, or name the folder that holds "
            "coco by --root or DETECTRON2_DATASETS."
        )
    outputs = [root / file for file in (TRAIN_FILE, IMAGE_LABEL_FILE, VAL_FILE)]
    require_outputs(outputs, "--root", overwrite=args.overwrite, inputs=[*inputs, captions])
    train, val = map(read_annotations, inputs)
    if args.captions:
        labels = labels_from_captions(read_annotations(captions, keys=("images", "annotations")))
    else:
        labels = labels_from_boxes(train)
    for file, content in (
        (TRAIN_FILE, training_boxes(train)),
        (IMAGE_LABEL_FILE, labels),
        (VAL_FILE, validation_boxes(val)),
    ):
        write_marked_json(content, root / file)
        logger.info("%s: %d images, %d boxes", root / file, len(content["images"]), len(content["annotations"]))


if __name__ == "__main__":
    run(main)
