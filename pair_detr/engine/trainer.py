"""The trainer: Detectron2's ``DefaultTrainer`` with this project's data, optimizer, checkpoints and evaluators."""

import logging
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pair_detr.checkpoint import required_config
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer, CheckpointError, final_iteration, find_checkpoint
from pair_detr.checkpoint.search import FINAL_CHECKPOINT
from pair_detr.config.validation import check_config
from pair_detr.data import build_test_loader, build_train_loader, check_input, images_per_process, load_training_dicts
from pair_detr.data.checks.limits import QUERIES_KEY, warn_beyond
from pair_detr.engine.checkpoint_hooks import (
    LastCheckpoints,
    StoppedEarly,
    build_best_model,
    warn_of_large_checkpoints,
)
from pair_detr.engine.compilation import compile_for_training
from pair_detr.engine.console import ON_CONSOLE, release_console
from pair_detr.engine.hooks import EpochCounter, GracefulStop
from pair_detr.engine.optimizer_state import (
    OtherOptimizerError,
    describe_rates,
    fit_state,
    follow_schedule,
    parameter_names,
)
from pair_detr.engine.pictures import DetectionPictures
from pair_detr.engine.resume import (
    ResumeError,
    differences,
    explain_refusal,
    log_differences,
    require_resumable,
    training_config,
)
from pair_detr.engine.solver import build_lr_scheduler, build_optimizer, resolve_epochs, warn_of_ignored_iterations
from pair_detr.engine.summary import describe_end, describe_start
from pair_detr.engine.trackers import build_trackers
from pair_detr.engine.train_loop import AutocastTrainer, MetricsFlush, autocast_precision
from pair_detr.engine.weight_average import WeightAverage
from pair_detr.engine.writers import build_writers
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.evaluation.results_file import RESULTS_FILE, write_results
from pair_detr.inference import prepare_for_inference
from pair_detr.modeling.batching import lacks_loss
from pair_detr.modeling.divergence import DIVERGED
from pair_detr.utils.disk_space import explain_full_disk
from pair_detr.utils.finiteness import describe_non_finite

logger = logging.getLogger(__name__)

# DefaultTrainer's period of its writers.
_WRITE_PERIOD = 20


