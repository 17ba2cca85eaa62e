"""Runs the Python commands of the documents in small, without loading PyTorch for each; see test_documentation.py.

``python document_server.py SOCKET`` answers requests, a line of JSON with "folder", "arguments" and "log", with an exit
status. Each runs in a process of its own, forked from this one; what it prints is appended to the file "log".
"""

import importlib
import json
import os
import runpy
import socket
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2_helpers import speed_up_configs

import pair_detr.engine
from pair_detr.config_files import config_file, load_config
from pair_detr.engine import argument_parser, run
from pair_detr.studies import ablation, convergence, image_labels, text_queries
from pair_detr.studies.convergence_runs import PlannedRun
from pair_detr_cli.commands import COMMANDS

# Appended to the options of every training and evaluation: a step on images of 64 pixels, and few detections, as COCO's
# metrics take most of the time.
SHORT = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.EPOCHS.MAX", "0", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "4"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "96", "INPUT.MIN_SIZE_TEST", "64"),
    *("INPUT.MAX_SIZE_TEST", "96", "TEST.IMS_PER_BATCH", "8", "TEST.EVAL_PERIOD", "0"),
    *("TEST.PICTURES", "1", "TEST.DETECTIONS_PER_IMAGE", "5"),
]
NARROW = ["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.FFN_DIM", "32", "MODEL.DETR.ENC_LAYERS", "1"]
NARROW += ["MODEL.DETR.DEC_LAYERS", "2", "MODEL.DETR.NUM_QUERIES", "20"]
NARROW += ["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"]
NARROW += ["MODEL.RESNETS.WIDTH_PER_GROUP", "4"]
# Of the quick start's network, in its trainings and its export.
SHALLOW = ["MODEL.DETR.DEC_LAYERS", "2"]
ONE_RUN = ["--seeds", "1", "--jobs", "1"]
# Appended to the arguments of tools.
BRIEF = {
    # Else it serves until Ctrl-C.
    "app": ["--check"],
    "benchmark": ["--backends", "torch", "--sizes", "64x64", "--batches", "1", "--repeats", "1", "--opts", *NARROW],
    "ablation": ["--methods", "Muon", *ONE_RUN],
    "compositions": ["--seeds", "2"],
    "export": ["--opts", *SHALLOW],
    "convergence": ["--data", "shapes", "--variants", "detr", "pair_detr", "--schedules", "third", "--seeds", "1"],
    "digits": ["--train", "12", "--val", "4"],
    "make_open_shapes": ["--train", "40", "--photos", "8", "--val", "10"],
    "make_shapes": ["--train", "60", "--val", "10"],
    "image_labels": [*("--holdout", "shape", "--texts", "unrelated", "--choices", "objectness"), *ONE_RUN],
    "matching": ["--images", "2"],
    "positions": ["--seeds", "1"],
    "pretrain_shapes": ["--crops", "64", "--epochs", "1"],
    "probe_sizes": ["--seeds", "1", "--sizes", "37"],
    "text_masks": ["--seeds", "1", "--objects", "4"],
    "text_queries": [*("--queries", "none", "content", "--texts", "unrelated"), *ONE_RUN],
    "vocabulary_size": [*("--config-file", "quickstart", "--size", "64x64", "--images", "1", "--repeats", "1")],
}
# What most commands import when they need it, together for a second or two.
PRELOADED = ("pycocotools.cocoeval", "pygments.formatters.terminal256", "pygments.lexers.data", "timm")
PRELOADED += ("torch.utils.cpp_extension", "torch.utils.tensorboard")


def train(args: Namespace) -> None:
    """Trains or evaluates in one process, for as short as it can be."""
    args.num_gpus, args.num_machines, args.machine_rank = min(args.num_gpus, 1), 1, 0
    cfg = load_config(args.config_file, args.opts)
    args.opts += SHORT
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        args.opts += NARROW
    if "timm" in cfg.MODEL.BACKBONE.NAME and not cfg.MODEL.TIMM.WEIGHTS:
        # Of the same strides.
        args.opts += ["MODEL.TIMM.NAME", "test_resnet"]
    if "convnet" in cfg.MODEL.BACKBONE.NAME:
        args.opts += SHALLOW
    if "://" in cfg.MODEL.WEIGHTS:
        args.opts += ["MODEL.WEIGHTS", ""]
    run(args)


def train_all(runs: Sequence[PlannedRun], output: Path, jobs: int) -> None:
    """In the place of that of the studies, whose processes would train in full."""
    for planned in runs:
        options = [*planned.options, "OUTPUT_DIR", str(output / planned.folder)]
        train(argument_parser().parse_args(["--config-file", str(config_file(planned.config)), *options]))


def execute(arguments: Sequence[str]) -> object:
    """Does what the interpreter would, with these arguments; returns the exit status, in the forms of ``sys.exit``."""
    program, *rest = arguments
    if program == "-m":
        tool, *rest = rest
        for study in (ablation, convergence, image_labels, text_queries):
            study.train_all = train_all
        return importlib.import_module(tool).main([*rest, *BRIEF.get(tool.rpartition(".")[2], [])])
    if program == "pair-detr":
        command, *rest = ["zoo.pth" if argument.startswith("zoo://") else argument for argument in rest]
        if "--data" in rest and "--weights" not in rest:
            # Which would be downloaded.
            rest = ["--weights", "none", *rest]
        module = importlib.import_module(COMMANDS[command].module)
        if command in ("train", "eval"):
            module.run = train
        return module.main([*rest, *BRIEF.get(module.__name__.rpartition(".")[2], [])])
    if program == "torchrun":
        return train(argument_parser().parse_args(rest[rest.index("train_net.py") + 1 :]))
    if program == "-c":
        return exec(rest[0], {})
    if program == "train_net.py":
        return train(argument_parser().parse_args(rest))
    sys.argv = list(arguments)
    # Scripts in the documents end with it, as train_net.py does.
    pair_detr.engine.run = train
    return runpy.run_path(program, run_name="__main__") and None


def answer(connection: socket.socket) -> None:
    """Runs the request of a connection, in a process that has nothing else to do."""
    status: object = 1
    try:
        request = json.loads(connection.makefile().readline())
        output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(request["folder"])
        status = execute(request["arguments"])
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
        status = 1
    sys.stdout.flush()
    connection.sendall(f"{int(status or 0)}\n".encode())
    os._exit(0)


def main(address: str) -> None:
    """Serves until it is stopped."""
    torch.set_num_threads(1)
    speed_up_configs()
    for module in PRELOADED:
        importlib.import_module(module)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection:
                child = os.fork()
                if child == 0:
                    answer(connection)
                os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
