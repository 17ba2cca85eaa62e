"""What both decoders promise of queries: groups of them, contents, and references."""

from typing import Any

import pytest
import torch
from model_helpers import build, make_batch, tiny_cfg
from torch import Tensor

from pair_detr.layers import inverse_sigmoid
from pair_detr.modeling import Detector
from pair_detr.modeling.heads import LocationHead
from pair_detr.structures import Memory, Queries

VARIANTS = ("conditional_detr", "detr")


def encoded(variant: str) -> tuple[Detector, Memory]:
    model = build(tiny_cfg(variant)).eval()
    detector = model.detector
    with torch.no_grad():
        return detector, detector.encode(model.preprocess(make_batch([(40, 56), (32, 24)], [0, 0])))


@torch.no_grad()
def decode(detector: Detector, memory: Memory, queries: Tensor, **keywords: Any) -> tuple[Tensor, Tensor | None]:
    return detector.decoder(memory, Queries(queries, **keywords))


@pytest.mark.parametrize("variant", VARIANTS)
def test_queries_of_each_image(variant: str) -> None:
    """Given per image, they are decoded as if the other image had them as well."""
    detector, memory = encoded(variant)
    first, second = 9 * torch.randn(2, 7, 32)
    together, _ = decode(detector, memory, torch.stack((first, second)))
    for image, queries in enumerate((first, second)):
        alone, _ = decode(detector, memory, queries)
        torch.testing.assert_close(together[:, image], alone[:, image], atol=1e-5, rtol=1e-5)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_of_queries_do_not_see_each_other(variant: str) -> None:
    detector, memory = encoded(variant)
    queries = 9 * torch.randn(9, 32)
    grouped, _ = decode(detector, memory, queries, groups=((2, 3), (1, 3)))
    for start in (0, 3, 6):
        of_group = slice(start, start + 3)
        alone, _ = decode(detector, memory, queries[of_group])
        torch.testing.assert_close(grouped[:, :, of_group], alone, atol=1e-5, rtol=1e-5)
    assert (grouped - decode(detector, memory, queries)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("groups", [None, ((1, 2), (1, 5))])
@pytest.mark.parametrize("variant", VARIANTS)
def test_queries_that_are_not_used_change_no_others(variant: str, groups: tuple | None) -> None:
    """The last two, of the second image alone."""
    detector, memory = encoded(variant)
    queries = 9 * torch.randn(7, 32)
    is_used = torch.ones(2, 7, dtype=torch.bool)
    is_used[1, 5:] = False
    found, _ = decode(detector, memory, queries, groups=groups, is_used=is_used)
    full, _ = decode(detector, memory, queries, groups=groups)
    fewer, _ = decode(detector, memory, queries[:5], groups=groups and ((1, 2), (1, 3)))
    torch.testing.assert_close(found[:, 0], full[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 1, :5], fewer[:, 1], atol=1e-5, rtol=1e-5)
    assert (full[:, 1, :5] - fewer[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_contents_are_states_to_start_from(variant: str) -> None:
    detector, memory = encoded(variant)
    queries = 9 * torch.randn(7, 32)
    plain, _ = decode(detector, memory, queries)
    zeros, _ = decode(detector, memory, queries, content=torch.zeros(7, 32))
    torch.testing.assert_close(zeros, plain)
    other, _ = decode(detector, memory, queries, content=torch.randn(2, 7, 32))
    assert (other - plain).abs().max() > 1e-2


def test_references_that_are_given() -> None:
    """Points of the decoder's own change nothing; a box counts by its center; others of each image are looked from."""
    detector, memory = encoded("conditional_detr")
    queries = detector.query_embed.weight
    states, own = decode(detector, memory, queries)
    assert own.shape == (7, 2)
    boxes = torch.cat((own, torch.rand(7, 2)), dim=1).expand(2, 7, 4)
    for reference in (own, own.expand(2, 7, 2), boxes):
        again, returned = decode(detector, memory, queries, reference=reference)
        torch.testing.assert_close(again, states, atol=1e-5, rtol=1e-5)
        assert returned is reference
    other, _ = decode(detector, memory, queries, reference=torch.stack((own, 1 - own)))
    torch.testing.assert_close(other[:, 0], states[:, 0], atol=1e-5, rtol=1e-5)
    assert (other[:, 1] - states[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(7, 2), (2, 7, 2), (7, 4), (2, 7, 4)])
@pytest.mark.parametrize("out_dim", [2, 4])
def test_locations_start_at_the_reference(shape: tuple[int, ...], out_dim: int) -> None:
    head = LocationHead(8, out_dim, zero_init=True)
    reference = torch.rand(shape).clamp(0.1, 0.9)
    found = head(torch.randn(3, 2, 7, 8), reference)
    expected = torch.full((3, 2, 7, out_dim), 0.5)
    known = min(out_dim, shape[-1])
    expected[..., :known] = reference[..., :known]
    torch.testing.assert_close(found, expected)
    assert torch.allclose(inverse_sigmoid(found), torch.logit(expected), atol=1e-5)
