from collections.abc import Iterator
from pathlib import Path

import pytest
from data_helpers import restored_catalogs, write_coco, write_image

from pair_detr.data import class_names_of, load_dataset
from pair_detr.data.datasets import from_config
from pair_detr.recipes.own_data import find_own_data

BOX = {"image_id": 1, "bbox": [1, 2, 10, 12]}


@pytest.fixture(autouse=True)
def _catalogs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(from_config, "_expanded", {})
    monkeypatch.setattr(from_config, "_registered", {})
    with restored_catalogs():
        yield


def write_roboflow(root: Path, *splits: str) -> Path:
    for split in splits:
        write_coco(root / split, [dict(BOX)], [(40, 30), (20, 20)]).rename(root / split / "_annotations.coco.json")
    return root


def test_splits_by_their_names(tmp_path: Path) -> None:
    data = find_own_data(str(write_roboflow(tmp_path / "My cats, v2", "train", "valid", "test")))
    assert data.names == ["my_my_cats_v2_train", "my_my_cats_v2_val", "my_my_cats_v2_test"]
    assert [entry["NAME"] for entry in data.entries] == data.names
    assert [len(load_dataset(name)) for name in data.names] == [2, 2, 2]
    assert class_names_of(data.train) == ["cat", "dog"]


def test_without_a_validation_set_the_test_set_is_one(tmp_path: Path) -> None:
    data = find_own_data(str(write_roboflow(tmp_path / "two", "train", "test")))
    assert (data.val, data.test) == ("my_two_test", "")


def test_one_set_is_divided(tmp_path: Path) -> None:
    write_coco(tmp_path / "one", [dict(BOX)], [(40, 30)] * 10)
    data = find_own_data(str(tmp_path / "one"))
    assert data.names == ["my_one_train", "my_one_val"]
    assert [len(load_dataset(name)) for name in data.names] == [8, 2]


def test_paths_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_roboflow(tmp_path / "here", "train", "valid")
    monkeypatch.chdir(tmp_path)
    assert all(Path(entry["JSON"]).is_absolute() for entry in find_own_data("here").entries)


def test_names_of_detectron2_stay_free(tmp_path: Path) -> None:
    data = find_own_data(str(write_roboflow(tmp_path / "bccd", "train", "valid")))
    assert data.train == "my_bccd_train"


def test_there_must_be_images_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for val and for test, but none for training"):
        find_own_data(str(write_roboflow(tmp_path / "none", "valid", "test")))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_lone_set_for_something_else_is_not_divided(tmp_path: Path, split: str) -> None:
    with pytest.raises(ValueError, match="alone: add one for training, or rename it"):
        find_own_data(str(write_roboflow(tmp_path / "lone", split)))


def test_labels_of_images_are_no_boxes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        write_image(tmp_path / "photos" / name / "1.jpg", 20, 20)
    with pytest.raises(ValueError, match="no boxes"):
        find_own_data(str(tmp_path / "photos"))


@pytest.mark.parametrize("chosen", ["coco", "yolo"])
def test_of_several_formats_one_is_chosen(tmp_path: Path, chosen: str) -> None:
    root = write_roboflow(tmp_path / "both", "train", "valid")
    (root / "classes.txt").write_text("cat\ndog\n")
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    write_image(root / "images" / "1.jpg", 20, 20)
    (root / "labels" / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(ValueError, match=r"(?s)--data: .*coco, yolo.*--format.*- \{FORMAT: coco"):
        find_own_data(str(root))
    assert {entry["FORMAT"] for entry in find_own_data(str(root), chosen).entries} == {chosen}
    with pytest.raises(FileNotFoundError, match="no data in the format voc"):
        find_own_data(str(root), "voc")
