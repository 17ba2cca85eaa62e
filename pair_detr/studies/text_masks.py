"""Can CLIP predict masks? Text rows against the masks of classes: ``python -m pair_detr.studies.text_masks``."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pair_detr.studies.class_objects import ClassObjects, load_objects
from pair_detr.studies.dense_scores import score_dense_maps
from pair_detr.studies.mask_scores import MASK_SIZE, crop_masks, mask_iou, mean_masks, soft_iou
from pair_detr.studies.text_probes import (
    CONTROLS,
    MEAN,
    METHODS,
    REAL,
    add_probe_arguments,
    check_probe_arguments,
    interval,
    load_rows,
    noise_of_mean,
    predict_left_out,
    require_classes,
    require_sklearn,
)
from pair_detr.tools.common import describe_machine, markdown, output_file, parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import require_outputs, writing

logger = tool_logger("study_text_masks")

# What is compared of the predicted mean mask of a class.
MEAN_IOU, SOFT_IOU, OBJECT_IOU = "IoU with the mean mask", "soft IoU with the mean mask", "IoU with its objects"
_MEASURES = (MEAN_IOU, SOFT_IOU, OBJECT_IOU)
OWN = "the class's own mean mask"
_THRESHOLD = 0.5


def average(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean, as a statistic of :func:`pair_detr.studies.text_probes.interval`."""
    return values.mean(axis)


