"""The loss of predictions of which several may have one object: one-to-many matching, on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.layers import box_iou_pairs, cxcywh_to_xyxy
from pair_detr.losses.terms import LossTerm, MatchedPredictions, ClassTerm
from pair_detr.structures import Assignment, Predictions


class DenseTerm(LossTerm):
    """Class, L1 and GIoU losses of the dense head, "dense_class", "dense_box" and "dense_giou".

    Each object is matched with the tokens of the least matching cost among those whose cells have their centers inside
    its box; a token that several objects would have belongs to the one that costs it least.
    """

    def __init__(self, class_term: ClassTerm, l1_weight: float, giou_weight: float, tokens_per_object: int, scale: float = 1.0) -> None:
        weight = class_term.weights["class"] * scale
        super().__init__(dense_class=weight, dense_box=l1_weight, dense_giou=giou_weight)
        self.class_term = class_term
        self.tokens_per_object = tokens_per_object

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        dense, targets = matched.predictions.auxiliary["dense"], matched.given
        num_boxes = matched.num_boxes / matched.predictions.groups
        logits, boxes = dense.logits.float(), dense.boxes.float()
        token, weight = self._match(matched, dense)
        target = torch.arange(len(token), device=token.device)[:, None].expand_as(token)
        image = targets.image_index[:, None].expand_as(token)
        num_tokens = boxes.shape[2]
        # Rows after the last token take what is not matched, and are left out of the loss.
        token_or_none = torch.where(weight > 0, token, num_tokens)
        assignment = Assignment(torch.zeros_like(target).flatten(), image.flatten(), token_or_none.flatten(), target.flatten())
        padded = Predictions(F.pad(logits, (0, 0, 0, 1)), F.pad(boxes, (0, 0, 0, 1), value=0.5))
        counted = F.pad(dense.is_counted if dense.is_counted is not None else torch.ones_like(boxes[0, :, :, 0], dtype=torch.bool), (0, 1), value=False)
        class_loss = self.class_term.loss(padded, assignment, targets, num_boxes, counted[None, :, :, None])
        predicted = boxes[0][image, token]
        expected = targets.boxes[:, None]
        _, giou = box_iou_pairs(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(expected))
        l1 = (predicted - expected).abs().sum(-1)
        return {
            "dense_class": class_loss,
            "dense_box": (l1 * weight).sum()[None] / num_boxes,
            "dense_giou": ((1 - giou) * weight).sum()[None] / num_boxes,
        }

    @torch.no_grad()
    def _match(self, matched: MatchedPredictions, dense: Predictions) -> tuple[Tensor, Tensor]:
        """(T, k) tokens of each object, and (T, k) fp32 1 where it is matched, else 0."""
        targets = matched.given
        cost = matched.matcher.pairwise_cost(dense.logits.float(), dense.boxes.float(), targets)[0]
        centers = dense.reference[targets.image_index]
        corners = cxcywh_to_xyxy(targets.boxes)[:, None]
        inside = ((centers > corners[..., :2]) & (centers < corners[..., 2:])).all(-1)
        if dense.is_counted is not None:
            inside = inside & dense.is_counted[targets.image_index]
        # An object that is smaller than a cell may have no center in it: the nearest is taken.
        distance = (centers - targets.boxes[:, None, :2]).abs().sum(-1)
        if dense.is_counted is not None:
            distance = distance.masked_fill(~dense.is_counted[targets.image_index], float("inf"))
        nearest = F.one_hot(distance.argmin(1), distance.shape[1]).bool()
        inside = inside | (nearest & ~inside.any(1, keepdim=True))
        cost = cost.masked_fill(~inside, float("inf"))
        least, token = cost.topk(min(self.tokens_per_object, cost.shape[1]), dim=1, largest=False)
        # Which of the objects that would have a token costs it least.
        flat = targets.image_index[:, None] * cost.shape[1] + token
        best = cost.new_full((len(dense.boxes[0]) * cost.shape[1],), float("inf"))
        best = best.scatter_reduce(0, flat.flatten(), least.flatten(), "amin")
        return token, (least.isfinite() & (least <= best[flat])).float()


class DenoisingTerm(LossTerm):
    def __init__(self, class_term: ClassTerm, l1_weight: float, giou_weight: float) -> None:
        super().__init__(dn_class=class_term.weights["class"], dn_box=l1_weight, dn_giou=giou_weight)
        self.class_term = class_term

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        branch, targets = matched.predictions.auxiliary["denoising"], matched.given
        assignment = branch.assignment
        groups = len(assignment.target) // max(len(targets.labels), 1) // len(branch.logits)
        num_boxes = matched.num_boxes / matched.predictions.groups * max(groups, 1)
        class_loss = self.class_term.loss(branch, assignment, targets, num_boxes, branch.is_counted[None, :, :, None])
        predicted = assignment.pick(branch.boxes.float())
        expected = targets.boxes[assignment.target]
        _, giou = box_iou_pairs(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(expected))
        l1 = (predicted - expected).abs().sum(-1)
        sums = [x.new_zeros(len(branch.boxes)).index_add(0, assignment.layer, x) / num_boxes for x in (l1, 1 - giou)]
        return {"dn_class": class_loss, "dn_box": sums[0], "dn_giou": sums[1]}
