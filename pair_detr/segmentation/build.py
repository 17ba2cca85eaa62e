"""What a config says about masks."""

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode

from pair_detr.data import panoptic_classes
from pair_detr.data.messages import counted
from pair_detr.segmentation.head import MaskHead
from pair_detr.segmentation.inference import PanopticOptions


def mask_head_factory(cfg: CfgNode) -> Callable[[int, int, list[int]], MaskHead] | None:
    """What makes the mask head, see :class:`pair_detr.modeling.Detector`; None without MODEL.MASK_ON.

    Raises:
        ValueError: MODEL.DETR.MASK.SPATIAL_QUERY is set for DETR, or a key needs MODEL.MASK_ON.
    """
    detr = cfg.MODEL.DETR
    if not cfg.MODEL.MASK_ON:
        for group, key in ((detr.MASK, "MASK.FREEZE_DETECTOR"), (detr.PANOPTIC, "PANOPTIC.ENABLED")):
            if group[key.split(".")[1]]:
                raise ValueError(f"MODEL.DETR.{key} is True, but MODEL.MASK_ON is False: set MODEL.MASK_ON True.")
        return None
    if detr.MASK.SPATIAL_QUERY and detr.VARIANT == "detr":
        raise ValueError(
            "MODEL.DETR.MASK.SPATIAL_QUERY is True, but the queries of MODEL.DETR.VARIANT detr have no reference "
            "points: set it to False, or choose another variant."
        )
    return partial(MaskHead, spatial=detr.MASK.SPATIAL_QUERY)


def build_panoptic(cfg: CfgNode, num_classes: int) -> PanopticOptions | None:
    """What MODEL.DETR.PANOPTIC describes, with the classes of the first test set, or training set; None if disabled.

    Raises:
        ValueError: there is no data set, or its classes are not as many as the model's.
        KeyError, OSError: see :func:`pair_detr.data.panoptic_classes`.
    """
    options = cfg.MODEL.DETR.PANOPTIC
    if not options.ENABLED:
        return None
    names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError(
            "MODEL.DETR.PANOPTIC.ENABLED is True, but neither DATASETS.TEST nor DATASETS.TRAIN names a data set, which "
            "tells things from stuff: name one, or set it to False."
        )
    classes = panoptic_classes(names[0])
    if len(classes.names) != num_classes:
        raise ValueError(
            f'The model has {counted(num_classes, "class", "classes")}, but data set "{names[0]}" has '
            f"{len(classes.names)}, with stuff: "
            "set MODEL.DETR.NUM_CLASSES to 0 or DATASETS to the model's data, or PANOPTIC.ENABLED to False."
        )
    return PanopticOptions(classes, options.SCORE_THRESHOLD, options.MIN_AREA)
