"""Checks of the keys under ``INPUT``, before a training costs any time.

The range of each is in :mod:`pair_detr.config.ranges`; here is what a training requires of them together.
"""

from detectron2.config import CfgNode

from pair_detr.config.validation import check_values


def check_input(cfg: CfgNode) -> None:
    """Makes sure that the keys of augmentation make sense, alone and together.

    Raises:
        ValueError: one does not, or two exclude each other; the message names them and what to change.
    """
    check_values(cfg, "INPUT.", "MODEL.PIXEL_")
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError(
            "INPUT.CROP.ENABLED is True, but Detectron2's crop is not used here: set it to False. The crop of "
            "DETR's recipe is INPUT.RESIZE_CROP: ENABLED, PROB, and SIZE_RANGE for the SIZE of TYPE absolute_range."
        )
    if cfg.INPUT.FIXED_SIZE and (cfg.DATALOADER.DATASET_MIN_SIZES or cfg.DATALOADER.DATASET_MAX_SIZES):
        raise ValueError(
            f"INPUT.FIXED_SIZE is {tuple(cfg.INPUT.FIXED_SIZE)}, the size of all images, but "
            "DATALOADER.DATASET_MIN_SIZES or DATASET_MAX_SIZES asks for others: set these to [], or INPUT.FIXED_SIZE "
            "to ()."
        )
    of_colors = {
        "INPUT.COLOR_JITTER.ENABLED": cfg.INPUT.COLOR_JITTER.ENABLED,
        "INPUT.CHANNEL_PERMUTATION": cfg.INPUT.CHANNEL_PERMUTATION,
    }
    for key, value in of_colors.items():
        if value and cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(
                f"{key} is {value}, which needs colors, but INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: set it to RGB or "
                f"BGR, or {key} to {type(value)()}."
            )
    if cfg.INPUT.CHANNEL_PERMUTATION and not (cfg.MODEL.CLIP.TEXT_WEIGHTS and cfg.MODEL.CLIP.OBJECTNESS):
        raise ValueError(
            f"INPUT.CHANNEL_PERMUTATION is {cfg.INPUT.CHANNEL_PERMUTATION}, and images with other colors teach no "
            "classes, but without MODEL.CLIP.TEXT_WEIGHTS and MODEL.CLIP.OBJECTNESS there is nothing else to score: "
            "set both, or INPUT.CHANNEL_PERMUTATION to 0."
        )
    if cfg.INPUT.MOSAIC.ENABLED and cfg.DATALOADER.SAMPLER_TRAIN == "MultiDatasetSampler":
        raise ValueError(
            "INPUT.MOSAIC joins images of one dataset, but DATALOADER.SAMPLER_TRAIN is MultiDatasetSampler, whose "
            "datasets differ in what is annotated: set INPUT.MOSAIC.ENABLED to False, or another sampler."
        )
    if cfg.INPUT.LARGE_SCALE_JITTER.ENABLED and not cfg.INPUT.FIXED_SIZE:
        raise ValueError(
            "INPUT.LARGE_SCALE_JITTER scales relative to INPUT.FIXED_SIZE, which is (): set it, as to (1024, 1024)."
        )
    if cfg.INPUT.LARGE_SCALE_JITTER.ENABLED and cfg.INPUT.RESIZE_CROP.ENABLED:
        raise ValueError(
            "INPUT.LARGE_SCALE_JITTER and INPUT.RESIZE_CROP are two ways of cropping: set the ENABLED of one of them "
            "to False."
        )
