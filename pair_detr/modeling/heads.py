"""Prediction heads on decoder states; one head serves all layers."""

import math

import torch
from torch import Tensor, nn

from pair_detr.layers import MLP, FullPrecision, inverse_sigmoid

# Of sizes, as of Detectron2's boxes: exp would overflow.
_MAX_LOG_FACTOR = math.log(1000 / 16)


class LinearClassifier(FullPrecision, nn.Linear):
    """(..., D) states -> (..., C) logits."""

    def split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(..., C) logits of classes alone -> the same, and (...) of an object of any class."""
        return logits, logits.amax(-1)

    def forward(self, states: Tensor) -> Tensor:
        """See the class."""
        return super().forward(states.to(self.weight.dtype))


def classification_head(dim: int, num_classes: int, prior_prob: float | None) -> LinearClassifier:
    """Linear classifier.

    Args:
        dim: width of the decoder's states.
        num_classes: rows, with the no-object class if there is one.
        prior_prob: every class's probability at the start, for sigmoid classifiers (arXiv 1708.02002, section 4.1);
            None keeps torch's initialization.
    """
    head = LinearClassifier(dim, num_classes)
    if prior_prob is not None:
        nn.init.constant_(head.bias, -math.log((1 - prior_prob) / prior_prob))
    return head


class LocationHead(FullPrecision, nn.Module):
    """Three-layer perceptron that predicts a box or a point, as an offset to reference points where there are any."""

    def __init__(self, dim: int, out_dim: int, zero_init: bool, relative: bool = False) -> None:
        """
        Args:
            dim: width of the decoder's states.
            out_dim: 4 for a box (cxcywh), 2 for a point (xy).
            zero_init: start with all predictions at the reference point, as Conditional DETR does.
            relative: offsets are in units of a reference box's size, and sizes factors of it, as in Plain DETR (arXiv
                2308.01904, section 4.3); else both are differences of logits.
        """
        super().__init__()
        self.relative = relative
        self.mlp = MLP(dim, dim, out_dim, 3)
        if zero_init:
            nn.init.zeros_(self.mlp.layers[-1].weight)
            nn.init.zeros_(self.mlp.layers[-1].bias)

    def forward(self, states: Tensor, reference: Tensor | None = None) -> Tensor:
        """Predicts locations.

        Args:
            states: (..., Q, D).
            reference: (Q, 2) or (B, Q, 2) points, or (.., 4) boxes cxcywh, in 0..1, that as many outputs start from.

        Returns:
            (..., Q, out_dim) fp32 in 0..1; boxes relative to others may reach beyond.
        """
        logits = self.mlp(states.to(self.mlp.layers[0].weight.dtype)).float()
        if self.relative and reference is not None and reference.shape[-1] == 4:
            center, size = reference.split(2, dim=-1)
            factor = logits[..., 2:].clamp(max=_MAX_LOG_FACTOR).exp()
            return torch.cat((center + logits[..., :2] * size, size * factor), dim=-1)
        if reference is not None:
            start = inverse_sigmoid(reference[..., : logits.shape[-1]])
            width = start.shape[-1]
            logits = torch.cat((logits[..., :width] + start, logits[..., width:]), dim=-1)
        return logits.sigmoid()
