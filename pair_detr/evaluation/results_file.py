"""Results of an evaluation in a file, for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pair_detr.utils.json_files import finite_or_null
from pair_detr.utils.outputs import write_marked_json

RESULTS_FILE = "results.json"
_OF_CLASS = "AP-"


def write_results(
    results: Mapping[str, Any],
    file: str | Path,
    *,
    datasets: Sequence[str],
    weights: str,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes metrics in percent as JSON: ``results[dataset][task][metric]``, with ``AP_by_class[class]`` of a task.

    What is NaN, such as the AP of a class without objects, is null.

    Args:
        results: of Detectron2, by task and metric, or by dataset first if there are several.
        file: whole or as it was at any time.
        datasets: that were evaluated on.
        weights: that were evaluated.
        class_names: of the model, if known; of a single class Detectron2 gives no AP of its own.
    """
    by_dataset = results if len(datasets) > 1 else {datasets[0]: results}
    content = {
        dataset: {task: _by_class(metrics, class_names) for task, metrics in tasks.items()}
        for dataset, tasks in by_dataset.items()
    }
    info = {"unit": "percent", "weights": weights}
    write_marked_json({"info": info, "results": finite_or_null(content)}, file)


def _by_class(metrics: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, Any]:
    of_classes = {name.removeprefix(_OF_CLASS): x for name, x in metrics.items() if name.startswith(_OF_CLASS)}
    if not of_classes and class_names is not None and len(class_names) == 1 and "AP" in metrics:
        of_classes = {class_names[0]: metrics["AP"]}
    total = {name: x for name, x in metrics.items() if not name.startswith(_OF_CLASS)}
    return {**total, "AP_by_class": of_classes} if of_classes else total
