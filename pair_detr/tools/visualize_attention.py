"""Draws what the attention looks at: ``python -m pair_detr.tools.visualize_attention``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pair_detr.images.inputs import as_format, open_file
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_predictor,
    output_file,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.outputs import require_outputs, writing
from pair_detr.visualization.attention_figure import draw_attention
from pair_detr.visualization.attention_report import report_attention

logger = tool_logger("visualize_attention")


def _point(text: str) -> tuple[float, float]:
    x, separator, y = text.partition(",")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form X,Y")
    return float(x), float(y)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Draws, for the best detections in an image, the cross-attention of every decoder head - for Pair DETR and "
        "Conditional DETR also its spatial and its content part, for Pair DETR of both decoders side by side - and the "
        "encoder's self-attention at points. Next to the PNG a .npz file holds all maps.",
        "visualize_attention --config-file quickstart --weights output/quickstart/pair_detr/model_final.pth "
        "--image photo.jpg --output attention.png",
    )
    add_model_arguments(parser)
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="to look at")
    parser.add_argument(
        "--output", type=output_file(".png"), default="attention.png", metavar="FILE", help="PNG to write"
    )
    parser.add_argument("--detections", type=int, default=2, metavar="N", help="number of detections, best first")
    parser.add_argument(
        "--layer", type=int, default=-1, metavar="N", help="decoder layer, counted from 0; -1 is the last"
    )
    parser.add_argument(
        "--points",
        nargs="+",
        type=_point,
        metavar="X,Y",
        help="pixels whose self-attention in the encoder is drawn, instead of the centers of the boxes",
    )
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if args.detections < 1:
        parser.error(f"--detections {args.detections}: it must be 1 or more")
    arrays = args.output.with_suffix(".npz")
    require_outputs([args.output, arrays], overwrite=args.overwrite, inputs=[args.image])
    image = open_file(args.image)
    predictor = load_predictor(args)
    report = report_attention(predictor.model, predictor.prepare(image), args.detections, args.layer, args.points)
    figure = draw_attention(as_format(image, "RGB"), report, predictor.metadata.thing_classes)
    with writing(args.output) as temporary:
        figure.savefig(temporary, dpi=110)
    with writing(arrays) as temporary:
        np.savez_compressed(temporary, **report.arrays())
    logger.info("Picture: %s; maps: %s", args.output, arrays)


if __name__ == "__main__":
    run(main)
