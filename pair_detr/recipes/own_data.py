"""The data in a folder, registered as sets for training, validation and test."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pair_detr.config_files import load_config
from pair_detr.data import register_from_config
from pair_detr.data.datasets.from_config import expand

logger = logging.getLogger(__name__)

_OPTION = "--data"
# Keeps names of folders apart from those of Detectron2's datasets.
_PREFIX = "my_"


@dataclass(frozen=True)
class OwnData:
    """Sets of data by their names in Detectron2's catalog.

    Attributes:
        entries: of DATASETS.REGISTER.
        train: to train on.
        val: to evaluate on during the training.
        test: to evaluate the result on; "" where there is none besides ``val``.
    """

    entries: list[dict[str, Any]]
    train: str
    val: str
    test: str = ""

    @property
    def names(self) -> list[str]:
        """All of them, that for training first."""
        return [name for name in (self.train, self.val, self.test) if name]


def find_own_data(folder: str, only: str = "") -> OwnData:
    """Finds out what is in a folder, logs it, and registers it; data that are not divided are, at random.

    Args:
        folder: with data as annotation programs export them.
        only: the format to look for, where there are several; see
            :func:`pair_detr.data.datasets.layouts.find_splits`.

    Raises:
        FileNotFoundError: there is no such folder, or nothing known in it.
        ValueError: there are data of several formats, none to train or to evaluate on, or no boxes.
    """
    root = Path(folder).expanduser().resolve()
    name = _PREFIX + (re.sub(r"\W+", "_", root.name).strip("_").lower() or "data")
    entries = expand(_OPTION, {"NAME": name, "FORMAT": "auto", "ROOT": str(root)}, only)
    if any(entry["FORMAT"] == "image_folder" for entry in entries):
        raise ValueError(
            f"{_OPTION}: {folder} has a folder of images for each class, and no boxes, which a detector learns from. "
            "Draw boxes with an annotation program; docs/open_vocabulary.md says how labels of images help beside them."
        )
    names = [entry["NAME"] for entry in entries]
    if names == [name]:
        names = [f"{name}_train", f"{name}_val"]
    found = {split: f"{name}_{split}" for split in ("train", "val", "test") if f"{name}_{split}" in names}
    if "train" not in found or len(found) == 1:
        missing = "training" if "train" not in found else "validation"
        raise ValueError(
            f"{_OPTION}: {folder} has a set for {' and for '.join(found) or 'nothing known'}, but none for {missing}. "
            "Add it, or put all images into one set, which is then divided."
        )
    cfg = load_config("")
    cfg.DATASETS.REGISTER = entries
    register_from_config(cfg)
    if "val" not in found:
        logger.warning(
            "%s has a test set, but none for validation: the best weights are chosen by the test set, whose AP is then "
            "higher than that of other images.",
            folder,
        )
        return OwnData(entries, found["train"], found["test"])
    return OwnData(entries, found["train"], found["val"], found.get("test", ""))
