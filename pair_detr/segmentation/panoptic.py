"""From masks of queries to one segment a pixel, as DETR merges them, and to scores of classes in every pixel."""

from typing import Any

import torch
from torch import Tensor


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
