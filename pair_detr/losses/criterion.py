"""Training losses of a set of predictions (DETR, section 3.1)."""

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from pair_detr.config.variants import variant_of
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.masks import MaskTerm
from pair_detr.losses.matcher import HungarianMatcher, NonFiniteCostError
from pair_detr.losses.terms import LossTerm, MatchedPredictions
from pair_detr.structures import Predictions, Targets
from pair_detr.utils.distributed import mean_over_processes


class SetCriterion(nn.Module):
    """The weighted sum of loss terms under a one-to-one matching of each decoder layer."""

    @configurable
    def __init__(self, *, matcher: HungarianMatcher, terms: Iterable[LossTerm]) -> None:
        """
        Args:
            matcher: assigns objects to queries.
            terms: what the loss consists of; no two losses have the same name.
        """
        super().__init__()
        self.matcher = matcher
        self.terms = nn.ModuleList(terms)
        counts = Counter(name for term in self.terms for name in term.weights)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"Several loss terms are called {', '.join(repeated)}: give each loss a name of its own.")

    @classmethod
    def from_config(
        cls, cfg: CfgNode, class_scoring: ClassScoring, federated_sampler: FederatedLossSampler | None = None
    ) -> dict[str, Any]:
        """Builds the matcher, and the terms of the variant that MODEL.DETR.VARIANT names."""
        cost, loss = cfg.MODEL.DETR.COST, cfg.MODEL.DETR.LOSS
        terms = [MaskTerm(loss.MASK, loss.DICE)] if cfg.MODEL.MASK_ON else []
        if not (cfg.MODEL.MASK_ON and cfg.MODEL.DETR.MASK.FREEZE_DETECTOR):
            # USER: a term of your own can be added here, for all variants.
            terms = [*variant_of(cfg).loss_terms(cfg, class_scoring, federated_sampler), *terms]
        class_weight = class_scoring.default_weight if cost.CLASS < 0 else cost.CLASS
        return {"matcher": HungarianMatcher(class_scoring, class_weight, cost.L1, cost.GIOU), "terms": terms}

    def forward(
        self, predictions: Predictions, targets: Targets, mask_head: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Computes the weighted losses, in fp32 also under autocast.

        Args:
            predictions: of the detector.
            targets: of the batch.
            mask_head: predicts the masks of matched queries, in models with masks.

        Returns:
            The last decoder layer's loss terms as "loss_class", "loss_box", "loss_giou", and the sums over the layers
            before it as "loss_class_aux" and so on. Terms are there, connected to the graph, also for empty images.
            Images whose objects are not known have zeros with gradients of zero.
            Sums over objects and queries are divided by the number of objects in the batches of all processes, but at
            least by 1, and multiplied by the number of processes, over which the gradients are averaged. Official DETR
            divides by at least 1 in each process: the same, but for steps with fewer objects than processes, whose
            losses then depend on the number of processes.

        Raises:
            NonFiniteCostError: see :class:`HungarianMatcher`.
        """
        device = predictions.boxes.device.type
        per_image, targets = targets, targets.repeat_images(predictions.groups)
        with torch.autocast(device, enabled=False):
            try:
                assignment = self.matcher(predictions.logits, predictions.boxes, targets)
            except NonFiniteCostError as error:
                error.image //= predictions.groups
                raise
            count = torch.full((), float(len(per_image.labels)), device=predictions.boxes.device)
            # Processes with image labels also take part in all sums over processes, or the others would wait for them.
            num_boxes = mean_over_processes(count, targets.has_boxes, minimum_sum=1) * predictions.groups
        matched = MatchedPredictions(predictions, targets, assignment, num_boxes, self.matcher, mask_head, per_image)
        losses = {}
        for term in self.terms:
            with nullcontext() if term.uses_autocast else torch.autocast(device, enabled=False):
                by_name = term(matched)
            if by_name.keys() != term.weights.keys():
                raise ValueError(
                    f"{type(term).__name__} returns the losses {', '.join(by_name)}, but has weights for "
                    f"{', '.join(term.weights)}: return all of these, each (layers,) or (1,), and no other."
                )
            for name, by_layer in by_name.items():
                by_layer = by_layer * (term.weights[name] * targets.has_boxes)
                losses[f"loss_{name}"] = by_layer[-1]
                if len(by_layer) > 1:
                    losses[f"loss_{name}_aux"] = by_layer[:-1].sum()
        return losses
