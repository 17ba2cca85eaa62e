"""Panoptic merging against loops over pixels, against transformers, and by hand."""

import pytest
import torch
from torch import Tensor

from pair_detr.modeling.postprocessing.panoptic import merge_panoptic, semantic

IS_THING = torch.tensor([True, True, False, False])


def merge_by_loops(
    masks: Tensor, scores: list[float], labels: list[int], threshold: float, min_area: int
) -> list[dict[str, object]]:
    """Segments with their pixels: the rules of DETR's section 4.4, pixel by pixel, stuff merged at any time."""
    alive = [q for q in range(len(scores)) if scores[q] > threshold and labels[q] < len(IS_THING)]
    while alive:
        segments: dict[object, dict] = {}
        for y in range(masks.shape[1]):
            for x in range(masks.shape[2]):
                best = max(alive, key=lambda q: (masks[q, y, x].item(), -q))
                key = ("thing", best) if IS_THING[labels[best]] else ("stuff", labels[best])
                segments.setdefault(key, {"pixels": set(), "label": labels[best]})["pixels"].add((y, x))
        keys = {q: ("thing", q) if IS_THING[labels[q]] else ("stuff", labels[q]) for q in alive}
        small = [q for q in alive if len(segments.get(keys[q], {"pixels": ()})["pixels"]) <= min_area]
        if not small:
            for key, segment in segments.items():
                segment["score"] = max(scores[q] for q in alive if keys[q] == key)
            return list(segments.values())
        alive = [q for q in alive if q not in small]
    return []


@pytest.mark.parametrize("seed", range(20))
def test_merging_agrees_with_loops_over_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(7, 5, 6, generator=generator)
    scores = torch.rand(7, generator=generator) * 0.5 + 0.5
    # 4 is no object.
    labels = torch.randint(0, 5, (7,), generator=generator)
    segment_map, segments = merge_panoptic(masks, scores, labels, IS_THING, score_threshold=0.6, min_area=4)
    expected = merge_by_loops(masks, scores.tolist(), labels.tolist(), 0.6, 4)
    assert segment_map.dtype == torch.int32
    found = {
        (frozenset(map(tuple, (segment_map == s["id"]).nonzero().tolist())), s["category_id"], s["isthing"], s["area"])
        for s in segments
    }
    assert found == {
        (frozenset(s["pixels"]), s["label"], bool(IS_THING[s["label"]]), len(s["pixels"])) for s in expected
    }
    assert sorted(s["score"] for s in segments) == pytest.approx(sorted(s["score"] for s in expected))
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    assert set(segment_map.unique().tolist()) == ({s["id"] for s in segments} or {0})


def test_the_random_cases_cover_removal_and_merging() -> None:
    # A test of the test above: small segments and stuff in two masks do occur in it.
    removed = merged = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        masks = torch.rand(7, 5, 6, generator=generator)
        scores = torch.rand(7, generator=generator) * 0.5 + 0.5
        labels = torch.randint(0, 5, (7,), generator=generator).tolist()
        confident = [label for score, label in zip(scores.tolist(), labels, strict=True) if score > 0.6 and label < 4]
        stuff = [label for label in confident if label >= 2]
        merged += len(set(stuff)) < len(stuff)
        possible = len(set(stuff)) + len(confident) - len(stuff)
        removed += len(merge_by_loops(masks, scores.tolist(), labels, 0.6, 4)) < possible
    assert removed > 3
    assert merged > 3


def test_agrees_with_transformers_where_all_masks_are_disjoint_and_confident() -> None:
    transformers = pytest.importorskip("transformers.models.detr.image_processing_detr")
    # Vertical stripes, two of them of the stuff class 2. Transformers weighs masks by their scores, so these are equal.
    stripes = torch.zeros(4, 6, 8)
    for number in range(4):
        stripes[number, :, 2 * number : 2 * number + 2] = 1
    labels = torch.tensor([0, 2, 0, 2])
    scores = torch.full((4,), 0.9)
    segment_map, segments = merge_panoptic(stripes, scores, labels, IS_THING)
    expected, infos = transformers.compute_segments(stripes.clone(), scores, labels, label_ids_to_fuse={2, 3})
    pairs = set(zip(segment_map.flatten().tolist(), expected.flatten().tolist(), strict=True))
    # One to one.
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 3
    classes = {info["id"]: info["label_id"] for info in infos}
    assert {s["id"]: s["category_id"] for s in segments} == {a: classes[b] for a, b in pairs}


def test_ids_scores_and_areas_by_hand() -> None:
    masks = torch.zeros(4, 4, 6)
    masks[0, :, :2] = 0.9  # thing 1
    masks[1, :, 2:4] = 0.8  # stuff 3
    masks[2, :, 4:] = 0.7  # stuff 3 again, better
    masks[3, 0, 0] = 1.0  # a thing of one pixel, which is too small
    segment_map, segments = merge_panoptic(
        masks, torch.tensor([0.9, 0.88, 0.95, 0.99]), torch.tensor([1, 3, 3, 0]), IS_THING
    )
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 1, "score": pytest.approx(0.9), "area": 8},
        {"id": 2, "isthing": False, "category_id": 3, "score": pytest.approx(0.95), "area": 16},
    ]
    assert segment_map.tolist() == [[1, 1, 2, 2, 2, 2]] * 4
    assert all(type(s["isthing"]) is bool and type(s["id"]) is int for s in segments)


def test_an_area_of_min_area_is_too_small_and_one_more_is_not() -> None:
    masks = torch.zeros(2, 3, 5)
    masks[0] = 0.5
    masks[1, 0, :4] = 1
    args = (torch.tensor([0.9, 0.9]), torch.tensor([0, 1]), IS_THING)
    assert [s["area"] for s in merge_panoptic(masks, *args)[1]] == [15]
    masks[1, 0, 4] = 1
    assert [s["area"] for s in merge_panoptic(masks, *args)[1]] == [10, 5]


@pytest.mark.parametrize(("score", "label"), [(0.85, 0), (0.99, 4)])
def test_nothing_confident_gives_an_empty_map(score: float, label: int) -> None:
    segment_map, segments = merge_panoptic(
        torch.ones(1, 3, 4), torch.tensor([score]), torch.tensor([label]), IS_THING, score_threshold=0.85
    )
    assert segments == []
    assert torch.equal(segment_map, torch.zeros(3, 4, dtype=torch.int32))
    no_queries = merge_panoptic(torch.zeros(0, 3, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), IS_THING)
    assert torch.equal(no_queries[0], segment_map)


def test_category_ids_replace_the_classes() -> None:
    masks = torch.ones(1, 3, 4)
    _, segments = merge_panoptic(
        masks, torch.ones(1), torch.tensor([3]), IS_THING, category_ids=torch.tensor([0, 1, 1, 2])
    )
    assert segments[0]["category_id"] == 2
    assert segments[0]["isthing"] is False


def test_semantic_scores_by_hand() -> None:
    masks = torch.tensor([[[1.0, 0.5]], [[0.0, 0.2]]])
    classes = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.3, 0.4]])
    scores = semantic(masks, classes)
    torch.testing.assert_close(scores, torch.tensor([[[0.9, 0.51]], [[0.1, 0.11]], [[0.0, 0.08]]]))
    grouped = semantic(masks, classes, channels=torch.tensor([0, 0, 1]))
    torch.testing.assert_close(grouped, torch.tensor([[[1.0, 0.62]], [[0.0, 0.08]]]))
