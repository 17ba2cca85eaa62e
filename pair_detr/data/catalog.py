"""Data sets and their classes from Detectron2's catalogs, with errors that say what to do."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.data.coco import detectron2_reader
from pair_detr.data.panoptic import complete_records
from pair_detr.data.panoptic_classes import PanopticClasses, classes_from_metadata, is_separated
from pair_detr.data.records import normalize_records

_WHERE_TO_REGISTER = "list it in DATASETS.REGISTER, or register it in Python before the config is used"


def load_dataset(name: str) -> list[dict[str, Any]]:
    """Loads a data set of the catalog.

    Files in COCO's format are read by :func:`pair_detr.data.coco.load_coco`, also those registered with Detectron2's
    ``register_coco_instances``, as its own ``coco_2017_train`` is.

    Returns:
        its images in Detectron2's standard format, in the form of :func:`pair_detr.data.records.normalize_records`,
        panoptic ones as :func:`pair_detr.data.panoptic.complete_records` makes them; not validated.

    Raises:
        KeyError: ``name`` is not registered.
        FileNotFoundError: annotations or images are missing; the message names the file.
        OSError: the annotations cannot be read.
        ImportError: a package that reads them is not installed.
        ValueError: the annotations cannot be understood, or there are no images.
    """
    if name not in DatasetCatalog:
        # Detectron2 registers its own data sets by the dozen: they would drown the names that matter here.
        raise KeyError(f'Data set "{name}" is not registered: {_WHERE_TO_REGISTER}; or correct the name.')
    # The collector would walk through all of COCO's annotations again and again: half of the time, for nothing.
    with _garbage_collection_paused():
        with _explained(name):
            read = detectron2_reader(name) or DatasetCatalog[name]
            records = read()
            if isinstance(records, Iterator):
                # It may fail only now.
                records = list(records)
        records = normalize_records(name, records)
        with _explained(name):
            records = complete_records(records, MetadataCatalog.get(name))
    if len(records) == 0:
        raise ValueError(f'Data set "{name}" has no images: remove it from DATASETS, or correct its annotations.')
    return records


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors in the block become errors of the same kind that say which data set it is, and what to do."""
    metadata = MetadataCatalog.get(name)
    try:
        yield
    except OSError as error:
        remedy = metadata.get(
            "remedy", "Correct its path, or set the environment's DETECTRON2_DATASETS to the folder of the data sets."
        )
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f'Data set "{name}": {error}. {remedy}') from error
    except ImportError as error:
        raise ImportError(
            f'Data set "{name}" is read with the package {error.name}, which is not installed: install it with pip.',
            name=error.name,
        ) from error
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        if (json_file := metadata.get("json_file")) is not None and str(json_file) not in detail:
            # Neither pycocotools nor Detectron2 say which file it is.
            detail = (
                f"{json_file} cannot be understood ({detail}). Correct the file; the format is described at "
                "cocodataset.org, Data format."
            )
        raise ValueError(f'Data set "{name}" cannot be loaded: {detail}') from error


def class_names_of(name: str) -> list[str] | None:
    """Names of the classes of a registered data set, in the order of their contiguous ids; things before stuff.

    The annotations are loaded only where the metadata are filled by loading, as with ``register_coco_instances``.

    Returns:
        the names, or None if the data set does not say.

    Raises:
        KeyError, FileNotFoundError, ValueError: as :func:`load_dataset`.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        load_dataset(name)
    classes = metadata.get("thing_classes")
    if classes is not None and is_separated(metadata):
        classes = classes_from_metadata(metadata).names
    return None if classes is None else list(classes)


def panoptic_classes(name: str) -> PanopticClasses:
    """Classes of a registered data set as a panoptic model numbers them: which are things, and their other numbers.

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
    """Whether a data set has boxes ("box") or is registered as one with labels of whole images ("image")."""
    return MetadataCatalog.get(name).get("annotation_type", "box")
