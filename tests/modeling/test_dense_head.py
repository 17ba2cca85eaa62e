"""The head on the encoder's tokens, which of them are selected, and where they lie."""

import pytest
import torch
from detectron2.modeling import build_model
from model_helpers import as_batch, build, make_batch, tiny_cfg
from torch import Tensor, nn

from pair_detr.modeling.dense_head import DenseHead, select_tokens
from pair_detr.modeling.detector import cell_centers
from pair_detr.structures import Batch, Memory


def key_mask(counts: tuple[int, ...], tokens: int) -> Tensor:
    """(B, 1, 1, M), the first so many of each image valid."""
    return (torch.arange(tokens) < torch.tensor(counts)[:, None])[:, None, None]


def test_the_best_classes_come_first() -> None:
    logits = torch.tensor([[[0.0, 3.0], [5.0, -9.0], [1.0, 1.0], [-1.0, 4.0]]])
    assert select_tokens(logits.amax(-1), None, 3).tolist() == [[1, 3, 0]]
    assert select_tokens(logits.amax(-1), None, 4).tolist() == [[1, 3, 0, 2]]


def test_fewer_tokens_than_queries() -> None:
    """The best are there several times, all equally often, or once more."""
    logits = torch.tensor([[[0.0], [2.0], [1.0]], [[5.0], [6.0], [7.0]]])
    assert select_tokens(logits.amax(-1), None, 8).tolist() == [[1, 2, 0, 1, 2, 0, 1, 2], [2, 1, 0, 2, 1, 0, 2, 1]]


@pytest.mark.parametrize("count", [1, 4, 6, 11])
def test_padding_is_never_selected(count: int) -> None:
    """It has the highest scores; the second image has fewer tokens than queries."""
    valid, tokens = (6, 3, 1), 9
    logits = torch.randn(3, tokens, 5)
    mask = key_mask(valid, tokens)
    logits = torch.where(mask[:, 0, 0, :, None], logits, logits + 100)
    found = select_tokens(logits.amax(-1), mask, count)
    assert found.shape == (3, count)
    for image, number in enumerate(valid):
        order = logits[image, :number].amax(-1).argsort(descending=True).tolist()
        assert found[image].tolist() == [order[i % number] for i in range(count)]
    # Each image as it would be alone.
    for image, number in enumerate(valid):
        assert torch.equal(select_tokens(logits[image : image + 1, :number].amax(-1), None, count)[0], found[image])


def test_predictions_of_tokens() -> None:
    head = DenseHead(16, lambda dim: nn.Linear(dim, 3))
    memory = Memory(torch.randn(2, 6, 16), torch.zeros(1, 6, 16), key_mask((6, 4), 6), centers=torch.rand(2, 2, 3, 2))
    found = head(memory)
    assert found.logits.shape == (1, 2, 6, 3)
    torch.testing.assert_close(found.logits[0], head.class_head(head.norm(head.project(memory.tokens))))
    # Boxes start at the centers, mid-size.
    torch.testing.assert_close(found.boxes[0, ..., :2], memory.centers.flatten(1, 2))
    assert (found.boxes[..., 2:] == 0.5).all()
    assert torch.equal(found.reference, memory.centers.flatten(1, 2))
    assert found.is_counted.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    memory.key_mask = None
    assert head(memory).is_counted is None


@pytest.mark.parametrize("size", [0.5, 0.25, 0.9])
def test_boxes_start_with_the_config_s_size(size: float) -> None:
    cfg = tiny_cfg("conditional_detr", DENSE__ENABLED=True, DENSE__BOX_SIZE=size)
    head = build_model(cfg).detector.query_builder.dense_head
    memory = Memory(torch.randn(1, 4, 32), torch.zeros(1, 4, 32), None, centers=torch.rand(1, 2, 2, 2))
    torch.testing.assert_close(head(memory).boxes[0, ..., 2:], torch.full((1, 4, 2), size))


def test_centers_of_cells_without_padding() -> None:
    """Of 2 x 3 cells."""
    found = cell_centers(as_batch(torch.zeros(1, 3, 16, 24)), 2, 3)
    xs, ys = (1 / 6, 3 / 6, 5 / 6), (1 / 4, 3 / 4)
    torch.testing.assert_close(found, torch.tensor([[[[x, y] for x in xs] for y in ys]]))


@pytest.mark.parametrize("spans", [False, True])
def test_centers_of_cells_with_padding(spans: bool) -> None:
    """Of 8 pixels each; an image of 16 x 8 pixels in one of 16 x 24, and relative to which boxes are."""
    sizes = [(16, 24), (16, 8), (8, 24)]
    mask = torch.ones(3, 16, 24, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        mask[i, :height, :width] = False
    batch = Batch(torch.zeros(3, 3, 16, 24), None if spans else mask, sizes, sizes, boxes_span_padding=spans)
    found = cell_centers(batch, 2, 3)
    of_frame = torch.tensor([[[4 / 24, 4 / 16], [12 / 24, 4 / 16], [20 / 24, 4 / 16]]])
    of_frame = torch.cat((of_frame, of_frame + torch.tensor([0, 8 / 16])))
    torch.testing.assert_close(found[0], of_frame)
    if spans:
        assert torch.equal(found[1], found[0])
        assert torch.equal(found[2], found[0])
    else:
        # The first column of cells is the image; those beside it have its last pixel.
        torch.testing.assert_close(found[1, 0, :, 0], torch.tensor([0.5, 1, 1]))
        torch.testing.assert_close(found[1, :, 0, 1], torch.tensor([0.25, 0.75]))
        torch.testing.assert_close(found[2, :, 0, 1], torch.tensor([0.5, 1]))
        torch.testing.assert_close(found[2, 0, :, 0], torch.tensor([4, 12, 20]) / 24)


def test_centers_of_a_model_with_a_fixed_size() -> None:
    """Boxes are relative to the padded image there, and so are centers; nothing is masked."""
    cfg = tiny_cfg("conditional_detr", DENSE__ENABLED=True)
    cfg.INPUT.FIXED_SIZE = (64, 96)
    model = build(cfg)
    with torch.no_grad():
        memory = model.detector.encode(model.preprocess(make_batch([(40, 48), (64, 96)], [0, 0])))
    assert memory.key_mask is None
    assert memory.centers.shape == (2, 8, 12, 2)
    assert torch.equal(memory.centers[0], memory.centers[1])
    torch.testing.assert_close(memory.centers[0, 0, 0], torch.tensor([4 / 96, 4 / 64]))
    torch.testing.assert_close(memory.centers[0, -1, -1], torch.tensor([92 / 96, 60 / 64]))


def test_models_without_the_head_have_no_centers() -> None:
    model = build(tiny_cfg("conditional_detr"))
    assert model.detector.encode(model.preprocess(make_batch([(40, 48)], [0]))).centers is None
