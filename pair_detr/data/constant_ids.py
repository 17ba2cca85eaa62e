"""Whether the images of a dataset keep their ids from one loading to the next."""

import hashlib
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from pair_detr.data.catalog import load_dataset
from pair_detr.data.record_cache import is_trusted

_REMEDY = (
    "Make image_id constant in the function that is registered, as the position of the file in a sorted list, or leave "
    "it out: the path of the file takes its place."
)


def require_constant_ids(name: str) -> None:
    """Makes sure that the images of a dataset have the same ids whenever, and wherever, it is loaded.

    Predictions and annotations come from loading it twice, and in several processes, and are matched by these ids.
    Datasets that are read by neither this package nor Detectron2 are loaded twice for it. All processes have to call
    it together.

    Raises:
        ValueError: the ids change; the message names an image.
        KeyError, OSError: see :func:`pair_detr.data.catalog.load_dataset`.
    """
    if (whole := MetadataCatalog.get(name).get("split_of")) is not None:
        require_constant_ids(whole)
        return
    if name in DatasetCatalog and is_trusted(name):
        return
    first, second = _ids(name), _ids(name)
    if changed := sorted(set(first) ^ set(second), key=lambda pair: pair[0]):
        file = changed[0][0]
        ids = [str(dict(pairs).get(file, "none")) for pairs in (first, second)]
        raise ValueError(
            f'Dataset "{name}" is another one each time it is loaded: {file} has the image_id {ids[0]} at first, and '
            f"{ids[1]} then, so that predictions would not be those of its image. {_REMEDY}"
        )
    digests = comm.all_gather(hashlib.sha256(repr(first).encode()).hexdigest())
    if len(set(digests)) > 1:
        raise ValueError(
            f'Dataset "{name}" has other ids, or its images in another order, in each of the {len(digests)} '
            f"processes, as hash(), a set or an unsorted list of files give them. Sort the files. {_REMEDY}"
        )


def _ids(name: str) -> list[tuple[str, Any]]:
    # The folder may be another one on each machine.
    return [(Path(record["file_name"]).name, record["image_id"]) for record in load_dataset(name)]
