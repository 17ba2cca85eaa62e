"""What a training says for people: one paragraph before its first iteration, and a summary at its end."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.logger import create_small_table
from torch import nn

from pair_detr.utils.console_script import console_script
from pair_detr.utils.messages import counted, join_some

BEST_CHECKPOINT = "model_best.pth"
# Of the results, by task: the one that says most about a model comes first.
_TITLES = {
    "panoptic_seg": "Panoptic quality",
    "segm": "AP of masks",
    "bbox": "AP of boxes",
}
_METRICS = ("PQ", "SQ", "RQ", "AP", "AP50", "AP75", "APs", "APm", "APl")
_SHOWN_CLASSES = 5


def describe_start(cfg: CfgNode, model: nn.Module, images: int, start_iter: int, processes: int) -> str:
    """Model, data, schedule, precision, device and output folder of a training.

    Args:
        cfg: its config, with a schedule in iterations.
        model: to be trained.
        images: of the training data.
        start_iter: the first iteration.
        processes: that train together.
    """
    sizes = [(x.numel(), x.requires_grad) for x in model.parameters()]
    total, trained = sum(x for x, _ in sizes), sum(x for x, is_trained in sizes if is_trained)
    epoch = images / cfg.SOLVER.IMS_PER_BATCH
    test = ", ".join(cfg.DATASETS.TEST)
    period = f"every {cfg.TEST.EVAL_PERIOD} iterations" if cfg.TEST.EVAL_PERIOD else "at the end"
    length = f"{counted(cfg.SOLVER.MAX_ITER, 'iteration')} ({cfg.SOLVER.MAX_ITER / epoch:.3g} epochs)"
    first = f" from iteration {start_iter}" if start_iter else ""
    return (
        f"Training {cfg.MODEL.DETR.VARIANT} with {_millions(total)} parameters ({_millions(trained)} trained) on "
        f"{', '.join(cfg.DATASETS.TRAIN)}: {counted(images, 'image')}, {_describe_classes(model)}. An epoch is "
        f"{epoch:.0f} iterations of {counted(cfg.SOLVER.IMS_PER_BATCH, 'image')}; {length}{first}, "
        + (f"evaluated on {test} {period}" if test else "without an evaluation, as DATASETS.TEST is empty")
        + f". Computed in {_precision(cfg)} on {_device(cfg, processes)}. The time left is eta in the lines below. "
        f"Results go to {cfg.OUTPUT_DIR}; config and model are in its log.txt."
    )


def describe_end(
    cfg: CfgNode, results: Mapping[str, Any], weights: str, best: tuple[int, str, float] | None, iterations: int
) -> str:
    """AP, where everything is, and what to run next.

    Args:
        cfg: config of the training.
        results: of its last evaluation, in percent; empty without one.
        weights: name of the file of its last weights in OUTPUT_DIR.
        best: number of iterations, metric and value of the best evaluation, whose weights are in
            :data:`BEST_CHECKPOINT`; None if there is no such file.
        iterations: that the training has taken.
    """
    output = Path(cfg.OUTPUT_DIR)
    lines = [f"The training has ended after {counted(iterations, 'iteration')}.", *_tables(results), ""]
    chosen = output / weights
    if best is not None:
        best_iteration, metric, value = best
        chosen = output / BEST_CHECKPOINT
        lines += [f"Best        {metric} {value:.1f} percent after {best_iteration} iterations: {chosen}"]
    lines += [
        f"Last        {output / weights}",
        f"Logs        {output / 'log.txt'}; curves: tensorboard --logdir {output}",
        "",
        "What to run next:",
    ]
    config = str(output / "config.yaml")
    model = ["MODEL.WEIGHTS", str(chosen)]
    program = console_script()
    evaluate = [program, "eval", "--config-file", config, *model]
    predict = [program, "predict", "--weights", str(chosen)]
    plot = [program, "plot", str(output)]
    if cfg.DATASETS.TEST:
        lines += [f"  evaluate again    {shlex.join(evaluate)}"]
    lines += [
        f"  detect            {shlex.join(predict)} --input IMAGES --output {shlex.quote(str(output / 'pictures'))}",
        f"  plot the losses   {shlex.join(plot)}",
    ]
    return "\n".join(lines)


def main_metric(results: Mapping[str, Any]) -> str | None:
    """The full name of the metric that models are compared by, such as "bbox/AP"; of several test sets, the first's.

    Args:
        results: of an evaluation, by task and metric, or by dataset first.
    """
    names = list(flatten_results_dict(results))
    tasks = [f"{task}/{metric}" for task, metric in (("panoptic_seg", "PQ"), ("segm", "AP"), ("bbox", "AP"))]
    return next((name for task in tasks for name in names if name == task or name.endswith(f"/{task}")), None)


def _tables(results: Mapping[str, Any]) -> list[str]:
    by_dataset = results if _is_by_dataset(results) else {"": results}
    tables = []
    for dataset, tasks in by_dataset.items():
        for task, title in _TITLES.items():
            if shown := {name: tasks[task][name] for name in _METRICS if name in tasks.get(task, {})}:
                place = f" on {dataset}" if dataset else ""
                tables += ["", f"{title}{place} (percent)\n{create_small_table(shown)}"]
    return tables


def _is_by_dataset(results: Mapping[str, Any]) -> bool:
    return any(isinstance(x, Mapping) for task in results.values() if isinstance(task, Mapping) for x in task.values())


def _describe_classes(model: nn.Module) -> str:
    names: Sequence[str] | None = getattr(model, "class_names", None)
    if names is None:
        count = getattr(model, "num_classes", None)
        return "its classes without names" if count is None else counted(count, "class", "classes")
    return f"{counted(len(names), 'class', 'classes')} ({join_some(names, _SHOWN_CLASSES)})"


def _precision(cfg: CfgNode) -> str:
    return cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "fp32"


def _device(cfg: CfgNode, processes: int) -> str:
    device = torch.device(cfg.MODEL.DEVICE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{name}, by {processes} processes" if processes > 1 else name


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M"
