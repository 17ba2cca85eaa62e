"""What a class's text row tells of classes that were left out, against controls, with bootstrap intervals."""

import importlib.util
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, rankdata

from pair_detr.open_vocabulary import Vocabulary, read_class_list
from pair_detr.tools.common import add_overwrite_argument

REAL, SHUFFLED, RANDOM, MEAN = "text rows", "shuffled rows", "random rows", "mean of classes"
CONTROLS = (SHUFFLED, RANDOM, MEAN)
METHODS = (REAL, *CONTROLS)

# Of ridge regression on rows of length 1; the largest ones predict the mean of the training classes.
_PENALTIES = np.logspace(-3, 4, 29)
_RESAMPLES = 2000
# Of resamples at a time: the statistics of a thousand classes fit into a few megabytes.
_BATCH = 100


@dataclass(frozen=True)
class Interval:
    """A statistic and its 95% interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.at(2)

    def at(self, digits: int) -> str:
        """The statistic and its interval with so many digits, "-" where it is not defined."""
        if np.isnan(self.value):
            return "-"
        value, low, high = (f"{number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"

    @property
    def errors(self) -> tuple[float, float]:
        """The distances from the value to both ends, as matplotlib draws them."""
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)


def require_sklearn() -> None:
    """Raises an ImportError that says what to install, if there is no scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError("This study fits with scikit-learn: pip install scikit-learn")


