"""Loading of what is registered, and what is wrong with a file in COCO's format."""

import gc
import json
from pathlib import Path

import pytest
from data_helpers import write_coco
from detectron2.data.datasets import register_coco_instances

from pair_detr.data import load_dataset, register_coco

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    boxes = [{"image_id": 1, "bbox": [1, 2, 10, 8]}, {"image_id": 2, "bbox": [0, 0, 5, 5], "category_id": 2}]
    return write_coco(tmp_path / "coco", boxes, [(40, 30), (20, 20)])


def test_unregistered_name() -> None:
    with pytest.raises(KeyError, match=r'"nothing" is not registered: list it in DATASETS\.REGISTER'):
        load_dataset("nothing")


_GOOD = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8]}


def load(file: Path, content: object) -> list[dict]:
    """Loads ``content`` from a file of this name."""
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    register_coco(file.stem, str(file), str(file.parent))
    return load_dataset(file.stem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, "annotation 7 of image 1 has bbox null"),
        ({"bbox": []}, r"annotation 7 of image 1 has bbox \[\]"),
        ({"bbox": [1, 2, 3]}, r"annotation 7 of image 1 has bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, "wide"]}, r'annotation 7 of image 1 has bbox \[1, 2, 3, "wide"\]'),
        ({"bbox": "1,2"}, 'annotation 7 of image 1 has bbox "1,2"'),
        ({"bbox": ...}, "annotation 7 of image 1 has no bbox"),
        ({"category_id": ...}, "annotation 7 of image 1 has no category_id"),
        ({"category_id": 9}, "annotation 7 of image 1 has category_id 9, which is not among the categories"),
        ({"category_id": None}, "annotation 7 of image 1 has category_id null"),
        ({"image_id": ...}, "annotation 7 has no image_id"),
        ({"image_id": "one"}, 'annotation 7 of image one has image_id "one", which is not among the images'),
        ({"id": ...}, r"annotations\[0\] has no id"),
    ],
)
def test_a_bad_annotation_is_named(coco_file: Path, change: dict, message: str) -> None:
    """A value of ... stands for a key that is left out."""
    annotation = {key: value for key, value in (_GOOD | change).items() if value is not ...}
    content = json.loads(coco_file.read_text()) | {"annotations": [annotation]}
    with pytest.raises(
        ValueError, match=rf'"bad" cannot be loaded: .*bad\.json: {message}\. Correct.*annotations needs'
    ):
        load(coco_file.parent / "bad.json", content)


def test_all_bad_annotations_are_named_up_to_a_number(coco_file: Path) -> None:
    content = json.loads(coco_file.read_text())
    content["annotations"] = [_GOOD | {"id": number, "bbox": None} for number in range(25)] + [_GOOD | {"id": 0}] * 2
    with pytest.raises(ValueError, match=r"annotation 0 of image 1 has .*, annotation 19 of image 1 .* and 6 more"):
        load(coco_file.parent / "bad.json", content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ...}, 'there is no list "images" in it'),
        ({"categories": ...}, 'there is no list "categories" in it'),
        ({"annotations": {}}, 'there is no list "annotations" in it'),
        ({"categories": []}, "categories is empty"),
        ({"categories": [{"id": 1, "name": "cat"}] * 2}, "category 1 occurs more than once"),
        ({"categories": ["cat", "dog"]}, r"categories\[0\] is not an object"),
        ({"images": [{"id": 1, "file_name": "1.png", "width": 5}]}, "image 1 has no height"),
        ({"images": [{"id": 1, "file_name": "1.png", "width": 5, "height": 0}]}, "image 1 has height 0"),
        ({"annotations": [_GOOD, _GOOD]}, "annotation 7 of image 1 occurs more than once"),
    ],
)
def test_a_bad_file_is_named(coco_file: Path, change: dict, message: str) -> None:
    content = json.loads(coco_file.read_text()) | change
    content = {key: value for key, value in content.items() if value is not ...}
    with pytest.raises(ValueError, match=rf'"bad" cannot be loaded: .*bad\.json: {message}.*Correct'):
        load(coco_file.parent / "bad.json", content)


def test_what_is_no_coco_file_at_all(coco_file: Path) -> None:
    folder = coco_file.parent
    with pytest.raises(ValueError, match=r"torn\.json is not valid JSON .*line 1"):
        load(folder / "torn.json", '{"images": [')
    with pytest.raises(ValueError, match=r"list\.json: it holds a list, not an object\. Correct the file"):
        load(folder / "list.json", [_GOOD])
    with pytest.raises(ValueError, match='"empty" has no images'):
        load(folder / "empty.json", json.loads(coco_file.read_text()) | {"images": [], "annotations": []})
    register_coco("gone", str(folder / "gone.json"), str(folder))
    with pytest.raises(FileNotFoundError, match=r'"gone".*gone\.json.*Correct the path where the dataset is reg'):
        load_dataset("gone")
    register_coco("folder", str(folder), str(folder))
    with pytest.raises(OSError, match=rf'"folder": .*{folder}.*It is a folder: register the file'):
        load_dataset("folder")


def test_images_for_testing_need_no_annotations(coco_file: Path) -> None:
    content = json.loads(coco_file.read_text())
    del content["annotations"]
    assert [record["image_id"] for record in load(coco_file.parent / "bare.json", content)] == [1, 2]
    assert all("annotations" not in record for record in load_dataset("bare"))


def test_file_registered_with_detectron2s_function(coco_file: Path) -> None:
    """It is read and checked as any other."""
    register_coco_instances("plain", {}, str(coco_file), str(coco_file.parent))
    register_coco("own", str(coco_file), str(coco_file.parent))
    assert load_dataset("plain") == load_dataset("own")
    coco_file.write_text(coco_file.read_text().replace('"category_id": 2', '"category_id": 9'))
    with pytest.raises(ValueError, match=r"annotations\.json: annotation 2 of image 2 has category_id 9, which"):
        load_dataset("plain")
    coco_file.write_text("[")
    with pytest.raises(ValueError, match=r"annotations\.json is not valid JSON .*line 1"):
        load_dataset("plain")


def test_loading_leaves_the_garbage_collector_as_it_is(coco_file: Path) -> None:
    register_coco("own", str(coco_file), str(coco_file.parent))
    register_coco("gone", str(coco_file.parent / "gone.json"), str(coco_file.parent))
    for switch, enabled in ((gc.disable, False), (gc.enable, True)):
        switch()
        load_dataset("own")
        assert gc.isenabled() is enabled
    with pytest.raises(FileNotFoundError):
        load_dataset("gone")
    assert gc.isenabled()
