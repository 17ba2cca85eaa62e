"""Losses of training-only branches, whose queries have their objects by other rules than one-to-one matching."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.losses.terms import BoxTerm, ClassTerm, LossTerm, MatchedPredictions
from pair_detr.structures import Assignment, Predictions


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


class DenseTerm(BranchTerm):
    """The losses of the dense head.

    Each object is matched with the tokens of the least matching cost among those whose cells have their centers inside
    its box, or with the nearest where there is none; a token that several objects would have goes to the one that it
    costs least. All of it happens on the device.

    Source: the cost of DETR's matching with the candidates of ATSS (arXiv 1912.02424, section 3.3), in the place of
    the heads of Co-DETR (arXiv 2211.12860).
    """

    def __init__(self, class_term: ClassTerm, box_term: BoxTerm, weight: float, tokens_per_object: int) -> None:
        """
        Args:
            class_term: as in :class:`BranchTerm`.
            box_term: as there.
            weight: as there.
            tokens_per_object: at most so many have an object.
        """
        super().__init__("dense", class_term, box_term, weight)
        self.tokens_per_object = tokens_per_object

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`. A sum over the tokens of an object, as published."""
        return self.losses(matched, self.assign(matched), per_object=1)

    @torch.no_grad()
    def assign(self, matched: MatchedPredictions) -> Assignment:
        """The tokens of each object, as many for each; M, the number of tokens, in the place of those that it lacks."""
        dense, targets = matched.predictions.auxiliary["dense"], matched.targets_per_image
        num_images, num_tokens = dense.boxes.shape[1:3]
        cost = matched.matcher.pairwise_cost(dense.logits.float(), dense.boxes.float(), targets)[0]
        centers = dense.reference[targets.image_index]
        corners = cxcywh_to_xyxy(targets.boxes)[:, None]
        inside = ((centers > corners[..., :2]) & (centers < corners[..., 2:])).all(-1)
        distance = (centers - targets.boxes[:, None, :2]).abs().sum(-1)
        if dense.is_counted is not None:
            is_counted = dense.is_counted[targets.image_index]
            inside &= is_counted
            distance = distance.masked_fill(~is_counted, float("inf"))
        nearest = F.one_hot(distance.argmin(1), num_tokens).bool()
        inside |= nearest & ~inside.any(1, keepdim=True)
        cost = cost.masked_fill(~inside, float("inf"))
        least, token = cost.topk(min(self.tokens_per_object, num_tokens), dim=1, largest=False)
        # What each token costs the object that it costs least.
        position = targets.image_index[:, None] * num_tokens + token
        best = cost.new_full((num_images * num_tokens,), float("inf"))
        best = best.scatter_reduce(0, position.flatten(), least.flatten(), "amin")
        is_matched = least.isfinite() & (least <= best[position])
        target = torch.arange(len(token), device=token.device)[:, None].expand_as(token)
        image = targets.image_index[:, None].expand_as(token)
        query = torch.where(is_matched, token, num_tokens)
        return Assignment(torch.zeros_like(query).flatten(), *(x.flatten() for x in (image, query, target)))


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
