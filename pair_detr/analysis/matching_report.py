"""How the objects of one image were matched with queries, and why."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.modeling.meta_arch import DetectionTransformer

TERMS = ("class cost", "L1 cost", "GIoU cost")


@dataclass
class MatchingReport:
    """The matching of T objects with Q queries, by the outputs of the last decoder layer.

    Attributes:
        terms: (3, T, Q) weighted class, L1 and GIoU cost; their sum is what is minimized.
        query: (T,) the query of each object; -1 where the image has more objects than the model has queries.
        labels: (T,) class indices of the objects.
        truth: (T, 4) xyxy in pixels.
        boxes: (Q, 4) predictions, xyxy in pixels.
    """

    terms: np.ndarray
    query: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    boxes: np.ndarray

    @property
    def cost(self) -> np.ndarray:
        """(T, Q) total cost."""
        return self.terms.sum(0)

    def rows(self, names: list[str]) -> list[dict[str, Any]]:
        """A line per object: its query, the terms, and the query that would be cheapest if others did not matter."""
        rows = []
        for index, (label, query) in enumerate(zip(self.labels, self.query, strict=True)):
            row: dict[str, Any] = {"object": index + 1, "class": names[label]}
            if query >= 0:
                row |= {"query": int(query), "cost": float(self.cost[index, query])}
                row |= dict(zip(TERMS, map(float, self.terms[:, index, query]), strict=True))
            cheapest = int(self.cost[index].argmin())
            row |= {"cheapest query": cheapest, "its cost": float(self.cost[index, cheapest])}
            rows.append(row)
        return rows

    def table(self, names: list[str]) -> str:
        """:meth:`rows` in Markdown."""
        return tabulate(self.rows(names), headers="keys", tablefmt="github", floatfmt=".3f", missingval="none")


@torch.no_grad()
def report_matching(model: DetectionTransformer, item: dict[str, Any]) -> MatchingReport:
    """Detects in one image and matches its objects.

    Args:
        model: in evaluation mode.
        item: with "image" and "instances" as the training's mapper makes them, "height" and "width" of the original.
    """
    matcher = model.criterion.matcher
    batch = model.preprocess([item])
    predictions = model.detector(batch)
    logits, boxes = predictions.logits[-1:].float(), predictions.boxes[-1:].float()
    targets = model.pack_targets([item], batch)
    assignment = matcher(logits, boxes, targets)
    query = torch.full_like(targets.labels, -1)
    query[assignment.target] = assignment.query
    frame = batch.output_frames()[0].to(boxes.device)
    terms = torch.stack(matcher.cost_terms(logits, boxes, targets))[:, 0]
    truth, predicted = (cxcywh_to_xyxy(x) * frame for x in (targets.boxes, boxes[0, 0]))
    return MatchingReport(*(x.cpu().numpy() for x in (terms, query, targets.labels, truth, predicted)))
