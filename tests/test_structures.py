"""Objects and matches of groups of queries."""

import pytest
import torch
from model_helpers import make_predictions, make_targets

from pair_detr.losses.classification import SigmoidFocal
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.structures import Assignment, Queries, Targets


def test_repeated_images() -> None:
    targets = make_targets((2, 0, 1))
    found = targets.repeat_images(3)
    assert found.counts == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    assert found.image_index.tolist() == [0, 0, 1, 1, 2, 2, 6, 7, 8]
    order = [0, 1, 0, 1, 0, 1, 2, 2, 2]
    assert torch.equal(found.boxes, targets.boxes[order])
    assert torch.equal(found.labels, targets.labels[order])
    assert targets.repeat_images(1) is targets


def test_repeated_images_without_objects() -> None:
    found = make_targets((0, 0)).repeat_images(2)
    assert found.counts == [0] * 4
    assert found.boxes.shape == (0, 4)
    assert found.has_boxes
    labeled = Targets.pack_image_labels([torch.tensor([1]), torch.tensor([0, 2])]).repeat_images(2)
    assert not labeled.has_boxes
    assert labeled.image_labels.counts == [1, 2]


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("queries", [2, 7])
def test_matches_of_the_last_layer_and_the_first_group(queries: int, groups: int) -> None:
    """Also where images have more objects than queries."""
    counts, layers = (3, 0, 1, 4), 2
    targets = make_targets(counts)
    predictions = make_predictions(layers, len(counts) * groups, queries, 3)
    repeated = targets.repeat_images(groups)
    matcher = HungarianMatcher(SigmoidFocal(), 2.0, 5.0, 2.0)
    assignment = matcher(predictions.logits, predictions.boxes, repeated)
    found, matched = assignment.last_layer(counts, queries, groups)
    assert matched == [min(count, queries) for count in counts]
    # The first group alone, matched by itself.
    of_group = predictions.logits[-1:, ::groups], predictions.boxes[-1:, ::groups]
    expected = matcher(*of_group, targets)
    assert (found.layer == layers - 1).all()
    for name in ("image", "query", "target"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_no_matches() -> None:
    found, matched = Assignment(*torch.zeros(4, 0, dtype=torch.long)).last_layer([0, 0], 2, groups=3)
    assert matched == [0, 0]
    assert len(found.query) == 0


def test_queries_are_narrowed_to_the_type_of_weights() -> None:
    """Never widened: autocast may have made them narrower than the weights. What they look from stays."""
    half, full = torch.bfloat16, torch.float32
    queries = Queries(torch.rand(5, 8), torch.rand(2, 5, 8), reference=torch.rand(2, 5, 4))
    narrow = queries.narrowed(half)
    assert (narrow.position.dtype, narrow.content.dtype, narrow.reference.dtype) == (half, half, full)
    assert narrow.narrowed(full).position is narrow.position
    assert queries.narrowed(full).position is queries.position
    assert Queries(queries.position).narrowed(half).content is None