def score_masks(
    predicted: Mapping[str, np.ndarray], means: np.ndarray, masks: np.ndarray, classes: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """How well predicted mean masks agree with classes that were left out.

    Args:
        predicted: (S, C, 28 * 28) by method.
        means: (C, 28, 28) mean masks.
        masks: (N, 28, 28) bool masks of objects.
        classes: (N,) the class of each.

    Returns:
        by method, also :data:`OWN`, which knows the class's masks; then by measure: (S, C) scores.
    """
    scores = {}
    for method, own in {**predicted, OWN: means[None]}.items():
        shares = own.reshape(len(own), *means.shape).clip(0, 1)
        solid = shares > _THRESHOLD
        by_object = mask_iou(solid[:, classes], masks)
        scores[method] = {
            MEAN_IOU: mask_iou(solid, means > _THRESHOLD),
            SOFT_IOU: soft_iou(shares, means),
            OBJECT_IOU: np.stack([by_object[:, classes == number].mean(1) for number in range(len(means))], axis=1),
        }
    return scores


def pixel_errors(predicted: Mapping[str, np.ndarray], means: np.ndarray) -> dict[str, np.ndarray]:
    """(C,) squared distance of (S, C, 28 * 28) predictions to mean masks by method, the mean over seeds."""
    values = means.reshape(len(means), -1)
    return {method: ((own - values) ** 2).sum(2).mean(0) for method, own in predicted.items()}


def explained(errors: np.ndarray, deviations: np.ndarray, axis: int = -1) -> np.ndarray:
    """R^2 over classes and pixels together.

    Args:
        errors: (C,) squared distance of the predicted mean masks, or how much it is less than a control's.
        deviations: (C,) of the mean mask of all classes.
    """
    return 1 - errors.sum(axis) / deviations.sum(axis)


def explained_gain(errors: np.ndarray, of_control: np.ndarray, deviations: np.ndarray, axis: int = -1) -> np.ndarray:
    """How much :func:`explained` is above that of a control."""
    return (of_control - errors).sum(axis) / deviations.sum(axis)


def _table(scores: Mapping[str, Mapping[str, np.ndarray]], errors: Mapping[str, np.ndarray], means: np.ndarray) -> str:
    deviations = ((means - means.mean(0)) ** 2).sum((1, 2))
    levels = [
        [
            method,
            *("-" if method == OWN and m != OBJECT_IOU else interval(average, by[m].mean(0)) for m in _MEASURES),
            "-" if method == OWN else interval(explained, errors[method], deviations),
        ]
        for method, by in scores.items()
    ]
    gains = [
        [
            control,
            *(interval(average, (scores[REAL][m] - scores[control][m]).mean(0)).at(3) for m in _MEASURES),
            interval(explained_gain, errors[REAL], errors[control], deviations),
            f"{(scores[REAL][MEAN_IOU].mean(1) > scores[control][MEAN_IOU].mean(1)).mean():.0%}",
        ]
        for control in CONTROLS
    ]
    headers = [*_MEASURES, "R^2 of pixels"]
    wins = "seeds with a higher IoU with the mean mask"
    first = markdown(levels, ["predicted from", *headers])
    return f"{first}\n\n{markdown(gains, ['text rows above', *headers, wins])}"


def pixel_ceiling(objects: ClassObjects, masks: np.ndarray, means: np.ndarray) -> float:
    """The R^2 of pixels that knowing the true mean masks would reach, as the objects are a sample."""
    flat = masks.reshape(len(masks), -1).astype(np.float64)
    classes = [objects.classes == number for number in range(len(means))]
    noise = [noise_of_mean(flat[own], objects.images[own]).sum() for own in classes]
    return float(1 - np.sum(noise) / ((means - means.mean(0)) ** 2).sum())


def _draw(scores: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    bars, scatter = figure.subplots(1, 2, width_ratios=[1.6, 1])
    for number, method in enumerate((*METHODS, OWN)):
        places = [place for place, measure in enumerate(_MEASURES) if method != OWN or measure == OBJECT_IOU]
        values = [interval(average, scores[method][_MEASURES[place]].mean(0)) for place in places]
        errors = np.array([value.errors for value in values]).T
        offsets = [place + (number - 2) * 0.16 for place in places]
        heights = [value.value for value in values]
        bars.bar(offsets, heights, 0.16, yerr=errors, label=method, error_kw={"linewidth": 1})
    bars.set_xticks(range(len(_MEASURES)), [measure.replace(" with", "\nwith") for measure in _MEASURES])
    bars.set(title="classes left out, 95% interval", ylim=(0, 1))
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    x, y = (scores[method][MEAN_IOU].mean(0) for method in (MEAN, REAL))
    scatter.scatter(x, y, s=12)
    scatter.axline((0.5, 0.5), slope=1, color="gray", linewidth=1)
    scatter.set(xlabel="predicted by the mean of classes", ylabel="predicted from the text row", title=MEAN_IOU)
    return figure


def _log_dense(name: str, scores: Mapping[str, Mapping[str, np.ndarray]], objects: int) -> None:
    measures = list(next(iter(scores.values())))
    rows = [
        # The mean mask has no class.
        [method, *(interval(average, own[m]) if len(own[m]) else "-" for m in measures)]
        for method, own in scores.items()
    ]
    logger.info("Dense maps of %s: %d objects\n%s", name, objects, markdown(rows, ["mask from", *measures]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        ImportError: scikit-learn, or the package of the image encoder, is not installed.
        KeyError, OSError, ValueError: the data, the text weights or the checkpoint cannot be used.
    """
    parser = tool_parser(
        "Predicts the mean mask of a class in its box from the class's text row by ridge regression on other classes; "
        "against shuffled rows, random rows and the mean mask of all. With --checkpoint of a CLIP vision transformer, "
        "also classifies the patches of objects. Writes a figure and prints tables. docs/studies/text_masks.md was "
        "made with it.",
        "text_masks --data coco_2017_train coco_2017_val --text-weights coco_clip_a+cname.npy --vocabulary coco",
        package="pair_detr.studies",
    )
    add_probe_arguments(parser, seeds=50)
    parser.add_argument("--checkpoint", default="", metavar="FILE", help="weights of CLIP, for dense maps")
    parser.add_argument("--encoder", default="clip", metavar="NAME", help="of the checkpoint, such as clip:ViT-B/16")
    parser.add_argument("--images", default="", metavar="FOLDER", help="of .json files in --data, for dense maps")
    parser.add_argument(
        "--objects", type=int, default=1000, metavar="N", help="to make dense maps of, chosen at random"
    )
    parser.add_argument(
        "--output", type=output_file(".png", ".svg"), default="text_masks.png", metavar="FILE", help="PNG or SVG"
    )
    args = parse(parser, arguments)
    require_sklearn()
    check_probe_arguments(args)
    if args.objects < 1:
        parser.error(f"--objects {args.objects}: it must be 1 or more")
    require_outputs([args.output], overwrite=args.overwrite)
    objects = load_objects(args.data, load_rows(args), args.min_boxes, args.images, with_masks=True)
    require_classes(len(objects.names), args.folds, " ".join(args.data))
    masks = crop_masks(objects)
    means = mean_masks(masks, objects.classes, len(objects.names))
    values = means.reshape(len(means), MASK_SIZE**2)
    predicted = predict_left_out(objects.rows, values, args.folds, args.seeds, shared_penalty=True)
    scores = score_masks(predicted, means, masks, objects.classes)
    with writing(args.output) as temporary:
        _draw(scores).savefig(temporary, dpi=90)
    logger.info(
        "%s: %s; %d folds, %d seeds; noise ceiling of the R^2 of pixels %.2f; %s\n%s",
        args.output,
        objects.describe(),
        args.folds,
        args.seeds,
        pixel_ceiling(objects, masks, means),
        describe_machine("cpu"),
        _table(scores, pixel_errors(predicted, means), means),
    )
    if args.checkpoint:
        dense, count = score_dense_maps(objects, masks, args.encoder, args.checkpoint, args.objects)
        _log_dense(args.encoder, dense, count)


if __name__ == "__main__":
    run(main)
