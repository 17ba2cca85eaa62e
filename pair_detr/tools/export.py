"""Exports a model to ONNX, OpenVINO or torch.export: ``python -m pair_detr.tools.export``."""

from collections.abc import Sequence
from pathlib import Path

from pair_detr.deployment import ExportOptions, export_model
from pair_detr.deployment.export import require_folder
from pair_detr.deployment.writers import WRITERS, require_packages
from pair_detr.runtime.description import GRAPH_FILES
from pair_detr.tools.common import add_model_arguments, load_predictor, run, tool_logger, tool_parser
from pair_detr.utils.disk_space import format_size

logger = tool_logger("export")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Exports a model as one graph, from images of any number and size to boxes, scores, labels and masks, in a "
        "folder that pair_detr.runtime and the demo (--model) run.",
        "export --config-file r50 --weights model_final.pth --format onnx --output output/r50_onnx",
    )
    add_model_arguments(parser)
    parser.add_argument("--format", choices=list(WRITERS), default="onnx", help="of the graph")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the exported model")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="detections of each image; without it, TEST.DETECTIONS_PER_IMAGE"
    )
    parser.add_argument(
        "--fixed-size", type=int, nargs=2, metavar=("H", "W"), help="pad all images to this size, instead of any size"
    )
    parser.add_argument(
        "--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="of the computation; boxes stay in fp32"
    )
    args = parser.parse_args(arguments)
    options = ExportOptions(
        args.format, args.precision, args.top_k, tuple(args.fixed_size) if args.fixed_size else None
    )
    require_packages(options.format)
    require_folder(args.output)
    # The weights as they are: the graph has a precision of its own.
    args.opts = [*args.opts, "TEST.PRECISION", "fp32"]
    predictor = load_predictor(args)
    export_model(
        predictor.model,
        predictor.cfg,
        args.output,
        options,
        predictor.metadata.thing_classes,
        predictor.category_ids,
    )
    size = sum(path.stat().st_size for path in args.output.iterdir())
    logger.info(
        "%s: %s, %s in all. It runs with pair_detr.runtime.load, or the demo's --model.",
        args.output,
        GRAPH_FILES[options.format],
        format_size(size),
    )


if __name__ == "__main__":
    run(main)
