"""Sizes and pixels, against Detectron2's transforms."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from model_helpers import default_cfg

from pair_detr.data import build_augmentation
from pair_detr.images.resizing import Resizing


@pytest.mark.parametrize("fixed", [[], [96, 160]])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_the_evaluation_resizes(fixed: list[int], channels: int) -> None:
    cfg = default_cfg()
    cfg.INPUT.FIXED_SIZE = fixed
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 87, 133
    resizing = Resizing(within=tuple(fixed)) if fixed else Resizing(87, 133)
    augmentation = T.AugmentationList(build_augmentation(cfg, is_train=False))
    generator = np.random.default_rng(0)
    sizes = [(1, 300), (300, 1), (87, 133), (87, 87), *generator.integers(20, 400, (40, 2)).tolist()]
    for height, width in sizes:
        pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
        inputs = T.AugInput(pixels)
        augmentation(inputs)
        assert resizing.size_of(height, width) == inputs.image.shape[:2]
        np.testing.assert_array_equal(resizing.apply(pixels), inputs.image)


def test_many_sizes() -> None:
    """Rounding is Detectron2's, step by step."""
    generator = np.random.default_rng(1)
    for height, width in generator.integers(1, 4000, (20000, 2)).tolist():
        expected = T.ResizeShortestEdge.get_output_shape(height, width, 800, 1333)
        assert Resizing(800, 1333).size_of(height, width) == tuple(max(side, 1) for side in expected)


def test_no_resizing() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(Resizing().apply(pixels), pixels)
