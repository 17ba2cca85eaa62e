"""Does CLIP know positions? Text rows against the boxes of classes: ``python -m pair_detr.studies.positions``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pair_detr.studies.class_objects import ClassObjects, load_objects
from pair_detr.studies.text_probes import (
    METHODS,
    REAL,
    ProbeScore,
    add_probe_arguments,
    check_probe_arguments,
    load_rows,
    noise_of_mean,
    predict_left_out,
    require_classes,
    require_sklearn,
    score_probe,
)
from pair_detr.tools.common import describe_machine, markdown, output_file, parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import require_outputs, writing

logger = tool_logger("study_positions")

# Of a box, relative to its image; the last one is of a class.
PROPERTIES = ("log area", "log aspect", "center x", "center y")
COUNT = "log boxes per image"


@dataclass(frozen=True)
class ClassProperties:
    """What is to be predicted of C classes.

    Attributes:
        values: (C, T) the mean of each property over the boxes of a class; the last one is :data:`COUNT`.
        ceilings: (T,) the R^2 that knowing the class's true mean would reach, as the boxes are a sample; NaN for
            :data:`COUNT`.
    """

    values: np.ndarray
    ceilings: np.ndarray


def measure(objects: ClassObjects) -> ClassProperties:
    """Means over the boxes of each class, and the R^2 that their noise leaves room for."""
    widths, heights = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T
    centers = (objects.boxes[:, 2:] + objects.boxes[:, :2]) / 2 / objects.sizes
    areas = np.log(widths * heights / objects.sizes.prod(1))
    per_box = np.column_stack([areas, np.log(widths / heights), centers])
    means, noise, counts = [], [], []
    for number in range(len(objects.names)):
        is_own = objects.classes == number
        own, images = per_box[is_own], objects.images[is_own]
        means.append(own.mean(0))
        noise.append(noise_of_mean(own, images))
        counts.append(np.log(len(own) / len(np.unique(images))))
    values = np.column_stack([means, counts])
    variance = np.var(means, axis=0)
    ceilings = 1 - np.mean(noise, axis=0) / np.where(variance > 0, variance, np.nan)
    return ClassProperties(values, np.append(ceilings, np.nan))


def _table(scores: Mapping[str, Mapping[str, ProbeScore]], ceilings: Sequence[float]) -> str:
    rows = [
        [
            name if method == REAL else "",
            method,
            score.r_squared,
            score.spearman,
            score.gain,
            "-" if method == REAL else f"{score.beaten:.0%}",
            "-" if method != REAL or np.isnan(ceiling) else f"{ceiling:.2f}",
        ]
        for (name, by_method), ceiling in zip(scores.items(), ceilings, strict=True)
        for method, score in by_method.items()
    ]
    headers = ["mean of", "predicted from", "R^2 (95%)", "Spearman (95%)", "R^2 of text rows above it (95%)"]
    return markdown(rows, [*headers, "seeds in which text rows are better", "noise ceiling"])


def _draw(
    scores: Mapping[str, Mapping[str, ProbeScore]], values: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> Figure:
    figure = Figure(figsize=(12, 6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    _draw_bars(top.subplots(), scores)
    axes = bottom.subplots(1, len(scores))
    for axis, name, own, guessed in zip(axes, scores, values.T, predicted[REAL].mean(0).T, strict=True):
        axis.scatter(own, guessed, s=12, color="C0")
        axis.axline((own.mean(), own.mean()), slope=1, color="gray", linewidth=1)
        axis.set(xlabel="of the boxes", title=name)
    axes[0].set_ylabel("from the text row, mean over seeds")
    return figure


def _draw_bars(axis: Axes, scores: Mapping[str, Mapping[str, ProbeScore]]) -> None:
    positions = np.arange(len(scores))
    for number, method in enumerate(METHODS):
        bars = [by_method[method].r_squared for by_method in scores.values()]
        errors = np.array([bar.errors for bar in bars]).T
        offsets = positions + (number - 1.5) * 0.2
        heights = [bar.value for bar in bars]
        axis.bar(offsets, heights, 0.2, yerr=errors, label=method, color=f"C{number}", error_kw={"linewidth": 1})
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(positions, list(scores))
    axis.set(title="R^2 on classes left out, 95% interval")
    axis.legend(fontsize=8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        ImportError: scikit-learn is not installed.
        KeyError, OSError, ValueError: the data or the text weights cannot be used.
    """
    parser = tool_parser(
        "Predicts the mean area, aspect and center of the boxes of a class, and how many an image has, from the "
        "class's text row by ridge regression on other classes; against shuffled rows, random rows and the mean. "
        "Writes a figure and prints a table. docs/studies/positions.md was made with it.",
        "positions --data coco_2017_train coco_2017_val --text-weights coco_clip_a+cname.npy --vocabulary coco",
        package="pair_detr.studies",
    )
    add_probe_arguments(parser, seeds=50)
    parser.add_argument(
        "--output",
        type=output_file(".png", ".svg"),
        default="positions.png",
        metavar="FILE",
        help="PNG or SVG to write",
    )
    args = parse(parser, arguments)
    require_sklearn()
    check_probe_arguments(args)
    require_outputs([args.output], overwrite=args.overwrite)
    objects = load_objects(args.data, load_rows(args), args.min_boxes)
    require_classes(len(objects.names), args.folds, " ".join(args.data))
    properties = measure(objects)
    predicted = predict_left_out(objects.rows, properties.values, args.folds, args.seeds)
    scores = {
        name: score_probe(properties.values[:, number], {method: own[..., number] for method, own in predicted.items()})
        for number, name in enumerate((*PROPERTIES, COUNT))
    }
    with writing(args.output) as temporary:
        _draw(scores, properties.values, predicted).savefig(temporary, dpi=90)
    logger.info(
        "%s: %s; %d folds, %d seeds; %s\n%s",
        args.output,
        objects.describe(),
        args.folds,
        args.seeds,
        describe_machine("cpu"),
        _table(scores, properties.ceilings),
    )


if __name__ == "__main__":
    run(main)
