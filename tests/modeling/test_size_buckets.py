"""INPUT.SIZE_BUCKETS: what batches are padded to, and that nothing else depends on it."""

import pytest
import torch
from model_helpers import VARIANTS, build, make_batch, tiny_cfg

from pair_detr.modeling.meta_arch import DetectionTransformer

BUCKETS = [(96, 96), (64, 96), (96, 64)]


def bucket_model(variant: str = "pair_detr", buckets: list[tuple[int, int]] = BUCKETS) -> DetectionTransformer:
    cfg = tiny_cfg(variant)
    cfg.MODEL.BACKBONE.NAME = "build_patch_backbone"
    cfg.INPUT.SIZE_BUCKETS = buckets
    return build(cfg).train()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(64, 40), (30, 96)], (64, 96)),
        ([(64, 40), (30, 20)], (64, 96)),
        ([(65, 40)], (96, 64)),
        ([(90, 40), (40, 90)], (96, 96)),
        ([(96, 96)], (96, 96)),
    ],
)
def test_smallest_that_holds_all_images(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    """There is always a mask, so that one compiled network is enough for a size; evaluation knows no buckets."""
    model = bucket_model()
    batch = model.preprocess(make_batch(sizes, [0] * len(sizes)))
    assert batch.padded_size == expected
    for mask, (height, width) in zip(batch.padding_mask, sizes, strict=True):
        assert not mask[:height, :width].any()
        assert mask.sum() == mask.numel() - height * width
    padded = model.eval().preprocess(make_batch(sizes, [0] * len(sizes))).padded_size
    assert padded == tuple(map(max, zip(*sizes, strict=True)))


def test_larger_images_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"up to 97 x 40 pixels fit into none of INPUT\.SIZE_BUCKETS \[\(96, 96\), "):
        bucket_model().preprocess(make_batch([(40, 40), (97, 20)], [0, 0]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_those_of_the_batch_without_more_padding(variant: str) -> None:
    batch = make_batch([(64, 88), (56, 80)], [2, 1])
    found, expected = bucket_model(variant)(batch), bucket_model(variant, [])(batch)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-4, atol=1e-4)
