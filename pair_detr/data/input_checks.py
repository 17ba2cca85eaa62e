"""Checks of the keys under ``INPUT``, before a training costs any time."""

from detectron2.config import CfgNode

from pair_detr.data.image_files import CHANNELS

_FLIPS = ("none", "horizontal", "vertical")
_JITTERS = ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")
_MAX_HUE = 0.5


def check_input(cfg: CfgNode) -> None:
    """Makes sure that the keys of augmentation make sense, alone and together.

    Raises:
        ValueError: one does not, or two exclude each other; the message names them and what to change.
    """
    check_channels(cfg)
    _check_sizes(cfg)
    _check_crop(cfg)
    _check_jitter(cfg)
    _check_mosaic(cfg)
    _check_large_scale_jitter(cfg)


def check_channels(cfg: CfgNode) -> None:
    """Makes sure that the statistics of the pixels are those of the channels that images are read with.

    Raises:
        ValueError: INPUT.FORMAT is none that images can be read in, or MODEL.PIXEL_MEAN or PIXEL_STD does not fit it.
    """
    image_format = cfg.INPUT.FORMAT
    if image_format not in CHANNELS:
        raise ValueError(f"INPUT.FORMAT is {image_format!r}; it must be one of {', '.join(CHANNELS)}.")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != CHANNELS[image_format]:
            raise ValueError(
                f"MODEL.{key} has {len(cfg.MODEL[key])} values, but INPUT.FORMAT {image_format!r} needs "
                f"{CHANNELS[image_format]}, one for each channel: correct MODEL.PIXEL_MEAN and MODEL.PIXEL_STD, or set "
                "INPUT.FORMAT to RGB (3), RGBA (4) or L (1), to which images of any kind are converted."
            )
    if min(cfg.MODEL.PIXEL_STD) <= 0:
        raise ValueError(f"MODEL.PIXEL_STD is {list(cfg.MODEL.PIXEL_STD)}; the values must be above 0.")


def _check_sizes(cfg: CfgNode) -> None:
    if cfg.INPUT.RANDOM_FLIP not in _FLIPS:
        raise ValueError(f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP!r}; it must be one of {', '.join(_FLIPS)}.")
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError("INPUT.CROP is Detectron2's crop, which is not used here: set INPUT.RESIZE_CROP instead.")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}; with INPUT.MIN_SIZE_TRAIN_SAMPLING range it "
            "must be the smallest and the largest size."
        )
    fixed = tuple(cfg.INPUT.FIXED_SIZE)
    if fixed and (len(fixed) != 2 or not all(isinstance(side, int) and side > 0 for side in fixed)):
        raise ValueError(
            f"INPUT.FIXED_SIZE is {fixed}; it must be a height and a width in pixels, as (1024, 1024), or () for none."
        )
    loader = cfg.DATALOADER
    if fixed and (loader.DATASET_MIN_SIZES or loader.DATASET_MAX_SIZES):
        raise ValueError(
            f"INPUT.FIXED_SIZE is {fixed}, the size of all images, but DATALOADER.DATASET_MIN_SIZES or "
            "DATASET_MAX_SIZES asks for others: set these to [], or INPUT.FIXED_SIZE to ()."
        )


def _check_crop(cfg: CfgNode) -> None:
    crop = cfg.INPUT.RESIZE_CROP
    if not crop.ENABLED:
        return
    _require_probability("INPUT.RESIZE_CROP.PROB", crop.PROB)
    if not crop.SCALES or min(crop.SCALES) < 1:
        raise ValueError(f"INPUT.RESIZE_CROP.SCALES is {list(crop.SCALES)}; it must list sizes in pixels.")
    if len(crop.SIZE_RANGE) != 2 or not 1 <= crop.SIZE_RANGE[0] <= crop.SIZE_RANGE[1]:
        raise ValueError(
            f"INPUT.RESIZE_CROP.SIZE_RANGE is {list(crop.SIZE_RANGE)}; it must be the smallest and the largest side of "
            "the crop in pixels."
        )


def _check_jitter(cfg: CfgNode) -> None:
    jitter = cfg.INPUT.COLOR_JITTER
    if not jitter.ENABLED:
        return
    _require_probability("INPUT.COLOR_JITTER.PROB", jitter.PROB)
    for key in _JITTERS:
        limit = _MAX_HUE if key == "HUE" else 1
        if not 0 <= jitter[key] <= limit:
            raise ValueError(f"INPUT.COLOR_JITTER.{key} is {jitter[key]}; it must be between 0 and {limit}.")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(
            f"INPUT.COLOR_JITTER needs colours, but INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: set it to RGB or BGR, or "
            "INPUT.COLOR_JITTER.ENABLED to False."
        )


def _check_mosaic(cfg: CfgNode) -> None:
    mosaic = cfg.INPUT.MOSAIC
    if not mosaic.ENABLED:
        return
    _require_probability("INPUT.MOSAIC.PROB", mosaic.PROB)
    _require_range("INPUT.MOSAIC.SCALE_RANGE", mosaic.SCALE_RANGE)
    _require_range("INPUT.MOSAIC.CENTER_RANGE", mosaic.CENTER_RANGE)
    if mosaic.CENTER_RANGE[1] >= 1:
        raise ValueError(f"INPUT.MOSAIC.CENTER_RANGE is {list(mosaic.CENTER_RANGE)}; both must be between 0 and 1.")
    if cfg.DATALOADER.SAMPLER_TRAIN == "MultiDatasetSampler":
        raise ValueError(
            "INPUT.MOSAIC joins images of one data set, but DATALOADER.SAMPLER_TRAIN is MultiDatasetSampler, whose "
            "data sets differ in what is annotated: set INPUT.MOSAIC.ENABLED to False, or another sampler."
        )


def _check_large_scale_jitter(cfg: CfgNode) -> None:
    jitter = cfg.INPUT.LARGE_SCALE_JITTER
    if not jitter.ENABLED:
        return
    _require_range("INPUT.LARGE_SCALE_JITTER.SCALE_RANGE", jitter.SCALE_RANGE)
    if not cfg.INPUT.FIXED_SIZE:
        raise ValueError(
            "INPUT.LARGE_SCALE_JITTER scales relative to INPUT.FIXED_SIZE, which is (): set it, as to (1024, 1024)."
        )
    if cfg.INPUT.RESIZE_CROP.ENABLED:
        raise ValueError(
            "INPUT.LARGE_SCALE_JITTER and INPUT.RESIZE_CROP are two ways of cropping: set the ENABLED of one of them "
            "to False."
        )


def _require_probability(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{key} is {value}; it must be between 0 and 1.")


def _require_range(key: str, values: list[float]) -> None:
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"{key} is {list(values)}; it must be the smallest and the largest value, both positive.")
