"""Prepares the open-vocabulary trial on generated shapes: ``python -m pair_detr.tools.make_open_shapes``."""

from collections.abc import Sequence

from detectron2.utils.logger import setup_logger

from pair_detr.data import datasets_root, make_shapes
from pair_detr.data.open_shapes import make_open_shapes
from pair_detr.data.shapes import CLASS_NAMES
from pair_detr.open_vocabulary import random_texts
from pair_detr.tools.common import run, tool_logger, tool_parser

logger = tool_logger("make_open_shapes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool.

    Raises:
        FileExistsError, OSError: see :func:`pair_detr.data.shapes.make_shapes`.
    """
    root = datasets_root() / "shapes"
    parser = tool_parser(
        "Makes open_shapes_train_boxes, open_shapes_train_image_labels and open_shapes_val from the "
        "generated shapes, which it makes if they are not there; and text weights for their classes.",
        "make_open_shapes --output datasets/shapes",
    )
    parser.add_argument("--output", default=str(root), metavar="FOLDER", help="of the shapes")
    args = parser.parse_args(arguments)
    setup_logger(name="pair_detr")
    make_shapes(args.output)
    for file, count in make_open_shapes(args.output).items():
        logger.info("%s: %d images", file, count)
    texts = f"{args.output}/texts.npy"
    random_texts(CLASS_NAMES).save(texts)
    logger.info("text weights: MODEL.CLIP.TEXT_WEIGHTS %s", texts)


if __name__ == "__main__":
    run(main)
