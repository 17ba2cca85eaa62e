"""From the command line to a training or an evaluation, in one process or several."""

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from pair_detr.checkpoint.checkpointer import AtomicCheckpointer, find_checkpoint
from pair_detr.checkpoint.search import find_candidates
from pair_detr.checkpoint.weights import load_weights, pin_weights, read_weights, require_weights
from pair_detr.config.validation import check_config, check_values
from pair_detr.config_files import find_config, load_config
from pair_detr.data import datasets_in_label_space, register_from_config, resolve_num_classes
from pair_detr.engine.console import hold_console, release_console
from pair_detr.engine.external_launch import (
    Place,
    continues_after_restart,
    find_place,
    joined,
    note_job,
    require_no_launch_arguments,
)
from pair_detr.engine.hooks import TrainingInterrupted, forward_signals
from pair_detr.engine.output_folder import (
    archive_previous_run,
    read_notes,
    require_inputs_elsewhere,
    require_own_config,
    set_aside_config,
    write_config,
)
from pair_detr.engine.resume import require_resumable
from pair_detr.engine.run_lock import claim_folder, release_folder
from pair_detr.engine.trainer import Trainer
from pair_detr.engine.user_errors import (
    USER_ERRORS,
    WorkerError,
    add_traceback_argument,
    describe_error,
    short_training_errors,
)
from pair_detr.evaluation.build import require_test_set
from pair_detr.evaluation.results_file import RESULTS_FILE, write_results
from pair_detr.open_vocabulary import base_classes, check_vocabulary, load_vocabulary
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.messages import held_records, replay
from pair_detr.utils.text_files import read_text

logger = logging.getLogger(__name__)

# Name of the note of a signal that stopped the training.
_STOPPED = "stopped"
# Of Detectron2's arguments.
_HELP = {
    "config_file": "a config: a file, or one of this package by its name, such as r50",
    "resume": "continue the training in the output folder from its last checkpoint",
    "eval_only": "evaluate MODEL.WEIGHTS, without training",
    "num_gpus": "processes on this machine, one for each GPU; without a GPU, all on the CPU",
    "num_machines": "machines that train together",
    "machine_rank": "number of this machine, from 0",
    "dist_url": "address at which the processes meet, the same on all machines",
    "opts": "config entries to change, KEY VALUE in turn, at the end of the command",
}


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and ``--traceback``. Processes of one machine find a free port to meet by themselves."""
    parser = default_argument_parser()
    # Detectron2 words them for its own programs; argparse has no other way to change them.
    for action in parser._actions:
        action.help = _HELP.get(action.dest, action.help)
    add_traceback_argument(parser)
    parser.set_defaults(dist_url="auto")
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Reads the config, registers its datasets and sets up the process: loggers, threads and random numbers.

    Other runs are kept out of OUTPUT_DIR until the process ends; see :func:`pair_detr.engine.run_lock.claim_folder`.

    Returns:
        Frozen config; that of a training is also written to ``<OUTPUT_DIR>/config.yaml``.

    Raises:
        ValueError: an argument or a value of the config makes no sense; further as :func:`load_config` and the readers
            of the datasets' files.
    """
    require_flags_first(args.opts)
    configure_cpu(args.num_gpus)
    args.config_file = find_config(args.config_file)
    with held_records("pair_detr") as records:
        cfg = load_config(args.config_file, args.opts)
    check_values(cfg)
    with ExitStack() as on_error:
        claim_folder(cfg.OUTPUT_DIR)
        on_error.callback(release_folder, cfg.OUTPUT_DIR)
        on_error.callback(release_console)
        _set_up(cfg, args, records)
        on_error.pop_all()
    return cfg


def require_flags_first(options: Sequence[str]) -> None:
    """Raises a ValueError if there are flags among the config options, which would be taken for keys."""
    if flags := [option for option in options if option.startswith("--")]:
        raise ValueError(f"{' '.join(flags)}: flags have to stand before the config options (KEY VALUE ...).")


