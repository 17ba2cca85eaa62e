"""From masks of queries to one segment per pixel, as DETR merges them, and to semantic scores."""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from pair_detr.data import PanopticClasses, panoptic_classes
from pair_detr.modeling.postprocessing.masks import BatchMasks
from pair_detr.utils.messages import counted


@dataclass(frozen=True)
class PanopticOptions:
    """What a panoptic model returns beside instances.

    Attributes:
        classes: of the model.
        score_threshold: queries with a lower score have no segment.
        min_area: segments of at most so many pixels are left out.
    """

    classes: PanopticClasses
    score_threshold: float
    min_area: int


def segment_all(
    masks: BatchMasks, image: int, queries: Tensor, class_probs: Tensor, panoptic: PanopticOptions
) -> dict[str, Any]:
    """Segments an image as a whole.

    Segments come from masks and classes alone, as in DETR: a query whose box is empty may have one.

    Args:
        masks: of the batch.
        image: its index there.
        queries: (n,) of the detections.
        class_probs: (Q, C) of all queries, 0 for those to leave out; a column after those of the classes is that of no
            object.
        panoptic: classes and thresholds.

    Returns:
        "pred_masks", (n, height, width) bool; "panoptic_seg" and "sem_seg", see :func:`merge_panoptic` and
        :func:`semantic`.
    """
    classes, device = panoptic.classes, class_probs.device
    is_thing, ids, channels = (
        torch.tensor(x, device=device) for x in (classes.is_thing, classes.category_ids, classes.channels)
    )
    scores, labels = class_probs.max(-1)
    confident = (scores > panoptic.score_threshold) & (labels < len(is_thing))
    by_channel, binary, of_segments = 0, [], []
    for chunk, probs in masks.chunks(image, torch.arange(len(class_probs), device=device)):
        # A sum over queries, to which those of every chunk add.
        by_channel = by_channel + semantic(probs, class_probs[chunk, : len(is_thing)], channels)
        binary.append(probs > 0.5)
        # A mask that is empty, for it was not finite, would win where there is no other.
        confident[chunk] &= masks.finite[image, chunk]
        of_segments.append(probs[confident[chunk]])
    segments = merge_panoptic(
        torch.cat(of_segments),
        scores[confident],
        labels[confident],
        is_thing,
        panoptic.score_threshold,
        panoptic.min_area,
        ids,
    )
    return {"pred_masks": torch.cat(binary)[queries], "panoptic_seg": segments, "sem_seg": by_channel}


