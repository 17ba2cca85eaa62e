"""Fields of COCO's format in the ways in which programs write them, and the same records as from Detectron2."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from data_helpers import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from pycocotools import mask as mask_util

from pair_detr.data import load_dataset, register_coco, register_image_labels
from pair_detr.data.checks.report import inspect_dicts
from pair_detr.data.checks.trainable import validate
from pair_detr.tools import withhold_boxes

pytestmark = pytest.mark.usefixtures("catalogs")


def load(folder: Path, **changes: Any) -> dict[str, Any]:
    """The annotation of a dataset, with these fields, as loaded; ... stands for a field that is left out."""
    file = write_coco(folder, [{"image_id": 1, "bbox": [1, 2, 10, 8]}], [(40, 30)])
    change(file, "annotations", **changes)
    register_coco("own", str(file), str(folder))
    return load_dataset("own")[0]["annotations"][0]


def change(file: Path, key: str, **changes: Any) -> None:
    """Changes the first entry of a list."""
    content = json.loads(file.read_text())
    content[key][0] = {name: value for name, value in (content[key][0] | changes).items() if value is not ...}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("value", [..., None, 0, 0.0, False, "0", "false"])
def test_no_crowd(tmp_path: Path, value: Any) -> None:
    assert load(tmp_path, iscrowd=value)["iscrowd"] == 0
    records = load_dataset("own")
    assert inspect_dicts("own", records).num_boxes == 1
    assert len(validate("own", records)[0]["annotations"]) == 1


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true"])
def test_crowd(tmp_path: Path, value: Any) -> None:
    assert load(tmp_path, iscrowd=value)["iscrowd"] == 1
    assert inspect_dicts("own", load_dataset("own")).num_boxes == 0


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
@pytest.mark.parametrize("value", [2, -1, "", "yes", [], 0.5])
def test_a_flag_that_is_none_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ValueError) as error:
        load(tmp_path, **{key: value})
    assert f"annotations.json: annotation 1 of image 1 has {key} {json.dumps(value)}. Correct" in str(error.value)


@pytest.mark.parametrize(("value", "crowd"), [(1, 1), ("true", 1), (0, 0), (None, 0), ("0", 0)])
def test_ignored_objects_are_crowds(tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any, crowd: int) -> None:
    with caplog.at_level(logging.INFO, logger="pair_detr"):
        assert load(tmp_path, ignore=value)["iscrowd"] == crowd
        load_dataset("own")
    messages = [message for message in caplog.messages if "1 object has ignore 1: such are crowds" in message]
    # Once for a file, however often it is loaded.
    assert len(messages) == crowd


@pytest.mark.parametrize(("value", "area"), [(12, 12.0), (12.5, 12.5), ("12.5", 12.5), (None, None), (..., None)])
def test_area(tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any, area: float | None) -> None:
    caplog.set_level(logging.WARNING, logger="pair_detr")
    assert load(tmp_path, area=value).get("area") == area
    assert not caplog.records


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "large", [], True])
def test_an_area_of_no_use_is_left_to_the_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    caplog.set_level(logging.WARNING, logger="pair_detr")
    assert "area" not in load(tmp_path, area=value)
    (message,) = caplog.messages
    assert "area of 1 object is not a positive number (annotation 1 of image 1)" in message


def test_numbers_as_text_and_floats(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"image_id": "1", "category_id": 2.0, "bbox": ["1", "2.5", 10, 8]}], [(40, 30)])
    change(file, "images", width="40", height=30.0)
    register_coco("own", str(file), str(tmp_path))
    (record,) = load_dataset("own")
    (annotation,) = record["annotations"]
    assert [record["width"], record["height"], annotation["category_id"]] == [40, 30, 1]
    assert {type(record[key]) for key in ("width", "height", "image_id")} == {int}
    assert annotation["bbox"] == [1, 2.5, 10, 8] and {*map(type, annotation["bbox"])} == {float}


@pytest.mark.parametrize(
    ("ids", "of_annotation", "loaded"),
    [
        ([1.0, 2.0], 2, [1, 2]),
        (["a", "b"], "b", ["a", "b"]),
        (["01", "2"], 2, ["01", "2"]),
        ([2**70, 2**70 + 1], str(2**70 + 1), [2**70, 2**70 + 1]),
        # Of both kinds, numbers as text can only be meant as numbers.
        ([1, "2"], "2", [1, 2]),
    ],
)
def test_ids_of_images(tmp_path: Path, ids: list[Any], of_annotation: Any, loaded: list[Any]) -> None:
    file = write_coco(tmp_path, [{"image_id": of_annotation, "bbox": [1, 2, 10, 8]}], [(40, 30)] * 2)
    content = json.loads(file.read_text())
    for image, own in zip(content["images"], ids, strict=True):
        image["id"] = own
    file.write_text(json.dumps(content))
    register_coco("own", str(file), str(tmp_path))
    records = load_dataset("own")
    assert [record["image_id"] for record in records] == loaded
    assert [type(record["image_id"]) for record in records] == [*map(type, loaded)]
    assert [len(record["annotations"]) for record in records] == [0, 1]


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("images", {"id": 1.5}, "image 1.5 has id 1.5"),
        ("images", {"id": True}, "image True has id true"),
        ("images", {"id": "one"}, 'images have both numbers and text as ids, as "one" and 2'),
        ("images", {"id": "2"}, "image 2 occurs more than once"),
        ("images", {"width": 40.5}, "image 1 has width 40.5"),
        ("images", {"height": "tall"}, 'image 1 has height "tall"'),
        ("images", {"height": -30}, "image 1 has height -30"),
        ("images", {"width": math.nan}, "image 1 has width NaN"),
        ("images", {"file_name": None}, "image 1 has file_name null"),
        ("images", {"file_name": 7}, "image 1 has file_name 7"),
        ("categories", {"name": None}, "category 1 has name null"),
        ("categories", {"name": "  "}, 'category 1 has name "  "'),
        ("categories", {"name": ["cat"]}, r'category 1 has name \["cat"\]'),
        ("categories", {"id": None}, "category None has id null"),
        ("annotations", {"bbox": [1, 2, True, 4]}, r"annotation 1 of image 2 has bbox \[1, 2, true, 4\]"),
        ("annotations", {"bbox": [1, 2, 10**400, 4]}, r"annotation 1 of image 2 has bbox \[1, 2, 1000"),
        ("annotations", {"image_id": 2.5}, "annotation 1 of image 2.5 has image_id 2.5"),
        ("annotations", {"category_id": "cat"}, 'annotation 1 of image 2 has category_id "cat", which is not among'),
    ],
)
def test_what_is_refused(tmp_path: Path, key: str, changes: dict[str, Any], message: str) -> None:
    file = write_coco(tmp_path, [{"image_id": 2, "bbox": [1, 2, 10, 8]}], [(40, 30)] * 2)
    change(file, key, **changes)
    register_coco("own", str(file), str(tmp_path))
    with pytest.raises(ValueError, match=rf"annotations\.json: .*{message}.*Correct the file"):
        load_dataset("own")


def test_names_of_categories(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 2, 10, 8]}], [(40, 30)])
    content = json.loads(file.read_text()) | {"categories": [{"id": 2, "name": 7}, {"id": 1, "name": " cat\n"}]}
    file.write_text(json.dumps(content))
    register_coco("own", str(file), str(tmp_path))
    load_dataset("own")
    assert MetadataCatalog.get("own").thing_classes == ["cat", "7"]
    assert MetadataCatalog.get("own").thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}


@pytest.mark.parametrize("register", [register_coco, None])
def test_metadata_must_agree_with_the_file(tmp_path: Path, register: Any) -> None:
    file = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 2, 10, 8]}], [(40, 30)])

    def add(name: str, **metadata: Any) -> None:
        if register is None:
            register_coco_instances(name, metadata, str(file), str(tmp_path))
        else:
            register(name, str(file), str(tmp_path), **metadata)

    add("same", thing_classes=("cat", "dog"), thing_dataset_id_to_contiguous_id={1: 0, 2: 1})
    assert len(load_dataset("same")) == 1
    add("other", thing_classes=["dog", "cat"])
    with pytest.raises(ValueError, match=r"annotations\.json: its categories, .* are cat, dog, but .* dog, cat\. Corr"):
        load_dataset("other")
    add("ids", thing_dataset_id_to_contiguous_id={1: 1, 2: 0})
    with pytest.raises(ValueError, match=r"have the ids \[1, 2\], but thing_dataset_id_to_contiguous_id is \{1: 1, 2"):
        load_dataset("ids")


def test_annotations_that_coco_2014_has_twice(tmp_path: Path) -> None:
    annotations = [{"id": 5, "image_id": i, "bbox": [1, 2, 10, 8]} for i in (1, 2)]
    file = write_coco(tmp_path, annotations, [(40, 30)] * 2)
    minival = file.rename(tmp_path / "instances_minival2014.json")
    register_coco_instances("minival", {}, str(minival), str(tmp_path))
    assert [len(record["annotations"]) for record in load_dataset("minival")] == [1, 1]


@pytest.mark.parametrize("split", ["val", "train"])
def test_records_are_those_of_detectron2(shared_dir: Path, split: str) -> None:
    """The project adds the area; run lengths of crowds stay as in the file, where Detectron2 compresses them."""
    folder = shared_dir / "datasets" / "coco"
    file, images = folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017"
    meta = MetadataCatalog.get("coco_2017_val").as_dict()
    metadata = {key: meta[key] for key in ("thing_classes", "thing_dataset_id_to_contiguous_id")}
    register_coco_instances("coco_of_test", metadata, str(file), str(images))
    own, expected = load_dataset("coco_of_test"), load_coco_json(str(file), str(images), "coco_expected")
    areas = {(a["image_id"], *a["bbox"]): a["area"] for a in json.loads(file.read_text())["annotations"]}
    crowds = 0
    for record in own:
        for annotation in record["annotations"]:
            assert annotation.pop("area") == areas[(record["image_id"], *annotation["bbox"])]
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, dict):
                crowds += annotation["iscrowd"]
                annotation["segmentation"] = mask_util.frPyObjects(segmentation, *segmentation["size"])
    assert own == expected
    assert crowds > 0 and MetadataCatalog.get("coco_expected").thing_classes == metadata["thing_classes"]


def test_functions_of_others_are_called(tmp_path: Path) -> None:
    """What is registered is read here only if Detectron2's own function has registered it."""
    file = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 2, 10, 8]}], [(40, 30)])
    register_coco_instances("changed", {}, str(file), str(tmp_path))
    function = DatasetCatalog["changed"]
    DatasetCatalog["changed"] = lambda: [{**record, "image_id": 77} for record in function()]
    assert [record["image_id"] for record in load_dataset("changed")] == [77]
    register_coco_instances("bare", {}, str(file), str(tmp_path))
    MetadataCatalog.pop("bare")
    assert [record["image_id"] for record in load_dataset("bare")] == [1]


def test_tools_read_files_in_the_same_way(tmp_path: Path) -> None:
    boxes = [{"image_id": "1", "bbox": [i, 1, 5, 5], "category_id": str(1 + i % 2), "iscrowd": None} for i in range(4)]
    file = write_coco(tmp_path, boxes, [(30, 20)] * 2)
    change(file, "categories", name=" cat ")
    withhold_boxes.main([str(file), str(tmp_path / "withheld"), "--classes", "cat"])
    register_coco("kept", str(tmp_path / "withheld_boxes.json"), str(tmp_path))
    register_image_labels("labels", tmp_path / "withheld_image_labels.json", tmp_path)
    assert [[a["bbox"][0] for a in record["annotations"]] for record in load_dataset("kept")] == [[1, 3], []]
    assert [(record["image_id"], record["pos_category_ids"]) for record in load_dataset("labels")] == [(1, [0])]
    change(file, "annotations", category_id=9)
    with pytest.raises(
        ValueError, match="annotation 1 of image 1 has category_id 9, which is not among the categories"
    ):
        withhold_boxes.main([str(file), str(tmp_path / "withheld"), "--classes", "cat"])
