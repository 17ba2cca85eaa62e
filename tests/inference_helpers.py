"""Detections of the same model, computed in two ways."""

from typing import Any

import torch


def assert_same_detections(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """In any order, as random models have detections with the same score."""
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys()
        one, two = own["instances"], other["instances"]
        assert len(one) == len(two)
        torch.testing.assert_close(one.scores, two.scores, atol=1e-4, rtol=0)
        distance = torch.cdist(one.pred_boxes.tensor, two.pred_boxes.tensor, p=torch.inf)
        distance += 1000 * (one.pred_classes[:, None] != two.pred_classes)
        if len(one) == 0:
            continue
        least, nearest = distance.min(1)
        assert least.max() < 1e-4 * max(one.image_size)
        assert (one.scores - two.scores[nearest]).abs().max() < 1e-4
        if one.has("pred_masks"):
            assert (one.pred_masks != two.pred_masks[nearest]).float().mean() < 1e-3
