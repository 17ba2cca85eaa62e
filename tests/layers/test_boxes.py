"""Box arithmetic against torchvision."""

import pytest
import torch
from model_helpers import make_boxes
from torchvision.ops import box_convert, box_iou, generalized_box_iou, generalized_box_iou_loss

from pair_detr.layers import box_iou_pairs, covered_share, cxcywh_to_xyxy, inverse_sigmoid
from pair_detr.modeling.heads import LocationHead
from pair_detr.modeling.pair_detr import assemble_box


def test_pairs_are_the_diagonal_of_torchvision() -> None:
    a, b = cxcywh_to_xyxy(make_boxes(50)), cxcywh_to_xyxy(make_boxes(50))
    b[:10] = a[:10]  # the same box
    b[10:20] = a[10:20] + 5  # far away
    b[20:30, 2:] = a[20:30, 2:]  # a shared corner
    b[20:30, :2] = a[20:30, 2:] - 0.01
    iou, giou = box_iou_pairs(a, b)
    torch.testing.assert_close(iou, box_iou(a, b).diagonal())
    torch.testing.assert_close(giou, generalized_box_iou(a, b).diagonal())
    torch.testing.assert_close(1 - giou, generalized_box_iou_loss(a, b, eps=1e-12), atol=1e-6, rtol=1e-5)
    assert (iou[:10] - 1).abs().max() < 1e-6
    assert giou[10:20].max() < 0


def test_broadcasting_compares_all_with_all() -> None:
    a, b = cxcywh_to_xyxy(make_boxes(2, 4)), cxcywh_to_xyxy(make_boxes(3))
    iou, giou = box_iou_pairs(a[:, :, None], b)
    assert iou.shape == giou.shape == (2, 4, 3)
    for i in range(2):
        torch.testing.assert_close(iou[i], box_iou(a[i], b))
        torch.testing.assert_close(giou[i], generalized_box_iou(a[i], b))


def test_gradient_is_that_of_torchvision() -> None:
    a, b = cxcywh_to_xyxy(make_boxes(20)), cxcywh_to_xyxy(make_boxes(20))
    ours, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    (1 - box_iou_pairs(ours, b)[1]).sum().backward()
    generalized_box_iou_loss(theirs, b, reduction="sum", eps=1e-12).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_empty_boxes_are_finite() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    box = torch.tensor([[0.2, 0.2, 0.4, 0.4]])
    for other in (point.detach(), box):
        iou, giou = box_iou_pairs(point, other)
        assert iou.item() == 0
        assert torch.isfinite(giou).all()
        (gradient,) = torch.autograd.grad(giou.sum(), point)
        assert torch.isfinite(gradient).all()


def test_conversion_and_back() -> None:
    boxes = make_boxes(2, 3, 5)
    corners = cxcywh_to_xyxy(boxes)
    torch.testing.assert_close(corners[..., 0], boxes[..., 0] - boxes[..., 2] / 2)
    torch.testing.assert_close(corners[..., 3], boxes[..., 1] + boxes[..., 3] / 2)
    torch.testing.assert_close(box_convert(corners, "xyxy", "cxcywh"), boxes)


def test_assembled_box_has_its_corner_and_its_center() -> None:
    boxes = make_boxes(4, 6)
    assembled = assemble_box(boxes[..., :2], cxcywh_to_xyxy(boxes)[..., :2])
    torch.testing.assert_close(assembled, boxes)
    by_hand = assemble_box(torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.3]))
    torch.testing.assert_close(by_hand, torch.tensor([0.5, 0.4, 0.6, 0.2]))


def test_assembled_box_is_empty_where_the_corner_is_beyond_the_center() -> None:
    box = assemble_box(torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(box, torch.tensor([0.5, 0.5, 0.0, 0.4]))


def test_inverse_sigmoid_undoes_sigmoid() -> None:
    logits = torch.linspace(-10, 10, 41)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid()), logits, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(inverse_sigmoid(torch.tensor(0.25)), torch.tensor(1 / 3).log())


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-7, 1.0, 2.0])
def test_inverse_sigmoid_is_clamped_as_in_the_official_code(value: float) -> None:
    x = min(max(value, 0.0), 1.0)
    expected = torch.tensor(max(x, 1e-5) / max(1 - x, 1e-5)).log()
    torch.testing.assert_close(inverse_sigmoid(torch.tensor(value)), expected)


@pytest.mark.parametrize("out_dim", [2, 4])
def test_location_head_starts_at_the_reference(out_dim: int) -> None:
    head = LocationHead(16, out_dim, zero_init=True)
    reference = torch.rand(5, 2) * 0.98 + 0.01
    out = head(torch.randn(3, 2, 5, 16), reference)
    assert out.shape == (3, 2, 5, out_dim)
    torch.testing.assert_close(out[..., :2], reference.expand(3, 2, 5, 2))
    assert (out[..., 2:] == 0.5).all()


def test_location_head_adds_the_reference_to_the_first_two_logits() -> None:
    head = LocationHead(16, 4, zero_init=False)
    states, reference = torch.randn(2, 5, 16), torch.rand(5, 2) * 0.9 + 0.05
    free, anchored = head(states).logit(), head(states, reference).logit()
    torch.testing.assert_close(
        anchored[..., :2] - free[..., :2], reference.logit().expand(2, 5, 2), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(anchored[..., 2:], free[..., 2:])


def test_covered_share_by_hand() -> None:
    """Two images: two objects, which overlap, in the first one, and one in the second."""
    objects = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 1.0], [0.5, 0.25, 1.0, 0.5]])
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.875, 0.5, 0.25, 0.5], [0.25, 0.5, 0.0, 0.0]])
    found = covered_share(boxes.expand(1, 2, 3, 4), objects, torch.tensor([0, 0, 1]))
    assert found.tolist() == [[[1.0, 0.0, 1.0], [0.5, 0.5, 1.0]]]
    assert covered_share(boxes.expand(1, 2, 3, 4), objects[:0], torch.zeros(0, dtype=torch.int64)).sum() == 2


def test_covered_share_is_that_of_pixels() -> None:
    torch.manual_seed(0)
    corners = torch.randint(0, 20, (2, 6, 2, 2)).sort(dim=2).values
    query, objects = corners[0], corners[1][:1]
    grid = torch.zeros(20, 20)
    (left, top), (right, bottom) = objects[0].tolist()
    grid[top:bottom, left:right] = 1
    expected = []
    for (x0, y0), (x1, y1) in query.tolist():
        part = grid[y0:y1, x0:x1]
        expected.append(part.mean().item() if part.numel() else 1.0)
    boxes = box_convert(corners.flatten(2).float(), "xyxy", "cxcywh")
    found = covered_share(boxes[:1][None], boxes[1, :1], torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