def _set_up(cfg: CfgNode, args: argparse.Namespace, records: list[logging.LogRecord]) -> None:
    # Before anything is written.
    require_own_config(cfg.OUTPUT_DIR)
    is_restart = not args.eval_only and continues_after_restart(cfg.OUTPUT_DIR)
    args.resume = args.resume or is_restart
    resumes = args.resume and any(find_candidates(cfg.OUTPUT_DIR, to_train=not args.eval_only))
    if not args.eval_only and not resumes:
        require_inputs_elsewhere(cfg)
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="pair_detr")
    # As default_setup does, which finds them set up: its first lines are on the console already.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    hold_console()
    replay(records)
    if is_restart:
        logger.warning("The job was restarted: resuming its training.")
    if not resumes:
        # config.yaml, too, is to name the commit that a branch is at today.
        cfg.MODEL.WEIGHTS = pin_weights(cfg.MODEL.WEIGHTS)
        cfg.MODEL.TIMM.WEIGHTS = pin_weights(cfg.MODEL.TIMM.WEIGHTS)
    register_from_config(cfg)
    # Also in config.yaml, so that the model can be built from it without the training data.
    vocabulary = load_vocabulary(cfg)
    if vocabulary is None:
        cfg.MODEL.DETR.NUM_CLASSES = resolve_num_classes(cfg)
    else:
        cfg.MODEL.DETR.NUM_CLASSES = len(vocabulary)
        if cfg.MODEL.CLIP.REGION.ENABLED:
            cfg.MODEL.CLIP.REGION.BASE_CLASSES = base_classes(cfg, vocabulary)
        check_vocabulary(vocabulary, () if args.eval_only else datasets_in_label_space(cfg), cfg.DATASETS.TEST)
    cfg.freeze()
    if args.eval_only:
        _set_up_evaluation(cfg, args)
    else:
        notes = read_notes(args.config_file, cfg.OUTPUT_DIR)
        if comm.is_main_process() and not (resumes or notes):
            set_aside_config(cfg.OUTPUT_DIR)
        # It would log the file's content, but reads it in the encoding of the locale.
        default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": ""}))
        if comm.is_main_process():
            write_config(cfg, notes)
    if args.config_file:
        logger.info("Contents of %s:\n%s", args.config_file, read_text(args.config_file))


def _set_up_evaluation(cfg: CfgNode, args: argparse.Namespace) -> None:
    """What Detectron2's ``default_setup`` does, but for writing the config: that in the folder is of the training."""
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    logger.info("Running with full config:\n%s", cfg.dump())
    seed_all_rng(cfg.SEED + comm.get_rank() if cfg.SEED >= 0 else None)


def configure_cpu(processes: int) -> None:
    """Makes the CPU compute at its full speed; call it before the first computation of the process.

    The processes of this machine share its cores, unless OMP_NUM_THREADS says how many each may use.
    """
    # Training from scratch runs into denormal numbers, which are many times slower.
    torch.set_flush_denormal(True)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // max(1, processes)))


def main(args: argparse.Namespace) -> dict:
    """Trains, or evaluates with ``--eval-only``, in this process.

    Returns:
        Results of the evaluation by task and metric, in percent.

    Raises:
        TrainingInterrupted: a signal stopped the training, in all processes; a checkpoint has been written.
    """
    cfg = setup(args)
    try:
        return _train_or_evaluate(cfg, args)
    finally:
        release_console()
        release_folder(cfg.OUTPUT_DIR)


