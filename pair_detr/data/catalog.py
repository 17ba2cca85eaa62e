"""Datasets and their classes from Detectron2's catalogs, with errors that say what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from pair_detr.data.datasets.coco import detectron2_reader
from pair_detr.data.datasets.coco_panoptic import complete_records
from pair_detr.data.datasets.lvis_json import is_own_lvis, load_own_lvis
from pair_detr.data.datasets.panoptic_classes import PanopticClasses, classes_from_metadata, is_separated
from pair_detr.data.image_names import with_slashes
from pair_detr.data.record_cache import RecordCache
from pair_detr.data.records import normalize_records

# Metadata that name the files of annotations.
_PATHS = ("json_file", "panoptic_json", "dirname")
_WHERE_TO_REGISTER = "list it in DATASETS.REGISTER, or register it in Python before the config is used"

_cache = RecordCache()


def load_dataset(name: str) -> list[dict[str, Any]]:
    """Loads a dataset of the catalog.

    The annotations are read once a process, and again where they have changed; see
    :class:`pair_detr.data.record_cache.RecordCache`. Files in COCO's format are read by
    :func:`pair_detr.data.datasets.coco.load_coco`, also those registered with Detectron2's
    ``register_coco_instances``, as its own ``coco_2017_train`` is.

    Returns:
        its images in Detectron2's standard format, in the form of :func:`pair_detr.data.records.normalize_records`,
        panoptic ones as :func:`pair_detr.data.datasets.coco_panoptic.complete_records` makes them; not validated.

    Raises:
        KeyError: ``name`` is not registered.
        FileNotFoundError: annotations or images are missing; the message names the file.
        OSError: the annotations cannot be read.
        ImportError: a package that reads them is not installed.
        ValueError: the annotations cannot be understood, or there are no images.
    """
    if name not in DatasetCatalog:
        # Detectron2 registers its own datasets by the dozen: they would drown the names that matter here.
        raise KeyError(f'Dataset "{name}" is not registered: {_WHERE_TO_REGISTER}; or correct the name.')
    records = _cache.read(name, partial(_read, name))
    if len(records) == 0:
        raise ValueError(f'Dataset "{name}" has no images: remove it from DATASETS, or correct its annotations.')
    return records


def forget_dataset(name: str) -> None:
    """Frees what :func:`load_dataset` keeps of a dataset to load it again without reading its files."""
    _cache.forget(name)


def _read(name: str) -> list[dict[str, Any]]:
    with _explained(name):
        # This package's readers take the place of Detectron2's of COCO and of LVIS.
        if is_own_lvis(name):
            records = load_own_lvis(MetadataCatalog.get(name))
        else:
            records = (detectron2_reader(name) or DatasetCatalog[name])()
        if isinstance(records, Iterator):
            # It may fail only now.
            records = list(records)
    records = normalize_records(name, records)
    with _explained(name):
        return with_slashes(name, complete_records(records, MetadataCatalog.get(name)))


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors in the block become errors of the same kind that say which dataset it is, and what to do."""
    metadata = MetadataCatalog.get(name)
    try:
        yield
    except OSError as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f'Dataset "{name}": {str(error).rstrip(".")}. {_remedy(error, metadata)}'.rstrip()) from error
    except ImportError as error:
        raise ImportError(
            f'Dataset "{name}" is read with the package {error.name}, which is not installed: install it with pip.',
            name=error.name,
        ) from error
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        if (json_file := metadata.get("json_file")) is not None and str(json_file) not in detail:
            # Neither pycocotools, lvis nor Detectron2 say which file it is.
            site = "lvisdataset.org, Dataset" if metadata.get("evaluator_type") == "lvis" else "cocodataset.org"
            detail = (
                f"{json_file} cannot be understood ({detail}). Correct the file; the format is described at "
                f"{site}, Data format."
            )
        raise ValueError(f'Dataset "{name}" cannot be loaded: {detail}') from error


def datasets_root() -> Path:
    """Folder of the datasets: the environment's DETECTRON2_DATASETS, by default ``datasets``, as for Detectron2."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def _remedy(error: OSError, metadata: Metadata) -> str:
    """What to do about a file that cannot be read; "" where only the message of the error can say."""
    if isinstance(error, PermissionError):
        return "Make it readable for the user who runs this."
    if isinstance(error, IsADirectoryError):
        return "It is a folder: register the file with the annotations."
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ""
    if (remedy := metadata.get("remedy")) is not None:
        return remedy
    paths = [error.filename] if error.filename else [metadata.get(key) for key in _PATHS]
    root = datasets_root()
    if any(Path(path).absolute().is_relative_to(root.absolute()) for path in paths if path):
        return (
            f"Put the dataset there, or set the environment's DETECTRON2_DATASETS (now {root}) to the folder that "
            "holds the datasets."
        )
    # Messages of this package's own, which have no number, say what to do.
    return "Correct the path where the dataset is registered." if error.errno is not None else ""


def class_names_of(name: str) -> list[str] | None:
    """Names of the classes of a registered dataset, in the order of their contiguous ids; things before stuff.

    The annotations are loaded only where the metadata are filled by loading, as with ``register_coco_instances``.

    Returns:
        the names, or None if the dataset does not say.

    Raises:
        KeyError, FileNotFoundError, ValueError: as :func:`load_dataset`.
        ValueError: a name is not text.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        load_dataset(name)
    classes = metadata.get("thing_classes")
    if classes is not None and is_separated(metadata):
        classes = classes_from_metadata(metadata).names
    if classes is None:
        return None
    if isinstance(classes, str) or not all(isinstance(own, str) for own in classes):
        raise ValueError(
            f'Dataset "{name}" has thing_classes {classes!r} in its metadata, which must be a list of text: write '
            '["5"] for 5, and ["cat"] for one class.'
        )
    return list(classes)


def panoptic_classes(name: str) -> PanopticClasses:
    """Classes of a registered dataset as a panoptic model numbers them: which are things, and their other numbers.

    They are those of the metadata in Detectron2's standard form, where things and stuff share one numbering; in the
    separated form, where each has its own, stuff follows the things. Without stuff, all classes are things. The
    annotations are loaded only where the metadata are filled by loading.

    Raises:
        KeyError, OSError, ValueError: as :func:`load_dataset`; or the metadata have no classes, or number them in none
            of the two ways.
    """
    class_names_of(name)
    return classes_from_metadata(MetadataCatalog.get(name))


def annotation_type_of(name: str) -> str:
    """Whether a dataset has boxes ("box") or is registered as one with labels of whole images ("image")."""
    return MetadataCatalog.get(name).get("annotation_type", "box")
