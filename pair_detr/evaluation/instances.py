"""The objects that COCO's AP of a dataset is about."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data.catalog import panoptic_classes
from pair_detr.data.class_matching import with_classes
from pair_detr.data.datasets.coco_json import read_coco_json
from pair_detr.data.datasets.panoptic_classes import category_ids_of
from pair_detr.data.datasets.panoptic_masks import mask_file
from pair_detr.data.record_cache import RecordCache
from pair_detr.evaluation.coco_ground_truth import objects_of
from pair_detr.utils.messages import counted, join_some

_NAMED = 3
_files_of_things = RecordCache()


@dataclass(frozen=True)
class EvaluatedObjects:
    """What COCO's AP of a dataset is computed of.

    Attributes:
        records: images; the classes of their annotations are the evaluated ones.
        class_names: of the evaluated classes.
        category_ids: of these in the files of the dataset; None if it does not say.
        class_indices: of these among the classes of the model, where it has more, as stuff; None where it has not.
    """

    records: Sequence[dict[str, Any]]
    class_names: tuple[str, ...]
    category_ids: tuple[Hashable, ...] | None = None
    class_indices: tuple[int, ...] | None = None


def evaluated_objects(name: str, records: Sequence[dict[str, Any]], class_agnostic: bool = False) -> EvaluatedObjects:
    """The objects of a dataset that AP is computed of: all, or its things if it has stuff.

    Panoptic data may have their things in a file of their own (INSTANCES in DATASETS.REGISTER): segments do not
    overlap, but objects, as COCO's AP takes them, do. Without such a file their segments are the objects.

    With ``class_agnostic`` all are of one class, "object".

    Raises:
        OSError, ValueError: the file of things cannot be read, or lacks images; the dataset does not say what its
            classes are, or an object is of none of them.
    """
    classes = panoptic_classes(name)
    _require_classes(name, records, len(classes.names))
    metadata = MetadataCatalog.get(name)
    file = things_file(name)
    if file and mask_file(records[0]):
        records = _with_things(name, records, file)
    if class_agnostic:
        return EvaluatedObjects(with_classes(records, [0] * len(classes.names)), ("object",))
    ids = category_ids_of(metadata)
    if all(classes.is_thing):
        return EvaluatedObjects(records, classes.names, ids)
    things = tuple(index for index, is_thing in enumerate(classes.is_thing) if is_thing)
    return EvaluatedObjects(
        with_classes(records, {index: number for number, index in enumerate(things)}),
        tuple(classes.names[index] for index in things),
        ids and tuple(ids[index] for index in things),
        things,
    )


def things_file(name: str) -> Path | None:
    """The file in COCO's format that the metadata name, if it exists."""
    file = MetadataCatalog.get(name).get("json_file")
    return Path(file) if file and Path(file).is_file() else None


def _require_classes(name: str, records: Sequence[dict[str, Any]], num_classes: int) -> None:
    unknown = [
        f"annotation {index} of {record['file_name']} has class {annotation['category_id']!r}"
        for record, index, annotation in objects_of(records)
        if annotation["category_id"] not in range(num_classes)
    ]
    if unknown:
        raise ValueError(
            f'Test set "{name}": {join_some(unknown)}, but its {counted(num_classes, "class has", "classes have")} '
            f"the ids 0 to {num_classes - 1}. Correct the annotations, or the dataset's thing_classes."
        )


def _with_things(name: str, records: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Images with the objects of a file in COCO's format in place of their segments."""
    (content,) = _files_of_things.read(name, lambda: [read_coco_json(str(file))])
    classes: Mapping[Hashable, int] = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    images = {image["id"] for image in content["images"]}
    if missing := [repr(record["image_id"]) for record in records if record["image_id"] not in images]:
        raise ValueError(
            f'Test set "{name}": {len(missing)} of its {len(records)} images are not in {file}, the file of its things '
            f"({join_some(missing, _NAMED)}). Add them, or leave out INSTANCES in DATASETS.REGISTER (json_file in the "
            'metadata) and set TEST.EVALUATOR "coco" for the AP of segments.'
        )
    objects: dict[Hashable, list[dict[str, Any]]] = {record["image_id"]: [] for record in records}
    for annotation in content.get("annotations", ()):
        # panopticapi also converts segments of stuff to annotations.
        if annotation["image_id"] in objects and annotation["category_id"] in classes:
            own = {"category_id": classes[annotation["category_id"]], "bbox_mode": BoxMode.XYWH_ABS}
            objects[annotation["image_id"]].append({**annotation, **own})
    return [
        {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        | {"annotations": objects[record["image_id"]]}
        for record in records
    ]
