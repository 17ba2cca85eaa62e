"""What the tools share: arguments, the model, what they say, and how they end."""

import argparse
import logging
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from pair_detr.checkpoint.self_description import config_of
from pair_detr.config.validation import check_config
from pair_detr.config_files import load_config
from pair_detr.data import register_from_config
from pair_detr.engine.launch import argument_parser, configure_cpu
from pair_detr.engine.user_errors import add_traceback_argument, run_program
from pair_detr.predictor import Predictor
from pair_detr_cli.commands import PROGRAM

# Every tool ends as train_net.py does.
run = run_program


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def tool_logger(name: str) -> logging.Logger:
    """The logger of a tool: run as a program, the module's own name is __main__, which no logger is set up for."""
    return logging.getLogger(f"pair_detr.tools.{name}")


def program_name(tool: str, package: str = "pair_detr.tools") -> str:
    """How to call the running tool: as it was called, as a subcommand of ``pair-detr`` or as a module."""
    return sys.argv[0] if sys.argv[0].startswith(f"{PROGRAM} ") else f"python -m {package}.{tool}"


def tool_parser(description: str, *examples: str, package: str = "pair_detr.tools") -> argparse.ArgumentParser:
    """A parser whose ``--help`` ends with commands that can be typed as they are: a tool's name and arguments."""
    program = program_name(examples[0].split()[0], package)
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog="Example: " + " Or: ".join(f"{program} {example.partition(' ')[2]}".rstrip() for example in examples),
        formatter_class=_Formatter,
    )
    add_traceback_argument(parser)
    return parser


def training_parser(program: str, description: str, example: str) -> argparse.ArgumentParser:
    """Detectron2's arguments of a training, with a help that says how this program is called."""
    parser = argument_parser()
    parser.prog, parser.description, parser.epilog = program, description, f"Example: {program} {example}"
    parser.formatter_class = _Formatter
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line, and sets up the loggers of tools that do no more than log to the terminal."""
    args = parser.parse_args(arguments)
    setup_logger(name="pair_detr")
    return args


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A table with its numbers as they are written."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def add_model_arguments(parser: argparse.ArgumentParser, weights: bool = True, required: bool = True) -> None:
    """Adds the arguments that choose a model; see :func:`load_model_config`."""
    required = required and not weights
    what = "config of the model, such as r50" + ("; by default that in --weights" if weights else "")
    parser.add_argument("--config-file", required=required, metavar="FILE", help=what)
    if weights:
        parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint; '' takes MODEL.WEIGHTS")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options; put them last"
    )


def add_overwrite_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--overwrite``; see :func:`pair_detr.utils.outputs.require_outputs`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="also replace files that this program has not made, such as your own"
    )


def image_size(text: str) -> tuple[int, int]:
    """Type of an argument that is a height and a width in pixels, such as 480x640."""
    height, separator, width = text.partition("x")
    if not (separator and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, such as 800x1066")
    return int(height), int(width)


def output_file(*suffixes: str) -> Callable[[str], Path]:
    """Type of an argument that names a file to write, of one of the kinds; others end the program at once."""

    def parse(text: str) -> Path:
        if Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text}: its name must end with {' or '.join(suffixes)}")
        return Path(text)

    return parse


def load_model_config(args: argparse.Namespace) -> CfgNode:
    """The config of a tool's arguments; sets up loggers and the CPU.

    Raises:
        ValueError: neither a config file nor weights are given.
        FileNotFoundError, CheckpointError, KeyError: as :func:`pair_detr.config_files.load_config`, or as
            :func:`pair_detr.checkpoint.self_description.config_of`.
    """
    setup_logger(name="pair_detr")
    configure_cpu(1)
    weights = getattr(args, "weights", "")
    if not args.config_file and not weights:
        raise ValueError("There is no model: give --weights of a checkpoint, or --config-file.")
    cfg = load_config(args.config_file, args.opts) if args.config_file else config_of(weights, args.opts)
    if weights:
        cfg.MODEL.WEIGHTS = weights
    check_config(cfg)
    return cfg


def without_data(cfg: CfgNode) -> CfgNode:
    """A config to measure a model with: random weights, and 80 classes where the data would say how many there are.

    Masks are made, but not merged into panoptic segments, for which the data would say what is a thing.
    """
    cfg = cfg.clone()
    cfg.MODEL.DETR.PANOPTIC.ENABLED = False
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.WEIGHTS = cfg.MODEL.TIMM.WEIGHTS = ""
    if cfg.MODEL.DETR.NUM_CLASSES == 0:
        cfg.MODEL.DETR.NUM_CLASSES = 80
    return cfg


def describe_machine(device: str) -> str:
    """What measurements were made on, such as "cpu (x86_64, 2 threads), torch 2.8.0"."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)}), torch {torch.__version__}"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads), torch {torch.__version__}"


def load_predictor(args: argparse.Namespace, vocabulary: Sequence[str] | None = None) -> Predictor:
    """The model of a tool's arguments.

    Raises:
        ValueError: there are no weights; for others see :class:`pair_detr.Predictor`.
    """
    cfg = load_model_config(args)
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("There are no weights: name a checkpoint with --weights, or MODEL.WEIGHTS in the config.")
    try:
        register_from_config(cfg)
    except FileNotFoundError as error:
        # The checkpoint knows its classes: a model can be used where its training data are not.
        logging.getLogger("pair_detr").warning("A dataset of the config is left out. %s", error)
    return Predictor(cfg, vocabulary)
