"""Training and validation images out of one set."""

import hashlib
import os
from collections.abc import Collection
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.data.catalog import load_dataset
from pair_detr.utils.messages import counted

PARTS = ("train", "val")
# Where the annotations of the whole are: an evaluator that reads them would ask for all of its images.
_OF_THE_WHOLE = ("name", "json_file", "dirname", "split", "split_of")


def register_split(name: str, val: float, seed: int = 0) -> None:
    """Registers ``<name>_train`` and ``<name>_val``, which share the images of ``name`` out between them.

    Args:
        val: part of the images that are for validation, between 0 and 1.

    Raises:
        ValueError: ``val`` is not between 0 and 1.
    """
    if not 0 < val < 1:
        raise ValueError(f"VAL is {val}; it must be between 0 and 1, as 0.2 for every fifth image")
    for part in PARTS:
        _register_part(name, part, val, seed)


def validation_files(files: Collection[str], val: float, seed: int) -> set[str]:
    """Chooses a part of the files for validation; each side has one at least.

    Paths are to be the same on every machine. Whether a file is chosen depends on the set of files and the seed, not on
    their order; files that are added later let few of the others change sides.

    Raises:
        ValueError: there are less than two files.
    """
    ranked = sorted(set(files), key=lambda file: hashlib.sha256(f"{seed}/{file}".encode()).digest())
    if len(ranked) < 2:
        raise ValueError(
            f"{counted(len(ranked), 'image')} cannot be split into training and validation images; add some"
        )
    return set(ranked[: min(max(round(val * len(ranked)), 1), len(ranked) - 1)])


def _register_part(whole: str, part: str, val: float, seed: int) -> None:
    name = f"{whole}_{part}"

    def load() -> list[dict[str, Any]]:
        records = load_dataset(whole)
        # Some of the metadata are filled by loading.
        _copy_metadata(whole, name)
        root = MetadataCatalog.get(whole).image_root
        files = [os.path.relpath(record["file_name"], root) for record in records]
        chosen = validation_files(files, val, seed)
        is_val = part == "val"
        return [record for record, file in zip(records, files, strict=True) if (file in chosen) == is_val]

    DatasetCatalog.register(name, load)
    _copy_metadata(whole, name)
    MetadataCatalog.get(name).split_of = whole


def _copy_metadata(source: str, target: str) -> None:
    entries = MetadataCatalog.get(source).as_dict()
    MetadataCatalog.get(target).set(**{key: value for key, value in entries.items() if key not in _OF_THE_WHOLE})
