"""Data sets and their classes from Detectron2's catalogs, with errors that say what to do."""

import json
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.register_coco import register_coco_instances

_WHERE_TO_REGISTER = "list it in DATASETS.REGISTER, or register it in Python before the config is used"


def register_coco(name: str, json_file: str, image_root: str, **metadata: Any) -> None:
    """Registers data in COCO's JSON format; nothing is read until the data set is used.

    Args:
        name: name in the catalogs.
        json_file: annotations.
        image_root: folder of the images.
        metadata: further entries of the metadata, such as ``thing_classes``, or ``remedy``: what to do where the
            files are missing.
    """
    register_coco_instances(name, metadata, str(json_file), str(image_root))


def load_dataset(name: str) -> list[dict[str, Any]]:
    """Loads a data set of the catalog.

    Returns:
        its images in Detectron2's standard format; not validated.

    Raises:
        KeyError: ``name`` is not registered.
        FileNotFoundError: annotations or images are missing; the message names the file.
        ValueError: the annotations cannot be understood, or there are no images.
    """
    if name not in DatasetCatalog:
        # Detectron2 registers its own data sets by the dozen: they would drown the names that matter here.
        raise KeyError(f'Data set "{name}" is not registered: {_WHERE_TO_REGISTER}; or correct the name.')
    metadata = MetadataCatalog.get(name)
    try:
        dicts = DatasetCatalog.get(name)
    except FileNotFoundError as error:
        remedy = metadata.get(
            "remedy", "Correct its path, or set the environment's DETECTRON2_DATASETS to the folder of the data sets."
        )
        raise FileNotFoundError(f'Data set "{name}": {error}. {remedy}') from error
    except (AssertionError, KeyError, TypeError, json.JSONDecodeError) as error:
        # What pycocotools and Detectron2 raise for a file that is not what it should be, without the file's name.
        source = metadata.get("json_file", "its annotations")
        detail = error.args[0] if error.args else error
        raise ValueError(
            f'Data set "{name}": {source} cannot be understood ({type(error).__name__}: {detail}). '
            "Correct the file; the format is described at cocodataset.org, Data format."
        ) from error
    if len(dicts) == 0:
        raise ValueError(f'Data set "{name}" has no images: remove it from DATASETS, or correct its annotations.')
    return dicts


def class_names_of(name: str) -> list[str] | None:
    """Names of the classes of a registered data set, in the order of their contiguous ids.

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
    return None if classes is None else list(classes)
