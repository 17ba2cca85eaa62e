"""Random batches, memory for the backward pass, and times in turn."""

import gc
import weakref

import numpy as np
import torch
from torch import nn

from pair_detr.analysis.speed import WARM_UP, Timing, make_batch, measure, saved_bytes, summarize, training_bytes


def test_measure_times_in_turn_and_leaves_the_warm_up_out() -> None:
    calls: list[str] = []
    seconds = measure([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3, device="cpu")
    assert calls == ["a", "b"] * (3 + WARM_UP)
    assert seconds.shape == (3, 2)
    assert (seconds > 0).all()


def test_ratios_are_those_of_a_round() -> None:
    """The machine is twice as slow in the second round; the medians of the times alone would give 20 / 10."""
    seconds = np.array([[10.0, 15.0], [20.0, 30.0], [8.0, 20.0]])
    assert summarize(seconds) == [Timing(10, 1, 1, 1), Timing(20, 1.5, 1.5, 2.5)]
    first, second = summarize(seconds, yardstick=1)
    assert (first.seconds, first.ratio, first.lowest, first.highest) == (10, 10 / 15, 0.4, 10 / 15)
    assert second == Timing(20, 1, 1, 1)


def test_random_batch_has_boxes_inside_of_the_image() -> None:
    batch = make_batch(2, (40, 80), boxes=5, num_classes=3)
    for item in batch:
        boxes = item["instances"].gt_boxes
        assert item["image"].shape == (3, 40, 80)
        assert len(boxes) == 5
        assert boxes.nonempty().all()
        assert boxes.inside_box((40, 80)).all()
        assert item["instances"].gt_classes.max() < 3


class Squares(nn.Module):
    """x * w, squared: autograd keeps the products (and x, for the gradient of w)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1000))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        x = torch.stack([item["image"] for item in batch])
        return {"loss": ((x * self.w) ** 2).sum()}


def test_saved_bytes_count_what_backward_needs_once() -> None:
    batch = [{"image": torch.rand(1000)} for _ in range(3)]
    assert training_bytes(Squares(), batch, "cpu", "fp32") == 2 * 3 * 1000 * 4


def test_counting_bytes_keeps_nothing() -> None:
    """An exponential saves its own result: handed back as it is, it would keep itself."""
    kept: list[weakref.ref[torch.Tensor]] = []
    x = torch.randn(10, requires_grad=True)

    def forward() -> None:
        result = x.exp()
        kept.append(weakref.ref(result))

    assert saved_bytes(forward, [x]) == 40
    gc.collect()
    assert kept[0]() is None


def test_bytes_for_the_backward_pass_by_hand() -> None:
    """A product keeps both factors, an exponential its result; inputs do not count, and nothing counts twice."""
    x, y = torch.randn(10, requires_grad=True), torch.randn(10)
    assert saved_bytes(lambda: x * y, [x, y]) == 0
    assert saved_bytes(lambda: x * y, [x]) == 40
    assert saved_bytes(lambda: (x * y).exp().exp() * y, [x, y]) == 80
    assert saved_bytes(lambda: (z := x * y) * z, [x, y]) == 40
