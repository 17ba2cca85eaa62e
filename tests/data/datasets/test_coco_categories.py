"""Categories that are classes, and the one of Roboflow's that is not."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from data_helpers import make_cfg, write_coco
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from pair_detr.data import class_names_of, load_dataset, register_coco, resolve_num_classes
from pair_detr.open_vocabulary.class_lists import read_class_list

pytestmark = pytest.mark.usefixtures("catalogs")

ROBOFLOW = [
    {"id": 0, "name": "animals", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "animals"},
    {"id": 2, "name": "dog", "supercategory": "animals"},
]


def write(folder: Path, categories: list[dict[str, Any]], *annotated: int) -> Path:
    """A file with an image, and an object for each of the category ids."""
    objects = [{"image_id": 1, "bbox": [1, 2, 10, 8], "category_id": i} for i in annotated]
    file = write_coco(folder, objects, [(40, 30)])
    file.write_text(json.dumps(json.loads(file.read_text()) | {"categories": categories}))
    return file


@pytest.mark.parametrize("by_detectron2", [False, True])
def test_unused_category_of_roboflow(tmp_path: Path, caplog: pytest.LogCaptureFixture, by_detectron2: bool) -> None:
    file = write(tmp_path, ROBOFLOW, 1, 2)
    if by_detectron2:
        register_coco_instances("export", {}, str(file), str(tmp_path))
    else:
        register_coco("export", str(file), str(tmp_path))
    with caplog.at_level(logging.INFO, logger="pair_detr"):
        assert class_names_of("export") == ["cat", "dog"]
        (record,) = load_dataset("export")
    assert [annotation["category_id"] for annotation in record["annotations"]] == [0, 1]
    assert MetadataCatalog.get("export").thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert sum('category 0, "animals", is not a class' in message for message in caplog.messages) == 1


def test_test_images_without_annotations_have_the_same_classes(tmp_path: Path) -> None:
    file = write(tmp_path, ROBOFLOW)
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    register_coco("test", str(file), str(tmp_path))
    assert class_names_of("test") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("categories", "annotated"),
    [
        (ROBOFLOW, [0, 1]),
        # None of these is Roboflow's form.
        ([ROBOFLOW[0] | {"supercategory": "things"}, *ROBOFLOW[1:]], [1]),
        ([*ROBOFLOW[:2], ROBOFLOW[2] | {"supercategory": "pets"}], [1]),
        ([ROBOFLOW[0] | {"id": 3}, *ROBOFLOW[1:]], [1]),
        ([{key: c[key] for key in ("id", "name")} for c in ROBOFLOW], [1]),
        (ROBOFLOW[:1], []),
    ],
)
def test_other_categories_are_classes(tmp_path: Path, categories: list[dict[str, Any]], annotated: list[int]) -> None:
    register_coco("own", str(write(tmp_path, categories, *annotated)), str(tmp_path))
    names = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    assert class_names_of("own") == names


def test_metadata_may_keep_it(tmp_path: Path) -> None:
    file = write(tmp_path, ROBOFLOW, 1)
    register_coco("kept", str(file), str(tmp_path), thing_classes=["animals", "cat", "dog"])
    (record,) = load_dataset("kept")
    assert record["annotations"][0]["category_id"] == 1 and len(class_names_of("kept")) == 3
    register_coco("without", str(file), str(tmp_path), thing_classes=["cat", "dog"])
    assert load_dataset("without")[0]["annotations"][0]["category_id"] == 0


@pytest.mark.parametrize("first", ["train", "val"])
def test_a_validation_set_has_the_classes_of_the_training_set(tmp_path: Path, first: str) -> None:
    """One that shows no object of the class that the training images show, whichever is loaded first."""
    for part, annotated in (("train", [0, 1]), ("val", [2])):
        file = write(tmp_path / part, ROBOFLOW, *annotated)
        register_coco(part, str(file.rename(file.with_name("_annotations.coco.json"))), str(tmp_path / part))
    load_dataset(first)
    assert resolve_num_classes(make_cfg(TRAIN=("train",), TEST=("val",))) == 3
    assert class_names_of("val") == ["animals", "cat", "dog"]


def test_the_classes_of_a_file_do_not_depend_on_other_data_sets(tmp_path: Path) -> None:
    MetadataCatalog.get("unrelated").thing_classes = ["animals", "cat", "dog"]
    register_coco("export", str(write(tmp_path, ROBOFLOW, 1, 2)), str(tmp_path))
    assert class_names_of("export") == ["cat", "dog"]


def test_a_list_of_classes_from_such_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, [*ROBOFLOW[:2], ROBOFLOW[2] | {"name": " dog ", "synonyms": None}], 1)
    assert read_class_list(str(file)) == {"cat": ("cat",), "dog": ("dog",)}
    file = write(tmp_path, [{"id": 1, "name": None}])
    with pytest.raises(ValueError, match="category 1 has name null"):
        read_class_list(str(file))
