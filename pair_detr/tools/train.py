"""Trains a detector on the datasets of a config, or on a folder: ``python -m pair_detr.tools.train``.

It is what train_net.py runs.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from pair_detr.checkpoint.search import find_candidates
from pair_detr.config.validation import check_config, check_values
from pair_detr.config_files import load_config
from pair_detr.data import class_names_of, load_dataset
from pair_detr.data.datasets.layouts import FORMATS
from pair_detr.engine import argument_parser, run, run_program
from pair_detr.engine.external_launch import find_place
from pair_detr.engine.launch import configure_cpu, require_flags_first
from pair_detr.engine.output_folder import (
    CONFIG_FILE,
    read_notes,
    require_inputs_elsewhere,
    require_own_config,
    set_aside_config,
    write_config,
)
from pair_detr.engine.run_lock import claimed
from pair_detr.engine.summary import BEST_CHECKPOINT
from pair_detr.recipes import Request, choose_recipe
from pair_detr.recipes.data_summary import summarize
from pair_detr.recipes.hardware import this_machine
from pair_detr.recipes.own_data import OwnData, find_own_data
from pair_detr.recipes.starting_point import require_start
from pair_detr.tools.check_dataset import check, compare, log_same_images
from pair_detr.tools.common import program_name, tool_logger, training_parser

logger = tool_logger("train")

_AUTO = "auto"
# Arguments that a recipe is made for.
_REQUESTS = ("weights", "epochs", "batch")


def main(arguments: Sequence[str] | None = None, program: str = "") -> None:
    """Runs the tool.

    Args:
        arguments: of the command line.
        program: how it is called, if neither as a module nor as a subcommand.
    """
    program = program or program_name("train")
    parser = training_parser(
        program,
        "Trains a detector on a folder of images with boxes, with a recipe that follows from them and the machine; or "
        "on DATASETS.TRAIN of a config. Evaluates it, and says where everything is.",
        f"--data cards --epochs 20. Or: {program} --config-file r50 --num-gpus 8 OUTPUT_DIR output/mine",
    )
    _add_recipe_arguments(parser)
    args = parser.parse_args(arguments)
    if args.data:
        _train_on_folder(args)
        return
    needing_data = (*_REQUESTS, "format", "output", "recipe_only")
    if given := [name for name in needing_data if getattr(args, name) != parser.get_default(name)]:
        parser.error(f"--{given[0].replace('_', '-')} is for --data; without it, set the config's entries: KEY VALUE")
    if not args.config_file and not args.opts:
        parser.error("name a folder of images with --data, or a config with --config-file")
    run(args)


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "own data", "train on a folder, without a config; KEY VALUE at the end changes the recipe"
    )
    group.add_argument("--data", default="", metavar="FOLDER", help="images with boxes, as annotation programs export")
    group.add_argument("--format", default="", choices=FORMATS, help="format of the data, if the folder has several")
    group.add_argument(
        "--weights",
        default="",
        metavar="NAME",
        help="weights to start from: a trained detector (zoo://NAME, hub://OWNER/NAME or a file), a file of timm's "
        "mobilenetv2_100, or none. By default those of COCO on a GPU, and of ImageNet for a small network on a CPU",
    )
    group.add_argument(
        "--epochs", type=_positive, default=0, metavar="N", help="by default, what suits the number of images"
    )
    group.add_argument(
        "--batch", type=_batch, default=0, metavar="N", help="number of images per step, or auto, the default"
    )
    group.add_argument(
        "--output", default="", metavar="FOLDER", help="folder for the results; by default output/ and the data's name"
    )
    group.add_argument("--recipe-only", action="store_true", help="write the config to the output folder, and stop")


def _train_on_folder(args: argparse.Namespace) -> None:
    if args.config_file:
        raise ValueError("--data chooses the config: leave out --config-file, or register the data in that config.")
    if args.eval_only:
        raise ValueError("--eval-only is for a config: that of a training on --data is in its output folder.")
    if find_place(os.environ) or args.num_machines > 1:
        raise ValueError(
            "Processes of torchrun or srun, and several machines, train by a config: write one first, with --data and "
            "--recipe-only, and start them with --config-file of it. --num-gpus starts processes on one machine."
        )
    require_flags_first(args.opts)
    # Mistyped options are noticed before the data are read.
    options = load_config("", args.opts)
    check_values(options)
    output = _output_folder(args, options)
    config = output / CONFIG_FILE
    # Not any longer: the processes of a training claim it by themselves.
    with claimed(output, "choose another folder with --output"):
        require_own_config(output)
        # As the training does, which then finds it set up.
        setup_logger(str(output), distributed_rank=0, name="pair_detr")
        if args.resume and config.is_file():
            data = find_own_data(args.data, args.format)
            _require_same_recipe(args, config, data)
        else:
            data = _write_recipe(args, options, output)
    if args.recipe_only:
        return
    chosen = [*args.opts, "OUTPUT_DIR", str(output)]
    run(argparse.Namespace(**{**vars(args), "config_file": str(config), "opts": chosen}))
    _evaluate(args, config, data)


def _output_folder(args: argparse.Namespace, options: CfgNode) -> Path:
    if args.output and "OUTPUT_DIR" in args.opts:
        raise ValueError("--output and OUTPUT_DIR are the same: give one of them.")
    given = args.output or (options.OUTPUT_DIR if "OUTPUT_DIR" in args.opts else "")
    root = Path(args.data).expanduser().resolve()
    output = Path(given or Path("output", root.name))
    if output.resolve().is_relative_to(root):
        raise ValueError(
            f"The output folder {output} lies in the data: choose another with --output, as it would be searched for "
            "data the next time."
        )
    if args.recipe_only and any(find_candidates(output)):
        raise FileExistsError(
            f"{output} has a training, whose recipe --recipe-only would replace: choose another folder with --output."
        )
    return output


def _write_recipe(args: argparse.Namespace, options: CfgNode, output: Path) -> OwnData:
    configure_cpu(1)
    machine = this_machine(options.MODEL.DEVICE)
    if args.weights and options.MODEL.WEIGHTS:
        raise ValueError("--weights and MODEL.WEIGHTS both say what to start from: give one of them.")
    weights = args.weights or options.MODEL.WEIGHTS
    require_start(weights, machine)
    data = find_own_data(args.data, args.format)
    _check(data)
    classes = len(class_names_of(data.train) or ())
    request = Request(weights, args.epochs, args.batch, args.num_gpus)
    recipe = choose_recipe(summarize(load_dataset(data.train), classes), machine, request, args.opts)
    cfg = recipe.cfg
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = data.entries, (data.train,), (data.val,)
    cfg.merge_from_list([*args.opts, "OUTPUT_DIR", str(output)])
    require_inputs_elsewhere(cfg)
    # The number of classes stays that of the data, also where these get further ones.
    complete = cfg.clone()
    complete.MODEL.DETR.NUM_CLASSES = classes
    check_config(complete)
    set_aside_config(output)
    notes = f"Recipe for {args.data}{_requested(args)}. {recipe.describe()}"
    write_config(cfg, notes)
    logger.info("%s\nIt is written to %s; KEY VALUE at the end of the command changes it.", notes, output / CONFIG_FILE)
    return data


def _requested(args: argparse.Namespace) -> str:
    """The arguments that a recipe is made for, as ", with --epochs 3"."""
    given = [f"--{name} {value}" for name in _REQUESTS if (value := getattr(args, name))]
    return f", with {' '.join(given)}" if given else ""


def _check(data: OwnData) -> None:
    names = data.names
    sound = [check(name, open_images=True) for name in names]
    log_same_images([name for name, is_sound in zip(names, sound, strict=True) if is_sound])
    sound += [compare(names[0], name) for name in names[1:]]
    if not all(sound):
        raise ValueError("The data cannot be trained on as they are: the lines above say what to correct.")


def _require_same_recipe(args: argparse.Namespace, config: Path, data: OwnData) -> None:
    """Makes sure that a resumed training is the one that the command started."""
    if data.entries != [dict(entry) for entry in load_config(str(config)).DATASETS.REGISTER]:
        raise ValueError(f"--resume continues with the data in {config}, which are not those of --data {args.data}.")
    first, *_ = read_notes(config, config.parent).splitlines() or [""]
    if (requested := _requested(args)) and f"{requested}. " not in first:
        raise ValueError(
            f"--resume continues with the recipe in {config}, which was not made{requested.removeprefix(',')}: leave "
            "these out, or set entries with KEY VALUE."
        )


def _evaluate(args: argparse.Namespace, config: Path, data: OwnData) -> None:
    """Evaluates the best weights, on the test set where there is one besides that for validation."""
    tests = load_config(str(config)).DATASETS.TEST
    if not tests:
        return
    if data.test and tests == (data.val,):
        tests = (data.test,)
    best = config.with_name(BEST_CHECKPOINT)
    weights = best if best.is_file() else config.with_name("model_final.pth")
    evaluation = argument_parser().parse_args(["--config-file", str(config), "--eval-only"])
    evaluation.num_gpus = args.num_gpus
    chosen = ["OUTPUT_DIR", str(config.parent), "MODEL.WEIGHTS", str(weights), "DATASETS.TEST", str(tuple(tests))]
    evaluation.opts = [*args.opts, *chosen]
    run(evaluation)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _batch(text: str) -> int:
    return 0 if text == _AUTO else _positive(text)


if __name__ == "__main__":
    run_program(main)