def _train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict:
    if args.eval_only and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty, so --eval-only has nothing to evaluate on: name a dataset.")
    resuming = args.resume and require_resumable(cfg, training=not args.eval_only) is not None
    if not resuming:
        require_weights(cfg)
    if args.eval_only:
        check_config(cfg)
        for name in cfg.DATASETS.TEST:
            require_test_set(cfg, name)
        return _evaluate(cfg, args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if not resuming:
        # Not before all is known to fit: whoever mistypes a key wants to resume after all.
        if comm.is_main_process():
            archive_previous_run(Path(cfg.OUTPUT_DIR))
            note_job(cfg.OUTPUT_DIR)
        comm.synchronize()
    return trainer.train()


def _evaluate(cfg: CfgNode, resume: bool) -> dict:
    model = Trainer.build_model(cfg)
    if resume:
        AtomicCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=True)
    elif cfg.MODEL.WEIGHTS:
        load_weights(model, read_weights(cfg.MODEL.WEIGHTS, cfg.MODEL.DETR.NUM_CLASSES), complete=True)
    else:
        logger.warning("Evaluating random weights: set MODEL.WEIGHTS, or add --resume for the last checkpoint.")
    release_console()
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        weights = str(saved.path) if resume and (saved := find_checkpoint(cfg.OUTPUT_DIR)) else cfg.MODEL.WEIGHTS
        file, names = Path(cfg.OUTPUT_DIR, RESULTS_FILE), getattr(model, "class_names", None)
        write_results(results, file, datasets=cfg.DATASETS.TEST, weights=weights, class_names=names)
        logger.info("The results are in %s, with the AP of each class.", file)
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> dict:
    """Runs :func:`main` in ``args.num_gpus`` processes: one per GPU or, on a machine without, all on the CPU.

    A process that torchrun or srun has started starts no others: it is one of theirs.

    Returns:
        Results of :func:`main`; empty with several processes.

    Raises:
        ValueError: there are fewer GPUs, or an argument makes no sense.
        SystemExit: a signal stopped it.
        WorkerError: with several processes, one of them raised an error of :data:`USER_ERRORS`.
        ProcessRaisedException: with several processes, one of them raised any other.
    """
    if place := find_place(os.environ):
        require_no_launch_arguments(args, place)
        return _run_at(place, args)
    _check_processes(args)
    if args.num_gpus > 1 and 0 < torch.cuda.device_count() < args.num_gpus:
        raise ValueError(f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}.")
    if args.num_gpus * args.num_machines == 1:
        return main(args)
    with tempfile.TemporaryDirectory() as notes, forward_signals() as received:
        try:
            launch(
                _main_of_worker,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args, notes),
            )
        except (ProcessRaisedException, ProcessExitedException) as error:
            # The process that ended first may have failed because it lost the one with the user's error.
            if found := sorted(Path(notes).glob("[0-9]*")):
                raise WorkerError(found[0].read_text(encoding="utf-8"), error) from error
            number = max(0, -error.exit_code) if isinstance(error, ProcessExitedException) else 0
            if number and not received:
                name = signal.Signals(number).name
                hint = " The system does that when memory is short." if number == signal.SIGKILL else ""
                logger.error("Process %d was ended by %s, and so all of them.%s", error.error_index, name, hint)
            received += [number] if number else []
            if not received:
                raise
        if not received and (stopped := Path(notes, _STOPPED)).exists():
            # It reached one of the processes, which told the others.
            received.append(int(stopped.read_text(encoding="utf-8")))
    if received:
        sys.exit(128 + received[0])
    return {}


def _run_at(place: Place, args: argparse.Namespace) -> dict:
    args.num_gpus = place.sharing_cores
    if place.world_size == 1:
        return main(args)
    with joined(place):
        main(args)
    return {}


def _check_processes(args: argparse.Namespace) -> None:
    if args.num_gpus < 1:
        raise ValueError(
            f"--num-gpus is {args.num_gpus}; it must be 1 or more, the number of processes on this machine. To train "
            "without a GPU leave it out, and set MODEL.DEVICE cpu."
        )
    if args.num_machines < 1:
        raise ValueError(f"--num-machines is {args.num_machines}; it must be 1 or more.")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank is {args.machine_rank}; with --num-machines {args.num_machines} it must be a number from "
            f"0 to {args.num_machines - 1}, another one on each machine."
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError(
            f"--num-machines is {args.num_machines}, but --dist-url is auto, which finds processes of one machine: "
            "give it an address of the first machine, the same on all, such as tcp://10.0.0.1:29500."
        )


def _main_of_worker(args: argparse.Namespace, notes: str) -> None:
    """:func:`main`; leaves a note of a user's error, as the launcher passes on its traceback alone, and of a signal."""
    try:
        with short_training_errors():
            main(args)
    except TrainingInterrupted as error:
        # It ends as others do, as the launcher would kill those that have not ended yet.
        with atomic_write(Path(notes, _STOPPED)) as temporary:
            temporary.write_text(str(error.code - 128), encoding="utf-8")
    except USER_ERRORS as error:
        with atomic_write(Path(notes, f"{comm.get_rank():06d}")) as temporary:
            temporary.write_text(describe_error(error), encoding="utf-8")
        raise
