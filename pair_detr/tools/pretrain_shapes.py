"""Pretrains a backbone on crops of generated shapes: ``python -m pair_detr.tools.pretrain_shapes``."""

from collections.abc import Sequence

from pair_detr.checkpoint.shapes_backbone import (
    SHAPES_BACKBONE,
    backbone_address,
    backbone_file,
    pretrain_backbone,
)
from pair_detr.data.datasets.shape_classes import HOLDOUTS
from pair_detr.tools.common import add_overwrite_argument, output_file, parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import require_outputs

logger = tool_logger("pretrain_shapes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool.

    Raises:
        FileExistsError: the file exists, and may not be replaced.
        ValueError: a number is too small.
    """
    parser = tool_parser(
        "Trains the small backbone of the quick start to classify crops of generated shapes, without boxes. "
        f"A training with MODEL.WEIGHTS {SHAPES_BACKBONE}, or {backbone_address('NAME')} for a holdout of the "
        "open-vocabulary shapes, does that by itself if the default file does not exist.",
        "pretrain_shapes --seed 1 --output output/backbone_1.pth",
    )
    parser.add_argument(
        "--holdout", choices=tuple(HOLDOUTS), help="classify the base classes of these open-vocabulary shapes instead"
    )
    default = f"{backbone_file(SHAPES_BACKBONE)}, or that of the holdout"
    parser.add_argument("--output", type=output_file(".pth"), metavar="FILE", help=f"to write (default: {default})")
    parser.add_argument("--crops", type=int, default=12000, metavar="N", help="to classify")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="how often each crop is seen")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crops and weights")
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    address = backbone_address(args.holdout) if args.holdout else SHAPES_BACKBONE
    output = args.output or backbone_file(address)
    require_outputs([output], overwrite=args.overwrite)
    pretrain_backbone(output, args.crops, args.epochs, args.seed, address)


if __name__ == "__main__":
    run(main)
