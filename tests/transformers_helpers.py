"""The models of transformers, fed and read out like those of this package."""

from typing import Any

import torch
from conversion_helpers import laid_out
from torch import Tensor, nn

from pair_detr.checkpoint.formats.registry import layout_named

_MEAN, _STD = (torch.tensor(x)[:, None, None] for x in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))


def their_state_dict(model: nn.Module, variant: str, backbone: str = "resnet") -> dict[str, Tensor]:
    """Our state dict under the names that transformers 5 has in memory."""
    name = "DETR" if variant == "detr" else "Conditional DETR"
    return laid_out(model.state_dict(), layout_named(f"transformers 5.x ({backbone} backbone) {name}"))


def their_inputs(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Normalized images, zero in the padding, and a mask that is 1 on the image."""
    height, width = (max(item["image"].shape[i] for item in batch) for i in (1, 2))
    images, mask = torch.zeros(len(batch), 3, height, width), torch.zeros(len(batch), height, width, dtype=torch.long)
    for i, item in enumerate(batch):
        h, w = item["image"].shape[1:]
        images[i, :, :h, :w] = (item["image"] - _MEAN) / _STD
        mask[i, :h, :w] = 1
    return {"pixel_values": images, "pixel_mask": mask}


def their_labels(batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """Normalized cxcywh boxes and classes."""
    labels = []
    for item in batch:
        height, width = item["image"].shape[1:]
        x0, y0, x1, y1 = item["instances"].gt_boxes.tensor.unbind(1)
        boxes = torch.stack(((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height), 1)
        labels.append({"class_labels": item["instances"].gt_classes, "boxes": boxes})
    return labels


@torch.no_grad()
def their_layers(theirs: nn.Module, batch: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """(L, B, Q, C) logits and (L, B, Q, 4) boxes of every decoder layer, each through the decoder's norm.

    With ``auxiliary_loss`` transformers feeds the normed state to the next layer, hence this way round it.
    """
    outputs = theirs(**their_inputs(batch), output_hidden_states=True)
    hidden = outputs.decoder_hidden_states[-theirs.config.decoder_layers : -1]
    states = torch.stack([theirs.model.decoder.layernorm(s) for s in hidden])
    states = torch.cat((states, outputs.last_hidden_state[None]))
    boxes = theirs.bbox_predictor(states)
    if hasattr(theirs.model.decoder, "ref_point_head"):
        # The official formula: a logit whose two terms are clamped at 1e-5 apart from each other.
        reference = theirs.model.decoder.ref_point_head(theirs.model.query_position_embeddings.weight).sigmoid()
        boxes[..., :2] += torch.log(reference.clamp(min=1e-5) / (1 - reference).clamp(min=1e-5))
    boxes = boxes.sigmoid()
    torch.testing.assert_close(boxes[-1], outputs.pred_boxes, atol=1e-6, rtol=0)
    return theirs.class_labels_classifier(states), boxes


def their_losses(theirs: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Their loss terms under our names, weighted with the published weights.

    The weight of the class loss, 2 for Conditional DETR, is ours: transformers ignores it.
    """
    logits, boxes = their_layers(theirs, batch)
    theirs.config.auxiliary_loss = True
    _, terms, _ = theirs.loss_function(
        logits[-1], their_labels(batch), logits.device, boxes[-1], theirs.config, logits, boxes
    )
    theirs.config.auxiliary_loss = False
    class_weight = 2.0 if "Conditional" in type(theirs).__name__ else 1.0
    losses = {}
    for name, their_name, weight in (
        ("loss_class", "loss_ce", class_weight),
        ("loss_box", "loss_bbox", 5.0),
        ("loss_giou", "loss_giou", 2.0),
    ):
        losses[name] = weight * terms[their_name]
        losses[f"{name}_aux"] = weight * sum(terms[f"{their_name}_{i}"] for i in range(len(boxes) - 1))
    return losses
