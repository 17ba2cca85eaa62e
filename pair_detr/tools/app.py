"""Serves a page to try a model in the browser: ``python -m pair_detr.tools.app``."""

import threading
from collections.abc import Sequence
from pathlib import Path

from pair_detr.app.detection import PageModel
from pair_detr.app.gradio import require_gradio
from pair_detr.app.serving import serving
from pair_detr.drawing.supervision import require_supervision
from pair_detr.images.reading import find_images
from pair_detr.open_vocabulary import read_class_list
from pair_detr.tools.common import add_model_arguments, load_predictor, run, tool_logger, tool_parser

logger = tool_logger("app")

_LOCAL = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool, until Ctrl-C."""
    parser = tool_parser(
        "Serves a page to try a model in the browser: an image in, detections and the attention of their queries out. "
        "Only this machine can open it, unless --host says otherwise. It needs no network.",
        "app --weights output/quickstart/pair_detr/model_final.pth --examples photos",
    )
    add_model_arguments(parser)
    parser.add_argument("--examples", type=Path, metavar="FOLDER", help="images that the page offers")
    parser.add_argument(
        "--vocabulary", metavar="CLASSES", help='for models with text weights: "cat,traffic cone", coco, lvis or a file'
    )
    parser.add_argument("--confidence", type=float, default=0.5, help="least score that is shown at first, 0 to 1")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 lets everyone in who reaches this machine"
    )
    parser.add_argument("--port", type=int, metavar="N", help="to serve at; by default the first free one from 7860")
    parser.add_argument("--check", action="store_true", help="end as soon as the page is there")
    args = parser.parse_args(arguments)
    if not 0 <= args.confidence <= 1:
        parser.error(f"--confidence {args.confidence}: it must be from 0 to 1")
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port {args.port}: it must be from 1 to 65535")
    if args.examples is not None and not args.examples.is_dir():
        parser.error(f"--examples {args.examples} is no folder: name one with images")
    examples = find_images(args.examples) if args.examples else []
    if args.examples and not examples:
        parser.error(f"--examples {args.examples} has no images")
    require_gradio()
    require_supervision()
    vocabulary = list(read_class_list(args.vocabulary)) if args.vocabulary else None
    model = PageModel(load_predictor(args, vocabulary))
    if args.host not in _LOCAL:
        logger.warning(
            "--host %s: everyone who reaches this machine can use the page. It asks for no password.", args.host
        )
    with serving(model, examples, args.confidence, args.host, args.port) as address:
        logger.info("The page is at %s until Ctrl-C.", address)
        if not args.check:
            threading.Event().wait()


if __name__ == "__main__":
    run(main)
