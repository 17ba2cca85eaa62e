"""Training and evaluation."""

from pair_detr.engine.amp import AutocastTrainer
from pair_detr.engine.checkpoint import AtomicCheckpointer, CheckpointError, require_weights
from pair_detr.engine.evaluation import build_evaluator
from pair_detr.engine.hooks import GracefulStop, TrainingInterrupted
from pair_detr.engine.launch import argument_parser, main, run, setup
from pair_detr.engine.optimizer import build_optimizer
from pair_detr.engine.schedule import resolve_epochs
from pair_detr.engine.trainer import Trainer

__all__ = [
    "AtomicCheckpointer",
    "AutocastTrainer",
    "CheckpointError",
    "GracefulStop",
    "Trainer",
    "TrainingInterrupted",
    "argument_parser",
    "build_evaluator",
    "build_optimizer",
    "main",
    "require_weights",
    "resolve_epochs",
    "run",
    "setup",
]
