"""Makes the dataset of generated shapes: ``python -m pair_detr.tools.make_shapes``."""

from collections.abc import Sequence

from pair_detr.data import datasets_root, make_panoptic_shapes, make_shapes
from pair_detr.tools.common import parse, run, tool_logger, tool_parser

logger = tool_logger("make_shapes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    default = datasets_root() / "shapes"
    parser = tool_parser(
        "Makes the datasets shapes_train and shapes_val: circles, rectangles and triangles on noise, with boxes and "
        "masks, for the quick start and to try things with.",
        "make_shapes --output datasets/shapes --train 8000 --val 200",
    )
    parser.add_argument("--output", default=str(default), metavar="FOLDER", help="to write")
    parser.add_argument("--train", type=int, default=8000, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=200, metavar="N", help="validation images")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices")
    parser.add_argument(
        "--panoptic", action="store_true", help="also make panoptic_shapes_train and panoptic_shapes_val of them"
    )
    args = parse(parser, arguments)
    made = make_shapes(args.output, args.train, args.val, args.seed)
    state = "made" if made else "there already, nothing to do"
    logger.info("%d training and %d validation images in %s: %s", args.train, args.val, args.output, state)
    if args.panoptic:
        made = make_panoptic_shapes(args.output)
        logger.info("Panoptic segments: %s", "made" if made else "there already, nothing to do")


if __name__ == "__main__":
    run(main)
