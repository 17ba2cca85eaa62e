"""Checks of the keys under ``INPUT``, before a training costs any time.

The range of each is in :mod:`pair_detr.config.ranges`; here is what a training requires of them together.
"""

from detectron2.config import CfgNode


def check_input(cfg: CfgNode) -> None:
    """Makes sure that the keys of augmentation make sense, alone and together.

    Raises:
        ValueError: one does not, or two exclude each other; the message names them and what to change.
    """
    # Imported here: the table of ranges has names from this package.
    from pair_detr.config.validation import check_values

    check_values(cfg, "INPUT.", "MODEL.PIXEL_")
    _check_sizes(cfg)
    _check_jitter(cfg)
    _check_mosaic(cfg)
    _check_large_scale_jitter(cfg)


def _check_sizes(cfg: CfgNode) -> None:
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError(
            "INPUT.CROP.ENABLED is True, but Detectron2's crop is not used here: set it to False. The crop of "
            "DETR's recipe is INPUT.RESIZE_CROP: ENABLED, PROB, and SIZE_RANGE for the SIZE of TYPE absolute_range."
        )
    fixed = tuple(cfg.INPUT.FIXED_SIZE)
    loader = cfg.DATALOADER
    if fixed and (loader.DATASET_MIN_SIZES or loader.DATASET_MAX_SIZES):
        raise ValueError(
            f"INPUT.FIXED_SIZE is {fixed}, the size of all images, but DATALOADER.DATASET_MIN_SIZES or "
            "DATASET_MAX_SIZES asks for others: set these to [], or INPUT.FIXED_SIZE to ()."
        )


def _check_jitter(cfg: CfgNode) -> None:
    if cfg.INPUT.COLOR_JITTER.ENABLED and cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(
            f"INPUT.COLOR_JITTER needs colors, but INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: set it to RGB or BGR, or "
            "INPUT.COLOR_JITTER.ENABLED to False."
        )


def _check_mosaic(cfg: CfgNode) -> None:
    if cfg.INPUT.MOSAIC.ENABLED and cfg.DATALOADER.SAMPLER_TRAIN == "MultiDatasetSampler":
        raise ValueError(
            "INPUT.MOSAIC joins images of one dataset, but DATALOADER.SAMPLER_TRAIN is MultiDatasetSampler, whose "
            "datasets differ in what is annotated: set INPUT.MOSAIC.ENABLED to False, or another sampler."
        )


def _check_large_scale_jitter(cfg: CfgNode) -> None:
    if not cfg.INPUT.LARGE_SCALE_JITTER.ENABLED:
        return
    if not cfg.INPUT.FIXED_SIZE:
        raise ValueError(
            "INPUT.LARGE_SCALE_JITTER scales relative to INPUT.FIXED_SIZE, which is (): set it, as to (1024, 1024)."
        )
    if cfg.INPUT.RESIZE_CROP.ENABLED:
        raise ValueError(
            "INPUT.LARGE_SCALE_JITTER and INPUT.RESIZE_CROP are two ways of cropping: set the ENABLED of one of them "
            "to False."
        )
