"""How many classes a probe of text rows needs to find anything: ``python -m pair_detr.studies.probe_sizes``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pair_detr.open_vocabulary import Vocabulary
from pair_detr.studies.text_probes import (
    CONTROLS,
    METHODS,
    REAL,
    ProbeScore,
    add_vocabulary_arguments,
    load_rows,
    predict_left_out,
    require_classes,
    require_sklearn,
    score_probe,
)
from pair_detr.tools.common import (
    add_overwrite_argument,
    describe_machine,
    markdown,
    output_file,
    parse,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.json_files import read_json
from pair_detr.utils.outputs import require_outputs, writing

logger = tool_logger("study_probe_sizes")

_FIELDS = ("name", "image_count", "instance_count")


def read_counts(file: Path, vocabulary: Vocabulary, min_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Text rows of the classes that have enough images, (C, D), and the log of their boxes per image, (C,).

    Args:
        file: a list of categories as LVIS has them, with "name", "image_count" and "instance_count"; or an annotation
            file with such "categories".
        vocabulary: finds a category by its name, or else by one of its "synonyms".
        min_images: with a box of the class.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no such categories.
    """
    content = read_json(file)
    categories = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(categories, list) or not all(isinstance(c, dict) and c.keys() >= {*_FIELDS} for c in categories):
        raise ValueError(
            f"{file}: there is no list of categories with {', '.join(_FIELDS)} in it: give LVIS's annotations, or "
            "lvis_v1_train_cat_info.json of Detic's datasets/metadata."
        )
    kept = [category for category in categories if category["image_count"] >= max(1, min_images)]
    found = [_find(vocabulary, category) for category in kept]
    counts = [c["instance_count"] / c["image_count"] for c, own in zip(kept, found, strict=True) if own is not None]
    known = [own for own in found if own is not None]
    return vocabulary.weights[known].double().numpy(), np.log(counts)


def _find(vocabulary: Vocabulary, category: Mapping[str, Any]) -> int | None:
    found = vocabulary.find([category["name"], *category.get("synonyms", ())])
    return next((own for own in found if own is not None), None)


def _draw(scores: Mapping[int, Mapping[str, ProbeScore]]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    sizes = list(scores)
    for number, method in enumerate(METHODS):
        points = [scores[size][method].r_squared for size in sizes]
        axis.plot(sizes, [point.value for point in points], "o-", label=method, color=f"C{number}", markersize=4)
        low, high = [point.low for point in points], [point.high for point in points]
        axis.fill_between(sizes, low, high, color=f"C{number}", alpha=0.15)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(
        xscale="log",
        xlabel="classes to train the probe on (log)",
        ylabel="R^2 on classes left out, 95% interval",
        title="log boxes per image",
    )
    axis.set_xticks(sizes, sizes)
    axis.minorticks_off()
    axis.legend(fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        ImportError: scikit-learn is not installed.
        OSError, ValueError: the counts or the text weights cannot be used.
    """
    parser = tool_parser(
        "Predicts how many boxes of a class an image has from the class's text row, by a probe that is trained on few "
        "or many classes. Shows how much a probe on few classes misses. Writes a figure and prints a table. "
        "docs/studies/positions.md was made with it.",
        "probe_sizes --categories lvis_v1_train_cat_info.json --text-weights lvis_v1_clip_a+cname.npy "
        "--vocabulary lvis",
        package="pair_detr.studies",
    )
    parser.add_argument("--categories", type=Path, required=True, metavar="FILE", help="counts as LVIS has them")
    add_vocabulary_arguments(parser)
    parser.add_argument("--min-images", type=int, default=10, metavar="N", help="that a class must be in to be used")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[37, 75, 150, 300, 600], metavar="N", help="classes to train on"
    )
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="classes are left out in")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="of folds, of classes to train on, controls")
    parser.add_argument(
        "--output", type=output_file(".png", ".svg"), default="probe_sizes.png", metavar="FILE", help="PNG or SVG"
    )
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    if min(args.folds, *args.sizes) < 2 or args.seeds < 1:
        parser.error("--folds and --sizes must be 2 or more, and --seeds 1 or more")
    require_sklearn()
    require_outputs([args.output], overwrite=args.overwrite)
    rows, counts = read_counts(args.categories, load_rows(args), args.min_images)
    require_classes(len(counts), args.folds, str(args.categories))
    # A fold leaves so many to train on.
    most = len(counts) - -(-len(counts) // args.folds)
    sizes = sorted({min(size, most) for size in args.sizes})
    scores = {}
    for size in sizes:
        predicted = predict_left_out(rows, counts[:, None], args.folds, args.seeds, size)
        scores[size] = score_probe(counts, {method: own[..., 0] for method, own in predicted.items()})
    with writing(args.output) as temporary:
        _draw(scores).savefig(temporary, dpi=100)
    table = [
        [size, by_method[REAL].r_squared, by_method[REAL].spearman, *(by_method[c].r_squared for c in CONTROLS)]
        for size, by_method in scores.items()
    ]
    headers = ["classes to train on", "R^2 of text rows (95%)", "Spearman (95%)", *(f"R^2 of {c}" for c in CONTROLS)]
    logger.info(
        "%s: %d classes; %d folds, %d seeds; %s\n%s",
        args.output,
        len(counts),
        args.folds,
        args.seeds,
        describe_machine("cpu"),
        markdown(table, headers),
    )


if __name__ == "__main__":
    run(main)
