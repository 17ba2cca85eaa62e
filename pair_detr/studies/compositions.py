"""Do text rows compose? A compound's row against those of its words: ``python -m pair_detr.studies.compositions``."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pair_detr.studies.text_probes import REAL, Interval, add_vocabulary_arguments, control_rows, interval, load_rows
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
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.outputs import require_outputs, writing

logger = tool_logger("study_compositions")

# What a compound's row is looked for with: the rows of its words, (W, D), become one query, (D,).
_QUERIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum of the words": lambda words: words.sum(0),
    "first word": lambda words: words[0],
    "last word": lambda words: words[-1],
}
SUM = "sum of the words"
_CENTERING = {False: "as they are", True: "less their mean"}
_SENSE = re.compile(r" *\(.*\)")


def find_compounds(names: Sequence[str], strip_senses: bool = False) -> dict[int, list[int]]:
    """The classes whose names consist of names of other classes: for each, the classes of its words, in their order.

    Args:
        strip_senses: "bat (animal)" also counts as "bat", be it the right one or not. Where several classes have such
            a name, none of them is taken.
    """
    plain = [normalize_name(_SENSE.sub("", name) if strip_senses else name) for name in names]
    index = {name: number for number, name in enumerate(plain) if plain.count(name) == 1}
    return {
        number: [index[word] for word in name.split()]
        for name, number in index.items()
        if " " in name and all(word in index for word in name.split())
    }


def rank_compounds(rows: np.ndarray, compounds: dict[int, list[int]], query: str, centered: bool) -> np.ndarray:
    """The rank of each compound's row by its cosine with the query, 1 for the closest; those of its words are left out.

    Args:
        rows: (C, D) text rows; they are normalized before anything else.
        compounds: see :func:`find_compounds`.
        query: a key of the queries that words make.
        centered: subtract the mean of all rows from each, which all texts share.
    """
    rows = _normalize(rows)
    if centered:
        rows = rows - rows.mean(0)
        rows = _normalize(rows)
    ranks = []
    for own, words in compounds.items():
        cosines = rows @ _QUERIES[query](rows[words])
        cosines[words] = -np.inf
        ranks.append(1 + (cosines > cosines[own]).sum())
    return np.array(ranks)


def _normalize(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def median_rank(*ranks: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean over seeds of the median rank."""
    return np.mean([np.median(own, axis=axis) for own in ranks], axis=0)


def hits(most: int) -> Callable[..., np.ndarray]:
    """The statistic that is the share of ranks up to ``most``, the mean over seeds."""

    def share(*ranks: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([(own <= most).mean(axis) for own in ranks], axis=0)

    return share


def _rank_all(rows: np.ndarray, compounds: dict[int, list[int]], seeds: int) -> dict[tuple[str, str, bool], Any]:
    """(S, N) ranks by rows, query and centering; there is one seed of the real rows."""
    ranks: dict[tuple[str, str, bool], list[np.ndarray]] = {}
    for seed in range(seeds):
        for name, own in control_rows(rows, np.random.default_rng(seed)).items():
            if name == REAL and seed:
                continue
            for query in _QUERIES if name == REAL else (SUM,):
                for centered in (False, True):
                    found = rank_compounds(own, compounds, query, centered)
                    ranks.setdefault((name, query, centered), []).append(found)
    return {key: np.stack(own) for key, own in ranks.items()}


def _gains(ranks: dict[tuple[str, str, bool], np.ndarray]) -> list[list[Interval | str]]:
    """How much more often a compound is the closest row to the sum of its words than to one of them."""

    def difference(of_sum: np.ndarray, of_word: np.ndarray, axis: int = -1) -> np.ndarray:
        return (of_sum == 1).mean(axis) - (of_word == 1).mean(axis)

    return [
        [
            _CENTERING[centered],
            query,
            interval(difference, ranks[REAL, SUM, centered][0], ranks[REAL, query, centered][0], method="percentile"),
        ]
        for centered in (False, True)
        for query in _QUERIES
        if query != SUM
    ]


def _score(ranks: np.ndarray) -> list[Interval | str]:
    median = interval(median_rank, *ranks, method="percentile")
    shares = [interval(hits(most), *ranks, method="percentile") for most in (1, 10)]
    return [f"{median.value:.0f} ({median.low:.0f} to {median.high:.0f})", *shares]


def _draw(ranks: dict[tuple[str, str, bool], np.ndarray], candidates: int) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, centered in zip(axes, (False, True), strict=True):
        for (rows, query, of_centered), own in ranks.items():
            if of_centered == centered:
                values = np.sort(own.ravel())
                label = query if rows == REAL else f"{query}, {rows}"
                axis.step(values, np.arange(1, len(values) + 1) / len(values), where="post", label=label)
        axis.set(xscale="log", xlim=(0.9, candidates), xlabel="rank of the compound's row (log)")
        axis.set_title(f"rows {_CENTERING[centered]}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of compounds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        OSError, ValueError: the text weights cannot be used, or have no compounds.
    """
    parser = tool_parser(
        "Finds classes whose names consist of names of other classes, such as ski pole, and ranks all rows by their "
        "cosine with the sum of the words' rows; against single words, shuffled and random rows. Writes a figure and "
        "prints a table. docs/studies/compositions.md was made with it.",
        "compositions --text-weights lvis_v1_clip_a+cname.npy --vocabulary lvis",
        package="pair_detr.studies",
    )
    add_vocabulary_arguments(parser)
    parser.add_argument(
        "--strip-senses", action="store_true", help='"bat (animal)" also counts as "bat", be it the right one or not'
    )
    parser.add_argument("--seeds", type=int, default=50, metavar="N", help="of shuffled and random rows")
    parser.add_argument(
        "--output", type=output_file(".png", ".svg"), default="compositions.png", metavar="FILE", help="PNG or SVG"
    )
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: it must be 1 or more")
    require_outputs([args.output], overwrite=args.overwrite)
    vocabulary = load_rows(args)
    compounds = find_compounds(vocabulary.names, args.strip_senses)
    if len(compounds) < 2:
        raise ValueError(
            f"{args.text_weights}: {len(compounds)} of its names consist of names of other classes, and 2 are needed. "
            "Take the text weights of a larger vocabulary, such as LVIS."
        )
    rows = vocabulary.weights.double().numpy()
    ranks = _rank_all(rows, compounds, args.seeds)
    with writing(args.output) as temporary:
        _draw(ranks, len(rows)).savefig(temporary, dpi=90)
    table = [
        [_CENTERING[centered], query, name, *_score(own)]
        for (name, query, centered), own in sorted(ranks.items(), key=lambda item: item[0][2])
    ]
    headers = ["rows", "query", "of", "median rank (95%)", "closest (95%)", "among the closest 10 (95%)"]
    found = zip(compounds, ranks[REAL, SUM, False][0], ranks[REAL, SUM, True][0], strict=True)
    logger.info(
        "%s: %d compounds among %d classes; %d seeds of controls; %s\n%s\n\n%s\n\nRanks: %s",
        args.output,
        len(compounds),
        len(rows),
        args.seeds,
        describe_machine("cpu"),
        markdown(table, headers),
        markdown(_gains(ranks), ["rows", "sum of the words less", "closest (95%)"]),
        "; ".join(f"{vocabulary.names[own]} {plain}, less the mean {less}" for own, plain, less in found),
    )


if __name__ == "__main__":
    run(main)
