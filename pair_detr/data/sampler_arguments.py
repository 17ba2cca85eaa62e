"""What the samplers need to know of each image: its orientation, and how often it is to be shown."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch import Tensor


def orientations(dicts: Sequence[dict[str, Any]]) -> list[int]:
    """Whether each image is landscape: batches of one orientation need less padding.

    Raises:
        ValueError: an image has no size.
    """
    for record in dicts:
        if "width" not in record or "height" not in record:
            raise ValueError(
                f"{record['file_name']} has no width and height in its data set: add them, or set "
                "DATALOADER.ASPECT_RATIO_GROUPING to False."
            )
    return [int(record["width"] > record["height"]) for record in dicts]


def repeat_factors(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> Tensor:
    """How often each image is shown in an epoch, by the rarest class that it has as a box or as a label."""
    labelled = [
        {"annotations": [*record["annotations"], *({"category_id": i} for i in record.get("pos_category_ids", ()))]}
        for record in dicts
    ]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        labelled, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
