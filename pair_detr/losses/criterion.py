"""Training losses of a set of predictions (DETR, section 3.1), and what Pair DETR adds to them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from pair_detr.layers import box_iou_pairs, cxcywh_to_xyxy
from pair_detr.losses.classification import Classification
from pair_detr.losses.contrastive import CONTRASTIVE_LOSSES
from pair_detr.losses.federated import ClassSelection
from pair_detr.losses.masks import MaskCriterion
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.structures import Assignment, Predictions, Targets
from pair_detr.utils.distributed import mean_over_processes


class SetCriterion(nn.Module):
    """Classification, L1 and generalised IoU losses under a one-to-one matching of each decoder layer."""

    @configurable
    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        classification: Classification,
        weights: dict[str, float],
        class_selection: ClassSelection | None = None,
        masks: MaskCriterion | None = None,
        masks_only: bool = False,
    ) -> None:
        """
        Args:
            matcher: assigns objects to queries.
            classification: gives the classification loss.
            weights: weight of each loss term, by its name.
            class_selection: the classes that take part in the classification loss; None for all.
            masks: supervises masks; None for a model without.
            masks_only: leave out all other losses.
        """
        super().__init__()
        self.matcher = matcher
        self.classification = classification
        self.weights = weights
        self.class_selection = class_selection
        self.masks = masks
        self.masks_only = masks_only

    @classmethod
    def from_config(cls, cfg: CfgNode, classification: Classification) -> dict[str, Any]:
        """Reads the weights under MODEL.DETR and builds the matcher."""
        cost, loss = cfg.MODEL.DETR.COST, cfg.MODEL.DETR.LOSS

        def class_weight(value: float) -> float:
            return classification.default_weight if value < 0 else value

        return {
            "matcher": HungarianMatcher(classification, class_weight(cost.CLASS), cost.L1, cost.GIOU),
            "classification": classification,
            "weights": {"class": class_weight(loss.CLASS), "box": loss.L1, "giou": loss.GIOU},
            "masks": MaskCriterion(loss.MASK, loss.DICE) if cfg.MODEL.MASK_ON else None,
            "masks_only": cfg.MODEL.MASK_ON and cfg.MODEL.DETR.MASK.FREEZE_DETECTOR,
        }

    def forward(
        self, predictions: Predictions, targets: Targets, mask_head: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Computes the weighted losses, in fp32 under autocast, too.

        Args:
            predictions: of the detector.
            targets: of the batch.
            mask_head: predicts the masks of matched queries, in models with masks.

        Returns:
            The last decoder layer's loss terms as "loss_class", "loss_box", "loss_giou", and the sums over the layers
            before it as "loss_class_aux" and so on; in models with masks those of :class:`MaskCriterion`. Terms are
            there, connected to the graph, for empty images, too.
            Images whose objects are not known have zeros with gradients of zero.
            Sums over objects and queries are divided by the number of objects in the batches of all processes, but at
            least by 1, and multiplied by the number of processes, over which the gradients are averaged. Official DETR
            divides by at least 1 in each process: the same, but for steps with fewer objects than processes, whose
            losses then depend on the number of processes.

        Raises:
            NonFiniteCostError: see :class:`HungarianMatcher`.
        """
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            assignment = self.matcher(predictions.logits, predictions.boxes, targets)
            count = torch.full((), float(len(targets.labels)), device=predictions.boxes.device)
            # Processes with image labels take part in all sums over processes, too, or the others would wait for them.
            num_boxes = mean_over_processes(count, targets.has_boxes, minimum_sum=1)
            terms = {} if self.masks_only else self.layer_terms(predictions, targets, assignment, num_boxes)
        losses = {}
        for name, by_layer in terms.items():
            by_layer = by_layer * (self.weights[name] * targets.has_boxes)
            losses[f"loss_{name}"] = by_layer[-1]
            if len(by_layer) > 1:
                losses[f"loss_{name}_aux"] = by_layer[:-1].sum()
        if self.masks is not None:
            losses |= self.masks(mask_head, predictions.mask_queries, targets, assignment, num_boxes)
        return losses

    def layer_terms(
        self, predictions: Predictions, targets: Targets, assignment: Assignment, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """The unweighted loss terms by name, each (layers,) with the last layer last."""
        matched = assignment.pick(predictions.boxes.float())
        wanted = targets.boxes[assignment.target]
        _, giou = box_iou_pairs(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(wanted))
        num_layers = len(predictions.boxes)
        selected = None if self.class_selection is None else self.class_selection(targets.labels)
        logits = predictions.logits.float()
        return {
            "class": self.classification.loss(logits, assignment, targets, num_boxes, selected),
            "box": sum_by_layer(F.l1_loss(matched, wanted, reduction="none").sum(-1), assignment, num_layers)
            / num_boxes,
            "giou": sum_by_layer(1 - giou, assignment, num_layers) / num_boxes,
        }


class PairCriterion(SetCriterion):
    """Adds the L1 loss of the top-left corners, under the same matching, and the pair association loss."""

    @configurable
    def __init__(
        self,
        *,
        contrastive_loss: Callable[[Tensor, Tensor, float], Tensor],
        temperature: float,
        **shared: Any,
    ) -> None:
        """
        Args:
            contrastive_loss: one of :data:`pair_detr.losses.contrastive.CONTRASTIVE_LOSSES`.
            temperature: of that loss.
            shared: see :class:`SetCriterion`.
        """
        super().__init__(**shared)
        self.contrastive_loss = contrastive_loss
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg: CfgNode, classification: Classification) -> dict[str, Any]:
        """Reads the weights under MODEL.DETR and builds the matcher."""
        pair = cfg.MODEL.DETR.PAIR
        shared = super().from_config(cfg, classification)
        shared["weights"] |= {"top_left": pair.TOP_LEFT_WEIGHT, "pair": pair.CONTRASTIVE_WEIGHT}
        return shared | {
            "contrastive_loss": CONTRASTIVE_LOSSES[pair.CONTRASTIVE_LOSS],
            "temperature": pair.TEMPERATURE,
        }

    def layer_terms(
        self, predictions: Predictions, targets: Targets, assignment: Assignment, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`SetCriterion.layer_terms`."""
        terms = super().layer_terms(predictions, targets, assignment, num_boxes)
        matched = assignment.pick(predictions.top_left)
        wanted = cxcywh_to_xyxy(targets.boxes)[assignment.target, :2]
        distance = F.l1_loss(matched, wanted, reduction="none").sum(-1)
        terms["top_left"] = sum_by_layer(distance, assignment, len(predictions.boxes)) / num_boxes
        if self.weights["pair"] > 0:
            terms["pair"] = self.contrastive_loss(*predictions.pair_embeddings, self.temperature).mean(-1)
        return terms


def sum_by_layer(values: Tensor, assignment: Assignment, num_layers: int) -> Tensor:
    """(N,) values of matches -> (num_layers,)."""
    return values.new_zeros(num_layers).index_add(0, assignment.layer, values)
