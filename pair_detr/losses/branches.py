"""Losses of training-only branches, whose queries have their objects by other rules than one-to-one matching."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.losses.terms import BoxTerm, ClassTerm, LossTerm, MatchedPredictions
from pair_detr.structures import Assignment, Predictions, Targets


class BranchTerm(LossTerm):
    """Class, L1 and GIoU losses of a branch, "<branch>_class", "<branch>_box" and "<branch>_giou"."""

    def __init__(self, branch: str, class_term: ClassTerm, box_term: BoxTerm, weight: float = 1.0) -> None:
        """
        Args:
            branch: its name in :attr:`Predictions.auxiliary`.
            class_term: gives the class loss, and its weight.
            box_term: has the weights of the others.
            weight: of the branch, a factor of these.
        """
        weights = class_term.weights | box_term.weights
        super().__init__(**{f"{branch}_{name}": weight * value for name, value in weights.items()})
        self.branch = branch
        self.class_term = class_term
        self.box_term = box_term

    def losses(self, matched: MatchedPredictions, assignment: Assignment, per_object: float) -> dict[str, Tensor]:
        """The losses under an assignment.

        Args:
            matched: of the main predictions.
            assignment: which query of the branch has which of ``matched.targets_per_image``; a query whose index is
                that after the last stands for none.
            per_object: queries that an object has, by which the losses are divided.
        """
        branch = matched.predictions.auxiliary[self.branch]
        queries = branch.boxes.shape[2]
        counted = torch.ones_like(branch.boxes[0, :, :, 0], dtype=torch.bool)
        if branch.is_counted is not None:
            counted = branch.is_counted
        # The row after the last query takes the matches with none, and is left out of the loss.
        with_none = Predictions(F.pad(branch.logits, (0, 0, 0, 1)), F.pad(branch.boxes, (0, 0, 0, 1), value=0.5))
        num_boxes = matched.num_boxes / matched.predictions.groups * per_object
        inner = replace(
            matched,
            predictions=with_none,
            targets=matched.targets_per_image,
            assignment=assignment,
            num_boxes=num_boxes,
            counted=F.pad(counted, (0, 1), value=False)[None, :, :, None],
            match_weights=(assignment.query < queries).float(),
        )
        losses = self.class_term(inner) | self.box_term(inner)
        return {f"{self.branch}_{name}": loss for name, loss in losses.items()}


class OneToManyTerm(BranchTerm):
    """The losses of a branch in which each object is matched with several queries, those of the least matching cost.

    A query that several objects would have goes to the one that it costs least. All of it happens on the device.
    Branches with ``reference``, the dense head's, match an object with queries inside its box, or with the nearest
    where there is none.

    Source: MS-DETR (arXiv 2401.03989) and DAC-DETR (NeurIPS 2023) for queries; for the dense head the candidates of
    ATSS (arXiv 1912.02424, section 3.3), in the place of the heads of Co-DETR (arXiv 2211.12860).
    """

    def __init__(self, branch: str, class_term: ClassTerm, box_term: BoxTerm, weight: float, per_object: int) -> None:
        """
        Args:
            branch: as in :class:`BranchTerm`.
            class_term: as there.
            box_term: as there.
            weight: as there.
            per_object: queries that an object has at most.
        """
        super().__init__(branch, class_term, box_term, weight)
        self.per_object = per_object

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`; sums over the queries of an object."""
        return self.losses(matched, self.assign(matched), per_object=1)

    @torch.no_grad()
    def assign(self, matched: MatchedPredictions) -> Assignment:
        """The queries of each object, as many for each; Q, that after the last, in the place of those that it lacks."""
        branch, targets = matched.predictions.auxiliary[self.branch], matched.targets_per_image
        layers, images, queries = branch.boxes.shape[:3]
        cost = matched.matcher.pairwise_cost(branch.logits.float(), branch.boxes.float(), targets)
        if branch.is_counted is not None:
            cost = cost.masked_fill(~branch.is_counted[targets.image_index], float("inf"))
        if branch.reference is not None:
            cost = cost.masked_fill(~_candidates(branch, targets), float("inf"))
        least, query = cost.topk(min(self.per_object, queries), dim=-1, largest=False)
        # What each query costs the object that it costs least.
        layer = torch.arange(layers, device=query.device)[:, None, None].expand_as(query)
        image = targets.image_index[:, None].expand_as(query)
        position = (layer * images + image) * queries + query
        best = cost.new_full((layers * images * queries,), float("inf"))
        best = best.scatter_reduce(0, position.flatten(), least.flatten(), "amin")
        is_matched = least.isfinite() & (least <= best[position])
        target = torch.arange(query.shape[1], device=query.device)[:, None].expand_as(query)
        query = torch.where(is_matched, query, queries)
        return Assignment(*(x.flatten() for x in (layer, image, query, target)))


def _candidates(branch: Predictions, targets: Targets) -> Tensor:
    """(T, Q) bool, the queries that look from inside an object's box, or else the one that looks from next to it."""
    points = branch.reference[targets.image_index]
    corners = cxcywh_to_xyxy(targets.boxes)[:, None]
    inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(-1)
    distance = (points - targets.boxes[:, None, :2]).abs().sum(-1)
    if branch.is_counted is not None:
        is_counted = branch.is_counted[targets.image_index]
        inside = inside & is_counted
        distance = distance.masked_fill(~is_counted, float("inf"))
    nearest = F.one_hot(distance.argmin(1), distance.shape[1]).bool()
    return inside | (nearest & ~inside.any(1, keepdim=True))


class DenoisingTerm(BranchTerm):
    """The losses of denoising queries, each of which has the object that it is a noisy copy of, or none."""

    def __init__(self, class_term: ClassTerm, box_term: BoxTerm, weight: float, groups: int) -> None:
        """
        Args:
            class_term: as in :class:`BranchTerm`.
            box_term: as there.
            weight: as there.
            groups: copies of each object.
        """
        super().__init__("denoising", class_term, box_term, weight)
        self.groups = groups

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`; the mean over the groups."""
        return self.losses(matched, matched.predictions.auxiliary["denoising"].assignment, per_object=self.groups)
