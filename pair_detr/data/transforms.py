"""The augmentations of single images, made of Detectron2's."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F

from pair_detr.data.checks.input_keys import check_input

# Long side that the resize before the crop may make, over the short side: ordinary images are not limited.
_CROP_ASPECT_RATIO = 2


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Augmentations in the order of their application.

    For training: flips; colors (``INPUT.COLOR_JITTER``, ``INPUT.CHANNEL_PERMUTATION``); with probability
    ``INPUT.RESIZE_CROP.PROB`` a resize and a random crop; then the multi-scale resize of ``INPUT.MIN_SIZE_TRAIN``. For
    testing the resize of ``INPUT.MIN_SIZE_TEST`` alone. Of any image at least a pixel is left on each side.

    DETR's resize before the crop has no maximum, so that an image of 3000x20 pixels becomes one of 90000x600. Here its
    long side is at most ``INPUT.MAX_SIZE_TRAIN`` or, where that is less, twice the largest of
    ``INPUT.RESIZE_CROP.SCALES``. With the defaults that changes nothing up to an aspect ratio of 1333 / 600 = 2.2.

    With ``INPUT.FIXED_SIZE`` the last resize, also for testing, makes the image as large as fits into that size, and
    the model pads it; ``INPUT.LARGE_SCALE_JITTER`` makes it larger or smaller, and crops what does not fit.

    Raises:
        ValueError: see :func:`pair_detr.data.checks.input_keys.check_input`.

    Source: DETR, appendix A.4, "Training details"; large-scale jitter: arXiv 2012.07177, section 3.
    """
    check_input(cfg)
    fixed_size = tuple(cfg.INPUT.FIXED_SIZE)
    fit = ResizeScale(1.0, 1.0, *fixed_size) if fixed_size else None
    if not is_train:
        return [fit or ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, sample_style="choice")]
    augmentations = [
        T.RandomFlip(horizontal=axis == "horizontal", vertical=axis == "vertical") for axis in _flip_axes(cfg)
    ]
    # USER: custom augmentations can be added here; Detectron2's take boxes and masks along.
    if (jitter := cfg.INPUT.COLOR_JITTER).ENABLED:
        strengths = jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, jitter.HUE
        augmentations.append(T.RandomApply(RandomColorJitter(*strengths, cfg.INPUT.FORMAT), prob=jitter.PROB))
    if cfg.INPUT.CHANNEL_PERMUTATION:
        augmentations.append(T.RandomApply(RandomChannelPermutation(), prob=cfg.INPUT.CHANNEL_PERMUTATION))
    if cfg.INPUT.RESIZE_CROP.ENABLED:
        augmentations.append(T.RandomApply(_resize_and_crop(cfg), prob=cfg.INPUT.RESIZE_CROP.PROB))
    if cfg.INPUT.LARGE_SCALE_JITTER.ENABLED:
        scale_range = cfg.INPUT.LARGE_SCALE_JITTER.SCALE_RANGE
        return [*augmentations, ResizeScale(*scale_range, *fixed_size), T.FixedSizeCrop(fixed_size, pad=False)]
    multi_scale = ResizeShortestEdge(
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sample_style=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    )
    return [*augmentations, fit or multi_scale]


def spare_labels(cfg: CfgNode) -> None:
    """Turns off, in ``cfg``, what may leave nothing of what the label of an image is about, or make it another.

    A class is all that such a label says: a crop may lose it, and a color may be a part of it.
    """
    for group in (cfg.INPUT.RESIZE_CROP, cfg.INPUT.LARGE_SCALE_JITTER, cfg.INPUT.MOSAIC):
        group.ENABLED = False
    cfg.INPUT.CHANNEL_PERMUTATION = 0.0


def _resize_and_crop(cfg: CfgNode) -> T.AugmentationList:
    scales = cfg.INPUT.RESIZE_CROP.SCALES
    longest = max(cfg.INPUT.MAX_SIZE_TRAIN, _CROP_ASPECT_RATIO * max(scales))
    return T.AugmentationList(
        [
            ResizeShortestEdge(scales, longest, sample_style="choice"),
            T.RandomCrop("absolute_range", tuple(cfg.INPUT.RESIZE_CROP.SIZE_RANGE)),
        ]
    )


def _flip_axes(cfg: CfgNode) -> tuple[str, ...]:
    if cfg.INPUT.FLIP_BOTH_AXES:
        return ("horizontal", "vertical")
    return () if cfg.INPUT.RANDOM_FLIP == "none" else (cfg.INPUT.RANDOM_FLIP,)


class _AtLeastAPixel:
    """Of an image of 4000x1 pixels, Detectron2's resizing rounds the short side to 0."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if not isinstance(transform, T.ResizeTransform) or min(transform.new_h, transform.new_w) > 0:
            return transform
        sides = max(transform.new_h, 1), max(transform.new_w, 1)
        return T.ResizeTransform(transform.h, transform.w, *sides, transform.interp)


class ResizeShortestEdge(_AtLeastAPixel, T.ResizeShortestEdge):
    """As Detectron2's, but no side becomes 0."""


class ResizeScale(_AtLeastAPixel, T.ResizeScale):
    """As Detectron2's, but no side becomes 0."""


_ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


class RandomColorJitter(T.Augmentation):
    """Changes brightness, contrast, saturation and hue at random, in random order; boxes and masks stay.

    Args:
        brightness, contrast, saturation: factors are drawn from [1 - value, 1 + value]; 0 leaves it alone.
        hue: shifts are drawn from [-value, value], in turns of the color circle; 0.5 at most.
        image_format: order of the channels, "RGB" or "BGR".
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float, image_format: str) -> None:
        super().__init__()
        self._jitter = ColorJitter(brightness, contrast, saturation, hue)
        self._reverse = image_format == "BGR"

    def get_transform(self, image: object) -> T.Transform:
        """Draws the changes, the same for any image."""
        jitter = self._jitter
        order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        steps = [(_ADJUST[index], factors[index]) for index in order.tolist() if factors[index] is not None]

        def change(pixels: Image.Image) -> Image.Image:
            pixels = _reversed(pixels) if self._reverse else pixels
            for adjust, factor in steps:
                pixels = adjust(pixels, factor)
            return _reversed(pixels) if self._reverse else pixels

        return T.PILColorTransform(change)


class ChannelPermutation(T.ColorTransform):
    """The change of an image that :class:`RandomChannelPermutation` draws."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__(lambda image: image[..., list(order)])


class RandomChannelPermutation(T.Augmentation):
    """Permutes the channels, as torchvision's of this name; never leaves them in their order."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draws one of the other orders, each as likely."""
        orders = list(permutations(range(image.shape[-1])))[1:]
        return ChannelPermutation(orders[np.random.randint(len(orders))])


def _reversed(image: Image.Image) -> Image.Image:
    return Image.merge("RGB", image.split()[::-1])
