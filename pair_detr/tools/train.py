"""Trains a detector on the datasets of a config, or on a folder: ``python -m pair_detr.tools.train``.

It is what train_net.py runs.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from pair_detr.config_files import load_config
from pair_detr.data import class_names_of, load_dataset, register_from_config
from pair_detr.data.datasets.layouts import FORMATS
from pair_detr.engine import argument_parser, run, run_program
from pair_detr.engine.external_launch import find_place
from pair_detr.engine.launch import configure_cpu
from pair_detr.engine.output_folder import CONFIG_FILE, require_inputs_elsewhere, require_own_config, write_config
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
# Arguments that a recipe is made of.
_RECIPE = ("weights", "epochs", "batch", "format", "recipe_only")


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
        f"--data my_images --epochs 20 Or: {program} --config-file r50 --num-gpus 8 OUTPUT_DIR output/mine",
    )
    _add_recipe_arguments(parser)
    args = parser.parse_args(arguments)
    if args.data:
        _train_on_folder(args)
        return
    if given := [name for name in (*_RECIPE, "output") if getattr(args, name) != parser.get_default(name)]:
        parser.error(f"--{given[0].replace('_', '-')} is for --data; without it, set the config's entries: KEY VALUE")
    if not args.config_file and not args.opts:
        parser.error("name a folder of images with --data, or a config with --config-file")
    run(args)


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "own data", "a folder in place of a config; KEY VALUE at the end changes the recipe"
    )
    group.add_argument("--data", default="", metavar="FOLDER", help="images with boxes, as annotation programs export")
    group.add_argument("--format", default="", choices=FORMATS, help="of the data, where the folder has several")
    group.add_argument(
        "--weights",
        default="",
        metavar="NAME",
        help="to start from: a trained detector (zoo://NAME, hub://OWNER/NAME, a file) or a file of timm's "
        "mobilenetv2_100, or none; by default COCO's on a GPU, and ImageNet's of a small network on a CPU",
    )
    group.add_argument(
        "--epochs", type=_positive, default=0, metavar="N", help="by default what suits the number of images"
    )
    group.add_argument(
        "--batch", type=_batch, default=0, metavar="N", help="images of a step, or auto, the default: as many as fit"
    )
    group.add_argument("--output", default="", metavar="FOLDER", help="of the results; by default output/ and its name")
    group.add_argument("--recipe-only", action="store_true", help="write the config and stop")


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
    # Mistyped options are noticed before the data are read.
    options = load_config("", args.opts)
    if args.output and "OUTPUT_DIR" in args.opts:
        raise ValueError("--output and OUTPUT_DIR are the same: give one of them.")
    given = args.output or (options.OUTPUT_DIR if "OUTPUT_DIR" in args.opts else "")
    output = Path(given or Path("output", Path(args.data).resolve().name))
    config = output / CONFIG_FILE
    with claimed(output, "choose another folder with --output"):
        require_own_config(output)
        # As the training does, which then finds it set up.
        setup_logger(str(output), distributed_rank=0, name="pair_detr")
        if args.resume and config.is_file():
            _require_no_recipe(args, config)
        else:
            _write_recipe(args, options.MODEL.DEVICE, output)
        if args.recipe_only:
            return
        chosen = [*args.opts, "OUTPUT_DIR", str(output)]
        run(argparse.Namespace(**{**vars(args), "config_file": str(config), "opts": chosen}))
        _evaluate(args, config)


def _write_recipe(args: argparse.Namespace, device: str, output: Path) -> None:
    configure_cpu(1)
    machine = this_machine(device)
    require_start(args.weights, machine)
    data = find_own_data(args.data, args.format)
    _check(data)
    summary = summarize(load_dataset(data.train), len(class_names_of(data.train) or ()))
    request = Request(args.weights, args.epochs, args.batch, args.num_gpus)
    recipe = choose_recipe(summary, machine, request, args.opts)
    cfg = recipe.cfg
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = data.entries, (data.train,), (data.val,)
    cfg.merge_from_list([*args.opts, "OUTPUT_DIR", str(output)])
    require_inputs_elsewhere(cfg)
    notes = f"Recipe for {args.data}. {recipe.describe()}"
    write_config(cfg, notes)
    logger.info("%s\nIt is written to %s; KEY VALUE at the end of the command changes it.", notes, output / CONFIG_FILE)


def _check(data: OwnData) -> None:
    names = data.names
    sound = [check(name, open_images=True) for name in names]
    log_same_images([name for name, is_sound in zip(names, sound, strict=True) if is_sound])
    sound += [compare(names[0], name) for name in names[1:]]
    if not all(sound):
        raise ValueError("The data cannot be trained on as they are: the lines above say what to correct.")


def _require_no_recipe(args: argparse.Namespace, config: Path) -> None:
    if given := [name for name in _RECIPE if getattr(args, name)]:
        raise ValueError(
            f"--resume continues with the recipe in {config}: leave out --{given[0].replace('_', '-')}, or set entries "
            "with KEY VALUE."
        )
    root = str(Path(args.data).expanduser().resolve())
    if root not in str(load_config(str(config)).DATASETS.REGISTER):
        raise ValueError(f"--resume continues with the data in {config}, which are not those of --data {args.data}.")


def _evaluate(args: argparse.Namespace, config: Path) -> None:
    """Evaluates the best weights, on the test set where there is one besides that for validation."""
    cfg = load_config(str(config))
    register_from_config(cfg)
    best = config.with_name(BEST_CHECKPOINT)
    weights = best if best.is_file() else config.with_name("model_final.pth")
    names = {entry["NAME"] for entry in cfg.DATASETS.REGISTER}
    # Each set for validation gives way to the test set that belongs to it.
    tests = [test if (test := name.removesuffix("_val") + "_test") in names else name for name in cfg.DATASETS.TEST]
    if not tests:
        return
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
