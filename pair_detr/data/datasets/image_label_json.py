"""Image labels in the JSON format of COCO and LVIS, with ``pos_category_ids`` instead of boxes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.data.datasets.coco_entries import in_order_of_ids, normalize_categories, normalize_images
from pair_detr.data.scalars import find_id
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some

_FORMAT = (
    'The file should hold {"images": [{"id", "file_name", "width", "height", "pos_category_ids": [category id, ...]}, '
    '...], "categories": [{"id", "name"}, ...]}.'
)
_IMAGE_FIELDS = ("id", "width", "height", "pos_category_ids")


def register_image_labels(name: str, json_file: str | Path, image_root: str | Path, **metadata: Any) -> None:
    """Registers images with labels, but no boxes; nothing is read until the dataset is used.

    Args:
        json_file: as COCO's or LVIS's, each of its ``images`` with ``pos_category_ids``, the ids of the categories that
            it shows. Categories may have ``synonyms``, as LVIS's. Annotations with boxes are not read.
    """
    json_file, image_root = str(json_file), str(image_root)

    def load() -> list[dict[str, Any]]:
        content = read_json(json_file)
        try:
            dicts = image_label_dicts(content, image_root)
            categories = in_order_of_ids(content["categories"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{json_file} cannot be understood ({type(error).__name__}: {error}). {_FORMAT}"
            ) from error
        except ValueError as error:
            raise ValueError(f"{json_file}: {error}. {_FORMAT}") from error
        MetadataCatalog.get(name).set(
            thing_classes=[category["name"] for category in categories],
            thing_synonyms=[category.get("synonyms") or [] for category in categories],
        )
        return dicts

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, annotation_type="image", **metadata)


def image_label_dicts(content: Mapping[str, Any], image_root: str) -> list[dict[str, Any]]:
    """The images of such a file in Detectron2's standard format.

    Returns:
        dicts in the order of the file, with ``pos_category_ids`` (sorted positions in the categories in the order of
        their ids, each once) and empty ``annotations``.

    Raises:
        ValueError: an entry has not what it needs, an image no file, or labels that are not among the categories.
        KeyError, TypeError: the content is of another form.
    """
    faults = normalize_categories(content["categories"]) + normalize_images(content["images"], _IMAGE_FIELDS)
    if faults:
        raise ValueError(join_some(faults))
    contiguous = {category["id"]: i for i, category in enumerate(in_order_of_ids(content["categories"]))}
    dicts = []
    for image in content["images"]:
        if not isinstance(image["pos_category_ids"], list):
            raise ValueError(f"image {image['id']} has pos_category_ids {image['pos_category_ids']!r}")
        labels = [find_id(label, contiguous) for label in image["pos_category_ids"]]
        if unknown := [own for own, label in zip(image["pos_category_ids"], labels, strict=True) if label is None]:
            raise ValueError(f"image {image['id']} has the labels {unknown}, which are not among the categories' ids")
        dicts.append(
            {
                "file_name": str(Path(image_root) / _file_name(image)),
                "image_id": image["id"],
                "width": image["width"],
                "height": image["height"],
                "pos_category_ids": sorted({contiguous[label] for label in labels}),
                "annotations": [],
            }
        )
    return dicts


def _file_name(image: Mapping[str, Any]) -> str:
    if "file_name" in image:
        return image["file_name"]
    if "coco_url" in image:
        # LVIS names no file, but an address whose last two parts are folder and file: .../train2017/000000391895.jpg
        return "/".join(image["coco_url"].split("/")[-2:])
    raise ValueError(f"image {image['id']} has neither file_name nor coco_url")
