"""Losses of masks against values by hand, and what the criterion does with them."""

import math

import pytest
import torch
import torch.nn.functional as F
from model_helpers import VARIANTS, build
from segmentation_helpers import make_mask_batch, mask_cfg, naive_masks

from pair_detr.losses.masks import dice_loss, mask_losses
from pair_detr.structures import Assignment

SIZES = [(61, 90), (97, 43), (50, 50)]
COUNTS = [3, 0, 2]


def test_dice_by_hand() -> None:
    # Probabilities 0.5, 0.75, 0.25, 0; the target has the first two pixels: 1 - (2 * 1.25 + 1) / (1.5 + 2 + 1).
    logits = torch.tensor([[0.0, math.log(3), -math.log(3), -100.0], [100.0, 100.0, -100.0, -100.0]])
    target = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]])
    torch.testing.assert_close(dice_loss(logits, target), torch.tensor([1 - 3.5 / 4.5, 0.0]))


def test_focal_by_hand() -> None:
    """At the size of the target nothing is resized; the mean of 0.25 (1 - p)^2 (-log p) and 0.75 p^2 (-log (1 - p))."""
    logits = torch.tensor([[[0.0, math.log(3)], [-math.log(3), math.log(3)]]])
    target = torch.tensor([[[True, True], [False, False]]])
    expected = (
        0.25 * 0.25 * math.log(2)
        + 0.25 * 0.0625 * -math.log(0.75)
        + 0.75 * 0.0625 * -math.log(0.75)
        + 0.75 * 0.5625 * math.log(4)
    ) / 4
    focal, _ = mask_losses(logits, target)
    torch.testing.assert_close(focal, torch.tensor([expected]))


def test_masks_are_upsampled_between_the_centers_of_pixels() -> None:
    """Twice the size: the new pixels are 3/4 of the nearest and 1/4 of the next, the outer ones those at the border."""
    logits = torch.tensor([[[-4.0, 4.0]]])
    target = torch.tensor([[[False, False, True, True]]]).expand(1, 2, 4)
    focal, dice = mask_losses(logits, target)
    full = torch.tensor([[-4.0, -2.0, 2.0, 4.0]]).expand(2, 4).reshape(1, 8)
    torch.testing.assert_close(dice, dice_loss(full, target.reshape(1, 8).float()))
    # All pixels are on the right side, half of them with logits of 4, half of 2.
    error = 1 / (1 + torch.tensor([4.0, 2.0]).exp())
    expected = (error**2 * -(1 - error).log()).mean() * (0.25 + 0.75) / 2
    torch.testing.assert_close(focal, expected[None])


def test_many_masks_are_as_each_alone() -> None:
    """More than are in memory at a time, with their gradients."""
    torch.manual_seed(0)
    logits = torch.randn(37, 5, 7).requires_grad_()
    targets = torch.rand(37, 19, 28) > 0.5
    weight = torch.rand(2, 37)

    def total(focal: torch.Tensor, dice: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (weight[0] * focal + weight[1] * dice).sum()

    (grad,) = torch.autograd.grad(total(*mask_losses(logits, targets), weight), logits)
    alone = sum(total(*mask_losses(logits[i : i + 1], targets[i : i + 1]), weight[:, i : i + 1]) for i in range(37))
    (expected,) = torch.autograd.grad(alone, logits)
    torch.testing.assert_close(grad, expected)
    plain = F.interpolate(logits[:, None], size=(19, 28), mode="bilinear", align_corners=False).flatten(1)
    flat = targets.flatten(1).float()
    error = torch.where(targets.flatten(1), 1 - plain.sigmoid(), plain.sigmoid())
    focal = (
        torch.where(targets.flatten(1), 0.25, 0.75)
        * error**2
        * F.binary_cross_entropy_with_logits(plain, flat, reduction="none")
    ).mean(1)
    torch.testing.assert_close(mask_losses(logits, targets)[0], focal)


def test_no_masks() -> None:
    logits = torch.zeros(0, 5, 7, requires_grad=True)
    focal, dice = mask_losses(logits, torch.zeros(0, 19, 28, dtype=torch.bool))
    assert focal.shape == dice.shape == (0,)
    (focal.sum() + dice.sum()).backward()


def test_last_layer_of_an_assignment() -> None:
    """Two queries for three objects of the first image, no object in the second, one in the third; three layers."""
    rows = []
    for layer, query_of_third in enumerate((0, 1, 1)):
        rows += [(layer, 0, query, target) for query, target in ((layer % 2, 0), (1 - layer % 2, 2))]
        rows.append((layer, 2, query_of_third, 3))
    last, counts = Assignment(*torch.tensor(rows).T).last_layer([3, 0, 1], num_queries=2)
    assert counts == [2, 0, 1]
    assert torch.stack((last.layer, last.image, last.query, last.target), 1).tolist() == [
        [2, 0, 0, 0],
        [2, 0, 1, 2],
        [2, 2, 1, 3],
    ]
    nothing, counts = Assignment(*torch.zeros(4, 0, dtype=torch.long)).last_layer([0, 0], num_queries=2)
    assert counts == [0, 0]
    assert len(nothing.query) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_of_a_model(variant: str) -> None:
    """Those of the queries that the last layer's matching chose, over the canvas of the batch and the objects of it."""
    model = build(mask_cfg(variant, LOSS__MASK=3.0, LOSS__DICE=0.5)).train()
    batch = make_mask_batch(SIZES, COUNTS)
    losses = model(batch)
    images = model.preprocess(batch)
    predictions, targets = model.detector(images), model.pack_targets(batch, images)
    assignment = model.criterion.matcher(predictions.logits, predictions.boxes, targets)
    masks = naive_masks(model.detector.mask_head, predictions.mask_queries)
    objects = [mask for item in batch for mask in item["instances"].gt_masks.tensor]
    dice = focal = 0.0
    matches = 0
    for layer, image, query, target in zip(*(x.tolist() for x in vars(assignment).values()), strict=True):
        if layer != len(predictions.logits) - 1:
            continue
        canvas = torch.zeros(1, 97, 90)
        height, width = objects[target].shape
        canvas[0, :height, :width] = objects[target]
        assert (height, width) == SIZES[image]
        upsampled = F.interpolate(masks[image, query][None, None], size=(97, 90), mode="bilinear", align_corners=False)
        dice += dice_loss(upsampled.flatten(1), canvas.flatten(1)).sum()
        prob = torch.where(canvas.bool(), upsampled[0].sigmoid(), 1 - upsampled[0].sigmoid())
        alpha = torch.where(canvas.bool(), 0.25, 0.75)
        focal += (alpha * (1 - prob) ** 2 * -prob.log()).mean()
        matches += 1
    assert matches == sum(COUNTS)
    torch.testing.assert_close(losses["loss_mask"], 3.0 * focal / 5)
    torch.testing.assert_close(losses["loss_dice"], 0.5 * dice / 5)