def random_rows(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(C, D) Gaussian rows with the mean and the covariance of (C, D) ``rows``, which know nothing of the classes."""
    mean = rows.mean(0)
    return mean + rng.standard_normal((len(rows), len(rows))) @ (rows - mean) / np.sqrt(len(rows) - 1)


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation that leaves nothing in its place: a cycle of all."""
    order = rng.permutation(count)
    result = np.empty(count, dtype=np.int64)
    result[order] = np.roll(order, 1)
    return result


def control_rows(rows: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The rows by name: as they are, in a random order, and random ones with the same spectrum."""
    return {REAL: rows, SHUFFLED: rng.permutation(rows), RANDOM: random_rows(rows, rng)}


def predict_left_out(
    rows: np.ndarray,
    values: np.ndarray,
    folds: int,
    seeds: int,
    train_classes: int | None = None,
    shared_penalty: bool = False,
) -> dict[str, np.ndarray]:
    """Predicts properties of classes from their rows, each by ridge regression on classes of the other folds.

    The penalty is chosen inside the training folds, by generalized cross-validation. Each seed makes its own folds,
    shuffled rows and random rows.

    Args:
        rows: (C, D) text rows.
        values: (C, T) properties.
        folds: parts that the classes are divided into.
        seeds: how often that is repeated.
        train_classes: that many of the training classes alone; None takes all.
        shared_penalty: one for all properties, in place of one for each.

    Returns:
        (seeds, C, T) predictions by method, those of :data:`METHODS`.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    if shared_penalty and values.shape[1] > len(values):
        # The same in fewer dimensions: all predictions are in the span of the classes, and turning it changes no error.
        mean = values.mean(0)
        left, scales, basis = np.linalg.svd(values - mean, full_matrices=False)
        turned = predict_left_out(rows, left * scales, folds, seeds, train_classes, shared_penalty)
        return {method: own @ basis + mean for method, own in turned.items()}
    predicted = {method: np.empty((seeds, *values.shape)) for method in METHODS}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        by_method = control_rows(rows, rng)
        for train, test in KFold(folds, shuffle=True, random_state=seed).split(rows):
            train = rng.permutation(train)[:train_classes]
            predicted[MEAN][seed, test] = values[train].mean(0)
            for method, own in by_method.items():
                model = RidgeCV(_PENALTIES, alpha_per_target=not shared_penalty)
                predicted[method][seed, test] = (
                    model.fit(own[train], values[train]).predict(own[test]).reshape(len(test), -1)
                )
    return predicted


def interval(statistic: Callable[..., Any], *samples: np.ndarray, method: str = "BCa") -> Interval:
    """A statistic of classes, and its 95% bootstrap interval over them (:func:`scipy.stats.bootstrap`).

    Args:
        statistic: takes the samples and ``axis``.
        samples: each (C,); they are resampled together.
        method: of scipy's; BCa cannot be used for medians and for shares that may be 0 or 1.
    """
    value = float(statistic(*samples, axis=-1))
    if np.isnan(value):
        return Interval(value, value, value)
    with warnings.catch_warnings():
        # Where all classes have the same value, which the plain interval can do with.
        warnings.simplefilter("ignore")
        result = bootstrap(
            samples,
            statistic,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            vectorized=True,
            paired=True,
            method=method,
            random_state=np.random.default_rng(0),
        )
    low, high = map(float, result.confidence_interval)
    if np.isnan(low) and method != "percentile":
        return interval(statistic, *samples, method="percentile")
    return Interval(value, low, high)


def noise_of_mean(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(T,) the variance that a class's mean has because its objects are a sample.

    It comes from the differences between images, not objects: those of one image are alike.

    Args:
        values: (N, T) of the objects of a class, in two images at least.
        images: (N,) the image of each.
    """
    found, of_object = np.unique(images, return_inverse=True)
    deviations = np.zeros((len(found), values.shape[1]))
    np.add.at(deviations, of_object, values - values.mean(0))
    return (deviations**2).sum(0) / len(values) ** 2 * len(found) / (len(found) - 1)


def squared_errors(values: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(C,) mean over seeds of the squared errors of (S, C) predictions of (C,) values."""
    return ((predictions - values) ** 2).mean(0)


def r_squared(values: np.ndarray, errors: np.ndarray, axis: int = -1) -> np.ndarray:
    """1 less the share of the variance between classes that :func:`squared_errors` leave."""
    return 1 - errors.sum(axis) / _deviations(values, axis)


def r_squared_gain(values: np.ndarray, errors: np.ndarray, of_control: np.ndarray, axis: int = -1) -> np.ndarray:
    """How much :func:`r_squared` is above that of a control."""
    return (of_control - errors).sum(axis) / _deviations(values, axis)


def _deviations(values: np.ndarray, axis: int) -> np.ndarray:
    deviations = ((values - values.mean(axis, keepdims=True)) ** 2).sum(axis)
    # Not defined where all classes are the same.
    return np.where(deviations > 0, deviations, np.nan)


def spearman(values: np.ndarray, *predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """Rank correlation of values and predictions, the mean over seeds: each of the predictions is one seed's.

    Predictions of different folds can be compared once the mean of the training classes is subtracted from them: by
    itself, it is lower where the classes left out are higher.
    """
    ranks = _centered_ranks(values, axis)
    correlations = []
    for own in (_centered_ranks(prediction, axis) for prediction in predictions):
        scale = np.sqrt((ranks**2).sum(axis) * (own**2).sum(axis))
        # Not defined where all predictions are the same.
        correlations.append((ranks * own).sum(axis) / np.where(scale > 0, scale, np.nan))
    return np.mean(correlations, axis=0)


def _centered_ranks(values: np.ndarray, axis: int) -> np.ndarray:
    ranks = rankdata(values, axis=axis)
    return ranks - ranks.mean(axis, keepdims=True)


@dataclass(frozen=True)
class ProbeScore:
    """How well a method predicts a property of classes left out.

    Attributes:
        r_squared: over all folds, the mean over seeds.
        spearman: likewise; not defined for the mean of classes.
        gain: how much the R^2 of text rows is above it; not defined for text rows.
        beaten: share of the seeds in which text rows have the higher R^2.
    """

    r_squared: Interval
    spearman: Interval
    gain: Interval
    beaten: float


def score_probe(values: np.ndarray, predicted: Mapping[str, np.ndarray]) -> dict[str, ProbeScore]:
    """Scores predictions of one property by method.

    Args:
        values: (C,) of the property.
        predicted: (S, C) by method, see :func:`predict_left_out`.
    """
    undefined = Interval(np.nan, np.nan, np.nan)
    errors = {method: squared_errors(values, own) for method, own in predicted.items()}
    by_seed = {method: ((own - values) ** 2).sum(1) for method, own in predicted.items()}
    return {
        method: ProbeScore(
            interval(r_squared, values, errors[method]),
            undefined if method == MEAN else interval(spearman, values, *(own - predicted[MEAN])),
            undefined if method == REAL else interval(r_squared_gain, values, errors[REAL], errors[method]),
            np.nan if method == REAL else float((by_seed[REAL] < by_seed[method]).mean()),
        )
        for method, own in predicted.items()
    }


def add_probe_arguments(parser: ArgumentParser, seeds: int) -> None:
    """Adds what studies of text rows share; see :func:`check_probe_arguments`."""
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="NAME",
        help="datasets that Detectron2 knows, or .json files in the format of COCO or LVIS; taken together",
    )
    add_vocabulary_arguments(parser)
    parser.add_argument("--min-boxes", type=int, default=5, metavar="N", help="that a class must have to be used")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="classes are left out in")
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help="of folds and controls")
    add_overwrite_argument(parser)


def add_vocabulary_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of :func:`load_rows`."""
    parser.add_argument("--text-weights", required=True, metavar="FILE", help=".npy file with a row for each class")
    parser.add_argument(
        "--vocabulary", default="", metavar="NAME", help="whose classes they are, if no .json file next to them says so"
    )


def check_probe_arguments(args: Namespace) -> None:
    """Raises a ValueError if classes cannot be left out so."""
    if args.folds < 2 or args.seeds < 1 or args.min_boxes < 1:
        raise ValueError(
            f"--folds {args.folds}, --seeds {args.seeds} and --min-boxes {args.min_boxes}: there must be 2 folds, "
            "1 seed and 1 box at least."
        )


def load_rows(args: Namespace) -> Vocabulary:
    """The text rows that the arguments name; for errors see :meth:`pair_detr.open_vocabulary.Vocabulary.load`."""
    return Vocabulary.load(args.text_weights, list(read_class_list(args.vocabulary)) if args.vocabulary else None)


def require_classes(count: int, folds: int, what: str) -> None:
    """Raises a ValueError that says what is missing, if classes are too few to leave some of them out."""
    if count < 2 * folds:
        raise ValueError(
            f"{what}: {count} classes can be used, and {folds} folds need {2 * folds}. Lower --folds or what a class "
            "must have, or add data; the text weights must be of these classes (--text-weights, --vocabulary)."
        )
