"""Rows of classifiers: COCO's raw ids, or the classes that have one of them in Detectron2's order.

Of the 91 raw ids of things 80 are classes. Those of panoptic models are 250, of which 133 are classes, things first.
"""

from dataclasses import dataclass

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

# The logit of an id that no class has: its sigmoid, and its part in a softmax, are exactly 0.
UNUSED_LOGIT = -1e4

_WEIGHT, _BIAS = "class_head.weight", "class_head.bias"


@dataclass(frozen=True)
class RawIds:
    """The raw ids of a kind of COCO models.

    Attributes:
        count: of the ids, from 0 on.
        ids: of the classes, in the order of Detectron2's contiguous ids.
        names: of the classes.
    """

    count: int
    ids: list[int]
    names: list[str]

    def all_names(self) -> list[str]:
        """Names of all ids; "N/A" where an id has none."""
        names = ["N/A"] * self.count
        for index, name in zip(self.ids, self.names, strict=True):
            names[index] = name
        return names

    def are_meant_by(self, names: list[str] | None) -> bool:
        """Whether as many classes are these ids: where they have names, by the names, else taken for granted."""
        if names is None or len(names) != self.count or names[1] == "LABEL_1":
            return True
        # Some files spell a name in another way.
        same = sum(names[index] == name for index, name in zip(self.ids, self.names, strict=True))
        return same > len(self.names) // 2

    def keep_used(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes the classes out of a classifier over the ids; a row after those, no-object, stays the last.

        Args:
            state: by our names, without "detector.".
        """
        index = torch.tensor([*self.ids, *range(self.count, len(state[_WEIGHT]))])
        return state | {key: state[key][index] for key in (_WEIGHT, _BIAS)}

    def restore(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of :meth:`keep_used`. Ids without a class get zero weights and :data:`UNUSED_LOGIT` as bias."""
        rows = len(state[_WEIGHT]) - len(self.ids) + self.count
        index = torch.tensor([*self.ids, *range(self.count, rows)])
        weight = state[_WEIGHT].new_zeros(rows, state[_WEIGHT].shape[1])
        bias = state[_BIAS].new_full((rows,), UNUSED_LOGIT)
        weight[index], bias[index] = state[_WEIGHT], state[_BIAS]
        return state | {_WEIGHT: weight, _BIAS: bias}


def _raw_ids(count: int, things_only: bool) -> RawIds:
    used = [category for category in COCO_CATEGORIES if category["isthing"] or not things_only]
    return RawIds(count, [category["id"] for category in used], [category["name"] for category in used])


THINGS = _raw_ids(91, things_only=True)
PANOPTIC = _raw_ids(250, things_only=False)
# By the number of raw ids.
RAW_IDS: dict[int, RawIds] = {kind.count: kind for kind in (THINGS, PANOPTIC)}
COCO_IDS, COCO_NAMES = THINGS.ids, THINGS.names