def merge_panoptic(
    mask_probs: Tensor,
    scores: Tensor,
    labels: Tensor,
    is_thing: Tensor,
    score_threshold: float = 0.85,
    min_area: int = 4,
    category_ids: Tensor | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Gives every pixel to the best of the confident masks.

    Confident masks of one stuff class are one segment, every one of a thing is a segment of its own. Segments left with
    too few pixels are removed, and theirs given to the others, until none is too small. Pixels are without a segment
    only where there is no confident mask at all.

    DETR's code merges stuff before it removes the first segments, but not after: from then on all masks of a stuff
    class but one are lost. Here they stay merged; where no stuff class has two masks, the results are DETR's.

    Args:
        mask_probs: (N, H, W) masks of N queries at the output size; only their order in a pixel counts, so that logits
            do as well as probabilities.
        scores: (N,) of the queries' best classes.
        labels: (N,) these classes; C or more stands for no object.
        is_thing: (C,) bool.
        score_threshold: masks count only with a higher score.
        min_area: segments of so many pixels or fewer are removed.
        category_ids: (C,) what ``segments_info`` calls the classes; by default what ``labels`` does.

    Returns:
        (H, W) int32 number of the segment, 0 where there is none; and a dict a segment as Detectron2 has it: ``id``,
        ``isthing``, ``category_id``, ``score`` (the highest of its masks) and ``area`` in pixels, in the order of ids.

    Source: DETR, section 4.4 and PostProcessPanoptic in its models/segmentation.py.
    """
    kept = (scores > score_threshold) & (labels < len(is_thing))
    masks, scores, labels = mask_probs[kept], scores[kept], labels[kept]
    is_thing = is_thing.to(labels.device)
    count = len(labels)
    # A segment is known by its first mask.
    first = torch.arange(count, device=labels.device)
    first_of_class = torch.where(labels[:, None] == labels, first, count).amin(1) if count else first
    segment_of = torch.where(is_thing[labels], first, first_of_class)
    while len(masks):
        owner = segment_of[masks.argmax(0)]
        areas = torch.bincount(owner.flatten(), minlength=count)
        large = areas[segment_of] > min_area
        if large.all():
            break
        masks, scores, labels, segment_of = masks[large], scores[large], labels[large], segment_of[large]
    else:
        return torch.zeros(mask_probs.shape[-2:], dtype=torch.int32, device=mask_probs.device), []
    firsts, number_of = segment_of.unique(return_inverse=True)
    best = scores.new_zeros(len(firsts)).scatter_reduce(0, number_of, scores, "amax")
    classes = labels.new_zeros(len(firsts)).scatter(0, number_of, labels)
    names = classes if category_ids is None else category_ids.to(classes.device)[classes]
    columns = (is_thing[classes], names, best, areas[firsts])
    segments = [
        {"id": number, "isthing": thing, "category_id": category, "score": score, "area": area}
        for number, (thing, category, score, area) in enumerate(zip(*(x.tolist() for x in columns), strict=True), 1)
    ]
    return (torch.searchsorted(firsts, owner) + 1).to(torch.int32), segments


def semantic(mask_probs: Tensor, class_probs: Tensor, channels: Tensor | None = None) -> Tensor:
    """Score of every class in every pixel: a query's mask times its class probability, summed over queries.

    Args:
        mask_probs: (N, H, W).
        class_probs: (N, C).
        channels: (C,) channel of each class, counted from 0, where several classes have one channel together; by
            default each has its own.

    Returns:
        (C or the number of channels, H, W).

    Source: the semantic inference of MaskFormer (arXiv 2107.06278, section 3.4).
    """
    if channels is not None:
        channels = channels.to(class_probs.device)
        grouped = class_probs.new_zeros(len(class_probs), int(channels.max()) + 1)
        class_probs = grouped.index_add(1, channels, class_probs)
    return torch.einsum("nc,nhw->chw", class_probs, mask_probs)


def build_panoptic(cfg: CfgNode, num_classes: int, classes: PanopticClasses | None = None) -> PanopticOptions | None:
    """What MODEL.DETR.PANOPTIC describes; None if disabled.

    Args:
        cfg: config.
        num_classes: of the model.
        classes: in place of those of the first test set or, without one, of the first training set.

    Raises:
        ValueError: there is no dataset, or its classes are not as many as the model's.
        KeyError, OSError: see :func:`pair_detr.data.datasets.panoptic_classes`.
    """
    options = cfg.MODEL.DETR.PANOPTIC
    if not options.ENABLED:
        return None
    names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    if classes is None and not names:
        raise ValueError(
            "MODEL.DETR.PANOPTIC.ENABLED is True, but neither DATASETS.TEST nor DATASETS.TRAIN names a dataset, which "
            "tells things from stuff: name one, or set it to False."
        )
    source = "the checkpoint" if classes is not None else f'dataset "{names[0]}"'
    classes = classes or panoptic_classes(names[0])
    if len(classes.names) != num_classes:
        raise ValueError(
            f"The model has {counted(num_classes, 'class', 'classes')}, but {source} has "
            f"{len(classes.names)}, with stuff: "
            "set MODEL.DETR.NUM_CLASSES to 0 or DATASETS to the model's data, or PANOPTIC.ENABLED to False."
        )
    return PanopticOptions(classes, options.SCORE_THRESHOLD, options.MIN_AREA)
