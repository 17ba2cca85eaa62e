"""The bias of attention by boxes against a loop over cells and corners."""

import math

import torch
from model_helpers import make_boxes
from torch import Tensor

from pair_detr.layers import BoxBias

BATCH, QUERIES, HEIGHT, WIDTH, HEADS = 2, 3, 4, 5, 4


def make_centers() -> Tensor:
    """(B, H, W, 2); cells of the second image are larger, as in a padded batch."""
    x, y = (torch.arange(WIDTH) + 0.5) / WIDTH, (torch.arange(HEIGHT) + 0.5) / HEIGHT
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return torch.stack((grid, (grid * torch.tensor([1.25, 1.75])).clamp(max=1)))


def compress(distance: float) -> float:
    return math.copysign(math.log2(1 + 8 * abs(distance)) / math.log2(8), distance) if distance else 0.0


@torch.no_grad()
def test_against_a_loop() -> None:
    bias, boxes, centers = BoxBias(HEADS, hidden_dim=6), make_boxes(BATCH, QUERIES), make_centers()
    found = bias(boxes, centers)
    assert found.shape == (BATCH, HEADS, QUERIES, HEIGHT * WIDTH)
    for image in range(BATCH):
        for query, (cx, cy, w, h) in enumerate(boxes[image].tolist()):
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    x, y = centers[image, row, column].tolist()
                    along_x = torch.tensor([compress(x - cx + w / 2), compress(x - cx - w / 2)])
                    along_y = torch.tensor([compress(y - cy + h / 2), compress(y - cy - h / 2)])
                    expected = bias.x(along_x) + bias.y(along_y)
                    actual = found[image, :, query, row * WIDTH + column]
                    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_boxes_at_the_edges_are_finite() -> None:
    """Among them points, and corners right at centers of cells, where the distance is zero."""
    bias, centers = BoxBias(HEADS), make_centers()[:1]
    boxes = torch.tensor([[[0.0, 0, 0, 0], [1, 1, 0, 0], [0.5, 0.5, 1, 1], [0.1, 0.125, 0, 0], [1.5, -0.5, 3, 3]]])
    found = bias(boxes, centers)
    assert found.isfinite().all()
    found.square().sum().backward()
    for name, parameter in bias.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_it_follows_the_layout_and_precision() -> None:
    """Under autocast it is what the attention takes."""
    bias, boxes, centers = BoxBias(HEADS), make_boxes(BATCH, QUERIES), make_centers()
    expected = bias(boxes, centers)
    with torch.autocast("cpu", torch.bfloat16):
        found = bias(boxes, centers)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
