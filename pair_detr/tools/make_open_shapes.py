"""Prepares the open-vocabulary trial on generated shapes: ``python -m pair_detr.tools.make_open_shapes``."""

from collections.abc import Sequence
from pathlib import Path

from pair_detr.data import datasets_root
from pair_detr.data.datasets.open_shapes import make_open_shapes
from pair_detr.data.datasets.shapes import CLASS_NAMES, ensure_shapes
from pair_detr.data.datasets.shapes_folder import TEXTS
from pair_detr.open_vocabulary import Vocabulary, random_text_weights, require_output
from pair_detr.tools.common import add_overwrite_argument, parse, run, tool_logger, tool_parser

logger = tool_logger("make_open_shapes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    root = datasets_root() / "shapes"
    parser = tool_parser(
        "Makes open_shapes_train_boxes, open_shapes_train_image_labels and open_shapes_val from the "
        "generated shapes, which it makes if they are not there; and text weights for their classes.",
        "make_open_shapes --output datasets/shapes",
    )
    parser.add_argument("--output", default=str(root), metavar="FOLDER", help="of the shapes")
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    texts = Path(args.output).expanduser() / TEXTS
    require_output(texts, args.overwrite)
    ensure_shapes(args.output)
    for file, count in make_open_shapes(args.output, args.overwrite).items():
        logger.info("%s: %d images", file, count)
    # A text encoder's may have taken the place of the random ones.
    if args.overwrite or not texts.exists() or Vocabulary.load(texts).names != CLASS_NAMES:
        random_text_weights(CLASS_NAMES).save(texts, args.overwrite)
    logger.info("text weights: MODEL.CLIP.TEXT_WEIGHTS %s", texts)


if __name__ == "__main__":
    run(main)
