"""Trains a detector on the datasets of a config: ``python -m pair_detr.tools.train``; what train_net.py runs."""

from collections.abc import Sequence

from pair_detr.engine import run, run_program
from pair_detr.tools.common import program_name, training_parser


def main(arguments: Sequence[str] | None = None, program: str = "") -> None:
    """Runs the tool.

    Args:
        arguments: of the command line.
        program: how it is called, if neither as a module nor as a subcommand.
    """
    parser = training_parser(
        program or program_name("train"),
        "Trains a detector on DATASETS.TRAIN of a config, and evaluates it on DATASETS.TEST.",
        "--config-file r50 --num-gpus 8 SOLVER.EPOCHS.MAX 12 OUTPUT_DIR output/mine",
    )
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
