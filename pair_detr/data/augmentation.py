"""The augmentations of single images, made of Detectron2's."""

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation as build_detectron2_augmentation

from pair_detr.data.color_jitter import RandomColorJitter
from pair_detr.data.input_checks import check_input


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Augmentations in the order of their application.

    For training: flips; colours (``INPUT.COLOR_JITTER``); with probability ``INPUT.RESIZE_CROP.PROB`` a resize and a
    random crop; then the multi-scale resize of ``INPUT.MIN_SIZE_TRAIN``. For testing the resize of
    ``INPUT.MIN_SIZE_TEST`` alone.

    With ``INPUT.FIXED_SIZE`` the last resize, for testing too, makes the image as large as fits into that size, and
    the model pads it; ``INPUT.LARGE_SCALE_JITTER`` makes it larger or smaller, and crops what does not fit.

    Raises:
        ValueError: see :func:`pair_detr.data.input_checks.check_input`.

    Source: DETR, appendix A.4, "Training details"; large-scale jitter: arXiv 2012.07177, section 3.
    """
    check_input(cfg)
    fixed_size = tuple(cfg.INPUT.FIXED_SIZE)
    fit = T.ResizeScale(1.0, 1.0, *fixed_size) if fixed_size else None
    if not is_train:
        return [fit] if fit else build_detectron2_augmentation(cfg, is_train=False)
    augmentations = [
        T.RandomFlip(horizontal=axis == "horizontal", vertical=axis == "vertical") for axis in _flip_axes(cfg)
    ]
    if (jitter := cfg.INPUT.COLOR_JITTER).ENABLED:
        strengths = jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, jitter.HUE
        augmentations.append(T.RandomApply(RandomColorJitter(*strengths, cfg.INPUT.FORMAT), prob=jitter.PROB))
    if cfg.INPUT.RESIZE_CROP.ENABLED:
        augmentations.append(
            T.RandomApply(
                T.AugmentationList(
                    [
                        T.ResizeShortestEdge(cfg.INPUT.RESIZE_CROP.SCALES, sample_style="choice"),
                        T.RandomCrop("absolute_range", tuple(cfg.INPUT.RESIZE_CROP.SIZE_RANGE)),
                    ]
                ),
                prob=cfg.INPUT.RESIZE_CROP.PROB,
            )
        )
    if cfg.INPUT.LARGE_SCALE_JITTER.ENABLED:
        scale_range = cfg.INPUT.LARGE_SCALE_JITTER.SCALE_RANGE
        return [*augmentations, T.ResizeScale(*scale_range, *fixed_size), T.FixedSizeCrop(fixed_size, pad=False)]
    multi_scale = T.ResizeShortestEdge(
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sample_style=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    )
    return [*augmentations, fit or multi_scale]


def _flip_axes(cfg: CfgNode) -> tuple[str, ...]:
    if cfg.INPUT.FLIP_BOTH_AXES:
        return ("horizontal", "vertical")
    return () if cfg.INPUT.RANDOM_FLIP == "none" else (cfg.INPUT.RANDOM_FLIP,)
