"""Masks from the dense maps of a CLIP vision transformer, scored in the boxes of objects."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pair_detr.images.reading import open_image
from pair_detr.open_vocabulary import class_list, encode_classes
from pair_detr.studies.class_objects import ClassObjects
from pair_detr.studies.dense_maps import CORRELATIVE, PLAIN, class_maps, crop, load_encoders
from pair_detr.studies.mask_scores import MASK_SIZE, area_under_curve, mask_iou
from pair_detr.studies.text_probes import RANDOM, SHUFFLED, derangement, random_rows

OTHERS = "mean mask of the other classes"
DENSE_METHODS = (CORRELATIVE, PLAIN, f"{CORRELATIVE}, {SHUFFLED}", f"{CORRELATIVE}, {RANDOM}", OTHERS)
# Of a map: its pixels above their mean, those whose best class is the object's, and all thresholds.
IOU, CLASSIFIED_IOU, AREA = "IoU of pixels above the mean", "IoU of pixels of the class", "area under the curve"
_MEASURES = (IOU, CLASSIFIED_IOU, AREA)
_PROMPTS = ("a photo of a {}.",)
_THRESHOLD = 0.5


def score_dense_maps(
    objects: ClassObjects, masks: np.ndarray, name: str, checkpoint: str, most: int, seed: int = 0
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """How well maps of objects' classes agree with their masks, in their boxes.

    What is in a box is resized to what the encoder was trained with, and its patches are classified by the texts of all
    classes, which the checkpoint's own text encoder makes. A map is the cosine with the class's text, less the mean
    over all classes, which is high wherever there is anything at all.

    Args:
        masks: (N, 28, 28) bool, of the objects in their boxes.
        name: of the encoder and
        checkpoint: its file, see :func:`pair_detr.open_vocabulary.build_text_encoder`.
        most: objects to score, chosen at random.

    Returns:
        by method of :data:`DENSE_METHODS`, then by measure: the mean of each class that has a score, (C,); and the
        number of objects.

    Raises:
        OSError, ValueError, ImportError: an image or the checkpoint cannot be used.
    """
    encoder, text_encoder = load_encoders(name, checkpoint)
    rng = np.random.default_rng(seed)
    rows = encode_classes(text_encoder, class_list(objects.names), _PROMPTS).weights
    by_method = {
        CORRELATIVE: (rows, CORRELATIVE),
        PLAIN: (rows, PLAIN),
        f"{CORRELATIVE}, {SHUFFLED}": (rows[torch.from_numpy(derangement(len(rows), rng))], CORRELATIVE),
        f"{CORRELATIVE}, {RANDOM}": (torch.from_numpy(random_rows(rows.numpy(), rng)).float(), CORRELATIVE),
    }
    numbers = np.sort(rng.permutation(len(masks))[:most])
    scores = {method: np.full((len(numbers), len(_MEASURES)), np.nan) for method in DENSE_METHODS}
    sums, counts = _sums_by_class(objects.classes, masks, len(objects.names))
    opened, image = "", None
    for place, number in enumerate(tqdm(numbers, "objects", disable=None)):
        file, own = objects.records[number]["file_name"], objects.classes[number]
        if file != opened:
            opened, image = file, open_image(file).convert("RGB")
        pixels = crop(encoder, image, tuple(objects.boxes[number]))[None]
        for method, (texts, attention) in by_method.items():
            maps = _upsample(class_maps(encoder, pixels, texts, attention)[0])
            scores[method][place] = _score_map(maps, own, masks[number])
        others = (sums.sum(0) - sums[own]) / (counts.sum() - counts[own])
        iou = float(mask_iou(others > _THRESHOLD, masks[number]))
        scores[OTHERS][place] = iou, np.nan, area_under_curve(others, masks[number])
    classes = objects.classes[numbers]
    return {
        method: {measure: _by_class(own[:, m], classes) for m, measure in enumerate(_MEASURES)}
        for method, own in scores.items()
    }, len(numbers)


def _upsample(maps: Tensor) -> np.ndarray:
    size = (MASK_SIZE, MASK_SIZE)
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].numpy()


def _score_map(maps: np.ndarray, own: int, mask: np.ndarray) -> tuple[float, float, float]:
    scores = maps[own] - maps.mean(0)
    above = float(mask_iou(scores > scores.mean(), mask))
    return above, float(mask_iou(maps.argmax(0) == own, mask)), area_under_curve(scores, mask)


def _sums_by_class(classes: np.ndarray, masks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    sums = np.zeros((count, *masks.shape[1:]))
    np.add.at(sums, classes, masks)
    return sums, np.bincount(classes, minlength=count)


def _by_class(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The mean of each class's objects; those without a score, and classes without such objects, are left out."""
    known = ~np.isnan(scores)
    return np.array([scores[known & (classes == number)].mean() for number in np.unique(classes[known])])
