"""DETR's augmentation, made of Detectron2's transforms."""

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation as build_detectron2_augmentation

_FLIPS = ("none", "horizontal", "vertical")


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Augmentations in the order of their application.

    For training: flips; then, with probability ``INPUT.RESIZE_CROP.PROB``, a resize and a random crop; then the
    multi-scale resize of ``INPUT.MIN_SIZE_TRAIN``. For testing the resize of ``INPUT.MIN_SIZE_TEST`` alone.

    Raises:
        ValueError: a key of ``INPUT`` has a value that makes no sense.

    Source: DETR, appendix A.4, "Training details".
    """
    if not is_train:
        return build_detectron2_augmentation(cfg, is_train=False)
    _check(cfg)
    augmentations = [
        T.RandomFlip(horizontal=axis == "horizontal", vertical=axis == "vertical") for axis in _flip_axes(cfg)
    ]
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
    augmentations.append(
        T.ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sample_style=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        )
    )
    return augmentations


def _flip_axes(cfg: CfgNode) -> tuple[str, ...]:
    if cfg.INPUT.FLIP_BOTH_AXES:
        return ("horizontal", "vertical")
    return () if cfg.INPUT.RANDOM_FLIP == "none" else (cfg.INPUT.RANDOM_FLIP,)


def _check(cfg: CfgNode) -> None:
    if cfg.INPUT.RANDOM_FLIP not in _FLIPS:
        raise ValueError(f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP!r}; it must be one of {', '.join(_FLIPS)}.")
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError("INPUT.CROP is Detectron2's crop, which is not used here: set INPUT.RESIZE_CROP instead.")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}; with INPUT.MIN_SIZE_TRAIN_SAMPLING range it "
            "must be the smallest and the largest size."
        )
    crop = cfg.INPUT.RESIZE_CROP
    if not crop.ENABLED:
        return
    if not 0 <= crop.PROB <= 1:
        raise ValueError(f"INPUT.RESIZE_CROP.PROB is {crop.PROB}; it must be between 0 and 1.")
    if not crop.SCALES or min(crop.SCALES) < 1:
        raise ValueError(f"INPUT.RESIZE_CROP.SCALES is {list(crop.SCALES)}; it must list sizes in pixels.")
    if len(crop.SIZE_RANGE) != 2 or not 1 <= crop.SIZE_RANGE[0] <= crop.SIZE_RANGE[1]:
        raise ValueError(
            f"INPUT.RESIZE_CROP.SIZE_RANGE is {list(crop.SIZE_RANGE)}; it must be the smallest and the largest side of "
            "the crop in pixels."
        )
