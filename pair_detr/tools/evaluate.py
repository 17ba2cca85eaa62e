"""Evaluates weights on the datasets of a config: ``python -m pair_detr.tools.evaluate``."""

from collections.abc import Sequence

from pair_detr.engine import run, run_program
from pair_detr.tools.common import program_name, training_parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = training_parser(
        program_name("evaluate"),
        "Evaluates weights on DATASETS.TEST of a config, as train_net.py --eval-only does.",
        "--config-file r50 --weights output/pair_detr/r50/model_final.pth",
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint; '' takes MODEL.WEIGHTS")
    parser.set_defaults(eval_only=True)
    args = parser.parse_args(arguments)
    if args.weights:
        args.opts = ["MODEL.WEIGHTS", args.weights, *args.opts]
    run(args)


if __name__ == "__main__":
    run_program(main)
