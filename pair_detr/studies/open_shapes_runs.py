"""Trainings on the open-vocabulary shapes that studies consist of: their text weights, options and results."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pair_detr.data.datasets.shape_classes import HOLDOUTS, Holdout
from pair_detr.open_vocabulary import Vocabulary, read_class_list
from pair_detr.open_vocabulary.shape_texts import random_word_texts, texts_from_words, unrelated_texts
from pair_detr.studies.convergence_runs import PlannedRun
from pair_detr.studies.text_probes import Interval, derangement, interval, random_rows
from pair_detr.visualization.training_curves import Curve, read_run

BOXES, LABELS = "detic/quickstart_boxsup", "detic/quickstart_image_labels"
# Where the rows of the classes come from. Composed of a text encoder's rows of their words; the same, given to other
# classes; Gaussian ones with the mean and the covariance of these; composed of random rows of their words; and random
# ones of the classes, which need no text encoder either.
REAL, SHUFFLED, RANDOM, WORDS, UNRELATED = "real", "shuffled", "random", "words", "unrelated"
TEXTS = (REAL, SHUFFLED, RANDOM, WORDS, UNRELATED)
_OF_ENCODER = frozenset({REAL, SHUFFLED, RANDOM})
# Share of the images with boxes that get other colors where a color is novel.
_PERMUTED = 0.5


@dataclass(frozen=True)
class Result:
    """AP50 in percent of base and novel classes, by iteration."""

    base: Curve
    novel: Curve

    @classmethod
    def read(cls, folder: Path, task: str = "bbox") -> "Result":
        """The evaluations of a training; ``task`` is "bbox" or "segm"."""
        curves = {name: read_run(folder, f"{task}/AP50-{name}").ap for name in ("base", "novel")}
        return cls(**{name: Curve(curve.steps, 100 * curve.values) for name, curve in curves.items()})

    @property
    def final(self) -> tuple[float, float]:
        """Of base and novel classes at the end."""
        return self.base.values[-1], self.novel.values[-1]


def add_text_arguments(parser: argparse.ArgumentParser, texts: Sequence[str]) -> None:
    """Which rows the classes have, where the real ones are, and config entries."""
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config entries of all runs")
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(texts), help="rows of the classes")
    parser.add_argument("--words-from", type=Path, metavar="FILE", help="text weights (.npy) that real rows come from")
    parser.add_argument("--words-vocabulary", help="names of its rows, if no .json file next to it tells; such as lvis")


def load_words(args: argparse.Namespace) -> Vocabulary | None:
    """The text weights that real rows are composed of, if they are needed.

    Raises:
        FileNotFoundError, ValueError: they are needed and not named, or cannot be read.
    """
    if _OF_ENCODER.isdisjoint(args.texts):
        return None
    if args.words_from is None:
        raise ValueError(
            "Real rows, and controls like them, are made of published ones: name their file with --words-from, or "
            f"leave them out with --texts {WORDS} {UNRELATED}."
        )
    names = list(read_class_list(args.words_vocabulary)) if args.words_vocabulary else None
    return Vocabulary.load(args.words_from, names)


def write_texts(kind: str, holdout: Holdout, words: Vocabulary | None, seed: int, folder: Path) -> Path:
    """Writes the text weights of a holdout's classes; all but the real ones are others for each seed.

    Args:
        kind: one of :data:`TEXTS`.
        words: of :func:`load_words`.
        folder: for the file.
    """
    if kind == REAL:
        texts = texts_from_words(holdout, words)
    elif kind == SHUFFLED:
        rows = texts_from_words(holdout, words).weights
        texts = Vocabulary(holdout.class_names, rows[derangement(len(rows), np.random.default_rng(seed))])
    elif kind == RANDOM:
        rows = random_rows(texts_from_words(holdout, words).weights.numpy(), np.random.default_rng(seed))
        texts = Vocabulary(holdout.class_names, rows)
    elif kind == WORDS:
        texts = random_word_texts(holdout, seed)
    else:
        texts = unrelated_texts(holdout, seed)
    # A run with other rows has another config, and is not taken for one that is complete.
    digest = hashlib.sha256(texts.weights.numpy().tobytes()).hexdigest()[:8]
    file = folder / f"{holdout.name}_{kind}_{digest}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    texts.save(file)
    return file


def plan_run(
    holdout: str, name: str, config: str, seed: int, texts: Path, options: Sequence[str] = (), stage: str = "boxes"
) -> PlannedRun:
    """A training on a holdout.

    Args:
        holdout: its name.
        name: of what is trained, a part of the folder's.
        config: :data:`BOXES` or :data:`LABELS`.
        seed: of the run.
        texts: text weights.
        options: further ones, as on the command line.
        stage: "boxes", or what continues from it.
    """
    prefix = f"open_shapes_{holdout}"
    train = [f"{prefix}_train_boxes"] + ([f"{prefix}_train_image_labels"] if config == LABELS else [])
    own = {
        "SEED": seed,
        "MODEL.CLIP.TEXT_WEIGHTS": texts,
        "MODEL.WEIGHTS": f"shapes://open_{holdout}.pth",
        "DATASETS.TRAIN": repr(tuple(train)),
        "DATASETS.TEST": repr((f"{prefix}_val",)),
    }
    if HOLDOUTS[holdout].has_novel_color:
        own["INPUT.CHANNEL_PERMUTATION"] = _PERMUTED
        if config == LABELS:
            own["MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS"] = True
    flat = [str(x) for entry in own.items() for x in entry]
    return PlannedRun(holdout, name, stage, seed, config, [*flat, *options])


def gain(values: Sequence[float], of_control: Sequence[float]) -> Interval:
    """Mean difference of runs with the same seeds, with its bootstrap interval over the seeds."""
    difference = np.asarray(values) - np.asarray(of_control)
    if len(difference) < 2:
        return Interval(float(difference.mean()), float("nan"), float("nan"))
    return interval(lambda x, axis: np.mean(x, axis=axis), difference, method="percentile")
