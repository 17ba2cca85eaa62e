"""Names that files and folders of training, validation and test have."""

import re
from collections.abc import Iterable
from typing import Any

# An entry for DATASETS.REGISTER by split.
Splits = dict[str, dict[str, Any]]

# Data that are not divided.
ALL = "all"
_WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLITS = {word: split for split, words in _WORDS.items() for word in words}


def split_named_by(text: str) -> str | None:
    """The split that a name speaks of: "val" for instances_valid2017.json; None for none, or for several."""
    splits = {_SPLITS[word] for word in re.findall("[a-z]+", text.lower()) if word in _SPLITS}
    return splits.pop() if len(splits) == 1 else None


def group_by_split(named: Iterable[tuple[str, dict[str, Any]]]) -> Splits:
    """Entries by the splits that their names speak of, train first; those that speak of none are left out.

    Raises:
        ValueError: two are of the same split.
    """
    found: Splits = {}
    for name, entry in named:
        split = split_named_by(name)
        if split in found:
            raise ValueError(
                f"there are two sets for {split}: {found[split]} and {entry}. Register the one that is meant"
            )
        if split is not None:
            found[split] = entry
    return {split: found[split] for split in _WORDS if split in found}
