"""What has been read of datasets, kept from one loading to the next of the same process."""

import gc
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.utils.file_stamps import Stamp, are_unchanged, record_read, recorded_reads

# Packages whose functions give the same images in the same order each time, from files that can be known.
_TRUSTED = ("pair_detr", "detectron2")
# Metadata with names of files that Detectron2 reads, which pair_detr.utils does not see.
_FILES = ("json_file", "panoptic_json")
# Items are pickled in parts: pickle keeps a note of every object of a part.
_PART = 1000


def is_trusted(name: str) -> bool:
    """Whether a registered dataset is read by this package or by Detectron2, not by a function of the user's.

    A part of a dataset is what the whole is.
    """
    if (whole := MetadataCatalog.get(name).get("split_of")) is not None:
        return is_trusted(whole)
    module = getattr(DatasetCatalog[name], "__module__", None) or ""
    return module.partition(".")[0] in _TRUSTED


@dataclass(frozen=True)
class _Kept:
    name: str
    parts: list[bytes]
    stamps: dict[str, Stamp]
    metadata: str


class RecordCache:
    """Reads lists of plain objects once for each registered dataset.

    They are read anew when the dataset is registered anew, when its metadata are others, and when a file or a listed
    folder that they come from has changed; where the files are not known, as with functions of the user's, always.

    Every call returns a list of its own, which may be changed. What is kept is pickled: a fraction of the memory.
    """

    def __init__(self) -> None:
        # By the functions of the catalog: with these, what they have read is forgotten.
        self._kept: WeakKeyDictionary[Callable, _Kept] = WeakKeyDictionary()

    def read(self, name: str, function: Callable[[], list[Any]]) -> list[Any]:
        """The list that ``function`` returns for the dataset ``name``, or has returned before."""
        if not is_trusted(name):
            return function()
        with _garbage_collection_paused():
            kept = self._kept.get(DatasetCatalog[name])
            if kept is not None and kept.name == name and kept.metadata == _state(name) and are_unchanged(kept.stamps):
                for file in kept.stamps:
                    # A dataset that is made of this one comes from the same files.
                    record_read(file)
                return [item for part in kept.parts for item in pickle.loads(part)]
            with recorded_reads() as stamps:
                for key in _FILES:
                    if file := MetadataCatalog.get(name).get(key):
                        record_read(file)
                items = function()
            if stamps:
                parts = [pickle.dumps(items[start : start + _PART], -1) for start in range(0, len(items), _PART)]
                self._kept[DatasetCatalog[name]] = _Kept(name, parts, stamps, _state(name))
            return items

    def forget(self, name: str) -> None:
        """Frees the memory of a dataset that is not going to be read again."""
        if name in DatasetCatalog and is_trusted(name):
            self._kept.pop(DatasetCatalog[name], None)


def _state(name: str) -> str:
    return repr(sorted(MetadataCatalog.get(name).as_dict().items()))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """The collector would walk through all of COCO's annotations again and again: half of the time, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
