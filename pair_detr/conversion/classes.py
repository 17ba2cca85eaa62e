"""Rows of classifiers: COCO's 91 raw ids, of which 80 are classes, or those 80 in Detectron2's order."""

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

_THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]
# COCO ids of the 80 classes, in the order of Detectron2's contiguous ids.
COCO_IDS: list[int] = [category["id"] for category in _THINGS]
COCO_NAMES: list[str] = [category["name"] for category in _THINGS]
NUM_RAW_IDS = 91

# The logit of an id that no class has: its sigmoid, and its part in a softmax, are exactly 0.
UNUSED_LOGIT = -1e4

_WEIGHT, _BIAS = "class_head.weight", "class_head.bias"


def raw_names() -> list[str]:
    """Names of the 91 raw ids; "N/A" where an id has none."""
    names = ["N/A"] * NUM_RAW_IDS
    for index, name in zip(COCO_IDS, COCO_NAMES, strict=True):
        names[index] = name
    return names


def are_raw_ids(names: list[str] | None) -> bool:
    """Whether 91 classes are COCO's raw ids: where they have names, by the names, else taken for granted."""
    if names is None or len(names) != NUM_RAW_IDS or names[1] == "LABEL_1":
        return True
    # Some files spell a name in another way.
    return sum(names[index] == name for index, name in zip(COCO_IDS, COCO_NAMES, strict=True)) > len(COCO_NAMES) // 2


def keep_used_ids(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes the 80 classes out of a classifier over the 91 raw ids; a row after those, no-object, stays the last.

    Args:
        state: by our names, without "detector.".
    """
    rows = len(state[_WEIGHT])
    index = torch.tensor([*COCO_IDS, *range(NUM_RAW_IDS, rows)])
    return state | {key: state[key][index] for key in (_WEIGHT, _BIAS)}


def restore_raw_ids(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`keep_used_ids`. Ids without a class get zero weights and :data:`UNUSED_LOGIT` as bias."""
    rows = len(state[_WEIGHT]) - len(COCO_IDS) + NUM_RAW_IDS
    index = torch.tensor([*COCO_IDS, *range(NUM_RAW_IDS, rows)])
    weight = state[_WEIGHT].new_zeros(rows, state[_WEIGHT].shape[1])
    bias = state[_BIAS].new_full((rows,), UNUSED_LOGIT)
    weight[index], bias[index] = state[_WEIGHT], state[_BIAS]
    return state | {_WEIGHT: weight, _BIAS: bias}