class Trainer(DefaultTrainer):
    """Trains ``cfg.MODEL`` on ``cfg.DATASETS.TRAIN``.

    A resumed run gets the batches, learning rates and random numbers that the uninterrupted run would have got, so with
    ``SEED`` set (and the same number of processes) its losses are the same.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: config with its datasets registered. The data are read and checked before the model is built.

        Raises:
            ValueError: a config entry or the data do not fit; the message names it.
        """
        super(DefaultTrainer, self).__init__()
        check_config(cfg)
        warn_of_ignored_iterations(cfg)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        images_per_process(cfg)
        check_input(cfg)
        self._dataset_dicts = load_training_dicts(cfg)
        unmatched = "the objects that fit best are matched"
        warn_beyond("DATASETS.TRAIN", self._dataset_dicts, QUERIES_KEY, cfg.MODEL.DETR.NUM_QUERIES, unmatched)
        for name in cfg.DATASETS.TEST:
            # Else it would be noticed after hours of training.
            require_test_set(cfg, name, is_trained_on=name in cfg.DATASETS.TRAIN)
        cfg = resolve_epochs(cfg, len(self._dataset_dicts))

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        if cfg.SOLVER.COMPILE:
            compile_for_training(cfg, model)
        self._trainer = AutocastTrainer(
            _distribute(model),
            # Which batch is the first is known when training starts: see train().
            data_loader=None,
            optimizer=optimizer,
            precision=autocast_precision(cfg),
            seed=cfg.SEED if cfg.SEED >= 0 else None,
            accumulate_steps=cfg.SOLVER.ACCUMULATE_STEPS,
            lacks_loss=lacks_loss,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.weight_average = WeightAverage(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        self._training = training_config(cfg) | {"number of training images": len(self._dataset_dicts)}
        self.checkpointer = AtomicCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            required_config=required_config(cfg),
            training=self._training,
            average=self.weight_average,
            config_text=cfg.dump(),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self._lacks_final_checkpoint = False
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._last_eval_results: dict = {}
        self._epoch_length = len(self._dataset_dicts) / cfg.SOLVER.IMS_PER_BATCH
        self._best_model = build_best_model(cfg, self.checkpointer, lambda: self._last_eval_results)
        self.register_hooks(self.build_hooks())

    def train(self) -> dict:
        """Runs the training to its end; if it is there already, writes the final checkpoint where it is missing.

        Returns:
            Results of the last evaluation, by task and metric (in percent); empty without a test set, and in other
            processes than the first.

        Raises:
            TrainingInterrupted: a signal stopped it; a checkpoint has been written.
        """
        if self.start_iter < self.max_iter:
            self._trainer.reset_data_loader(
                lambda: build_train_loader(self.cfg, dataset_dicts=self._dataset_dicts, start_iter=self.start_iter)
            )
            if comm.is_main_process():
                self._announce()
            # The loader has a copy of its own, which is smaller.
            self._dataset_dicts = []
        elif self._lacks_final_checkpoint:
            self.checkpointer.save(Path(FINAL_CHECKPOINT).stem, iteration=self.iter)
        release_console()
        if self._best_model is not None:
            self._best_model.resume(self.start_iter)
            if self._best_model.is_exhausted() and self.start_iter < self.max_iter:
                logger.warning(
                    "%s was stopped early, and is not continued: raise TEST.PATIENCE, or set it to 0.",
                    self.cfg.OUTPUT_DIR,
                )
                return {}
        try:
            super().train()
        except StoppedEarly:
            logger.warning(
                "Stopped early: the last %d evaluations (TEST.PATIENCE) brought nothing better.", self.cfg.TEST.PATIENCE
            )
        finally:
            # A hook that fails after the training, as on a full disk, keeps those behind it from their turn.
            for hook in self._hooks:
                if isinstance(hook, GracefulStop):
                    hook.after_train()
        if comm.is_main_process():
            self._summarize()
        return self._last_eval_results

    def _announce(self) -> None:
        model, is_averaged = self.checkpointer.model, self.weight_average is not None
        warn_of_large_checkpoints(self.cfg, model, self.optimizer, self.start_iter, is_averaged)
        images, processes = len(self._dataset_dicts), comm.get_world_size()
        logger.info("%s", describe_start(self.cfg, model, images, self.start_iter, processes), extra=ON_CONSOLE)

    def _summarize(self) -> None:
        results, best = self._last_eval_results, self._best_model and self._best_model.best
        iterations = min(self.iter + 1, self.max_iter)
        if results:
            output, names = Path(self.cfg.OUTPUT_DIR), getattr(self.checkpointer.model, "class_names", None)
            test_sets, weights = self.cfg.DATASETS.TEST, str(output / FINAL_CHECKPOINT)
            write_results(results, output / RESULTS_FILE, datasets=test_sets, weights=weights, class_names=names)
        logger.info("%s", describe_end(self.cfg, results, FINAL_CHECKPOINT, best, iterations), extra=ON_CONSOLE)

    def resume_or_load(self, resume: bool = True) -> None:
        """Resumes from ``OUTPUT_DIR``, or loads ``MODEL.WEIGHTS``.

        What the config says about rates, schedule, losses and data counts from the resumed iteration on, and is logged
        where it differs from the training so far.

        Raises:
            ResumeError: the training cannot go on with the config, see :mod:`pair_detr.engine.resume`.
            CheckpointError: processes start from different iterations, as machines without a common ``OUTPUT_DIR`` do;
                further as :meth:`AtomicCheckpointer.resume_or_load`.
        """
        saved = require_resumable(self.cfg) if resume else None
        super().resume_or_load(resume)
        starts = comm.all_gather(self.start_iter)
        if len(set(starts)) > 1:
            raise CheckpointError(
                f"The processes would start from iterations {sorted(set(starts))}: {self.cfg.OUTPUT_DIR} is not the "
                "same folder on all machines. Set OUTPUT_DIR to a shared one, or copy the checkpoints."
            )
        if saved is not None:
            log_differences(saved, differences(saved, self._training), self.start_iter)
            if self.start_iter >= self.max_iter:
                # It was killed before it wrote that file, or the schedule has become shorter.
                self._lacks_final_checkpoint = final_iteration(self.cfg.OUTPUT_DIR) != self.start_iter - 1
                logger.warning(
                    "Nothing is left to train: %s is of iteration %d, and SOLVER.MAX_ITER is %d. Raise it, or "
                    "SOLVER.EPOCHS.MAX, to train on.%s",
                    saved.path,
                    self.start_iter,
                    self.max_iter,
                    f" It is also written as {FINAL_CHECKPOINT}." if self._lacks_final_checkpoint else "",
                )

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with the names of the optimizer's parameters."""
        return {**super().state_dict(), "parameters": parameter_names(self.optimizer, self.checkpointer.model)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what the training has learned; rates and their schedule are those of the config.

        Raises:
            ResumeError: the optimizer is another one, or for other parameters.
        """
        names = parameter_names(self.optimizer, self.checkpointer.model)
        inner = state_dict["_trainer"]
        try:
            fitted = fit_state(self.optimizer, names, inner["optimizer"], state_dict.get("parameters"))
        except OtherOptimizerError as error:
            path = find_checkpoint(self.cfg.OUTPUT_DIR).path
            raise ResumeError(explain_refusal(str(path), str(error), is_warm_start=True)) from error
        if "parameters" not in state_dict and (rates := describe_rates(self.optimizer, inner["optimizer"])):
            # An older checkpoint, of whose config nothing is known.
            logger.warning("Resuming with other rates than those of the training so far:\n%s", "\n".join(rates))
        super().load_state_dict({**state_dict, "_trainer": {**inner, "optimizer": fitted}})
        if self.iter + 1 < self.max_iter:
            follow_schedule(self.scheduler, self.optimizer)

    def flush_metrics(self) -> None:
        """See :meth:`AutocastTrainer.flush_metrics`."""
        self._trainer.flush_metrics()

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks, between those that feed them losses and that keep the best and stop the training."""
        flush = MetricsFlush(_WRITE_PERIOD, self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.TEST.EVAL_PERIOD)
        epochs = EpochCounter(self._epoch_length)
        average = [] if self.weight_average is None else [self.weight_average]
        best = [] if self._best_model is None else [self._best_model]
        usual = list(map(self._replace_hook, super().build_hooks()))
        if comm.is_main_process() and self.cfg.TEST.PICTURES and self.cfg.DATASETS.TEST:
            model = self.checkpointer.model if self.weight_average is None else self.weight_average.model
            usual.insert(-1, DetectionPictures(self.cfg, model))
        return [flush, epochs, *average, *usual, *best, GracefulStop()]

    def _replace_hook(self, hook: HookBase) -> HookBase:
        """Detectron2's hook, but for the one that saves, and the one that evaluates if that takes the average."""
        if isinstance(hook, PeriodicCheckpointer):
            solver = self.cfg.SOLVER
            return LastCheckpoints(self.checkpointer, solver.CHECKPOINT_PERIOD, solver.KEEP_CHECKPOINTS)
        if self.weight_average is None or not isinstance(hook, EvalHook):
            return hook

        def evaluate() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.weight_average.model)
            return self._last_eval_results

        return EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate)

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers, which name their files when the disk is full, and those of TRACKERS."""
        files = build_writers(self.cfg.OUTPUT_DIR, self.max_iter, self.max_iter / self._epoch_length)
        return [*files, *build_trackers(self.cfg)]

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """Evaluates on ``cfg.DATASETS.TEST``; all processes have to call it together.

        With TEST.PRECISION fp32 the model itself is evaluated, else one that is prepared for inference from it.

        Returns:
            Results by task and metric, or by dataset first if there are several.

        Raises:
            FloatingPointError: the model holds NaN or infinity.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            # The wrapper would copy them at each forward, and wait for a process that has no image.
            for buffer in model.module.buffers():
                dist.broadcast(buffer, src=0)
            model = model.module
        if fault := describe_non_finite(model.state_dict()):
            raise FloatingPointError(f"The model cannot be evaluated: {fault}. {DIVERGED}")
        if cfg.TEST.PRECISION != "fp32":
            model = prepare_for_inference(model, cfg.TEST.PRECISION)
        # Test images have any size, and are not what SOLVER.COMPILE is for.
        eagerly = torch.compiler.set_stance("force_eager")
        with eagerly, explain_full_disk(Path(cfg.OUTPUT_DIR, "inference")):
            return super().test(cfg, model, evaluators)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)


def _distribute(model: nn.Module) -> nn.Module:
    """Wraps the model for several processes, on a GPU each or all on the CPU."""
    if comm.get_world_size() == 1:
        return model
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu and dist.get_backend() == "nccl":
        raise ValueError(
            "Several processes with MODEL.DEVICE cpu on a machine with GPUs: hide these from Detectron2, with "
            "CUDA_VISIBLE_DEVICES= in the environment."
        )
    # Each process normalizes its own images. The statistics to evaluate with have to be the same, however: the first
    # process's, which are in the checkpoint. SyncBN's are, and FrozenBN has no other buffers that change.
    has_statistics = any(isinstance(module, _BatchNorm) for module in model.modules())
    return create_ddp_model(
        model, broadcast_buffers=has_statistics, device_ids=None if on_cpu else [comm.get_local_rank()]
    )
