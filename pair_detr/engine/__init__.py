"""Training and evaluation."""

from pair_detr import data  # noqa: F401  (fails with what to install, where Detectron2 is missing)
from pair_detr.engine.hooks import TrainingInterrupted
from pair_detr.engine.launch import argument_parser, main, run, setup
from pair_detr.engine.solver import build_lr_scheduler, build_optimizer, resolve_epochs
from pair_detr.engine.train_loop import AutocastTrainer
from pair_detr.engine.trainer import Trainer
from pair_detr.engine.user_errors import run_program
from pair_detr.evaluation.build import build_evaluator

__all__ = [
    "AutocastTrainer",
    "Trainer",
    "TrainingInterrupted",
    "argument_parser",
    "build_evaluator",
    "build_lr_scheduler",
    "build_optimizer",
    "main",
    "resolve_epochs",
    "run",
    "run_program",
    "setup",
]
