"""Names of classes that are not text where they are written: numbers, and what YAML reads as yes and no."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import write_coco, write_image
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_lvis_instances
from PIL import Image

from pair_detr.config_files import load_config
from pair_detr.data import class_names_of, load_dataset, register_from_config, register_image_folder

pytestmark = pytest.mark.usefixtures("catalogs")


def register(**entry: Any) -> None:
    cfg = load_config("")
    cfg.DATASETS.REGISTER = [{"NAME": "own", **{key: str(v) if isinstance(v, Path) else v for key, v in entry.items()}}]
    register_from_config(cfg)


def write_numbered(folder: Path, **parts: Any) -> Path:
    """A COCO file of one image whose category 1 has a number for its name."""
    file = write_coco(folder, [{"image_id": 1, "bbox": [1, 2, 10, 8]}], [(40, 30)])
    content = json.loads(file.read_text()) | {"categories": [{"id": 1, "name": 5, "isthing": 1}], **parts}
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("kind", ["coco", "detectron2", "lvis", "panoptic", "image_labels"])
def test_numbers_in_json_are_names(kind: str, tmp_path: Path) -> None:
    file = write_numbered(tmp_path)
    content = json.loads(file.read_text())
    if kind == "coco":
        register(FORMAT="coco", JSON=file, IMAGES=tmp_path)
    elif kind == "detectron2":
        register_coco_instances("own", {}, str(file), str(tmp_path))
    elif kind == "lvis":
        for image in content["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        file.write_text(json.dumps(content))
        register_lvis_instances("own", {}, str(file), str(tmp_path))
    elif kind == "image_labels":
        file = write_numbered(tmp_path, images=[{**content["images"][0], "pos_category_ids": [1]}])
        register(FORMAT="image_labels", JSON=file, IMAGES=tmp_path)
    else:
        Image.fromarray(np.full((30, 40, 3), (1, 0, 0), np.uint8)).save(tmp_path / "0.png")
        segment = {"id": 1, "category_id": 1, "iscrowd": 0, "area": 1200, "bbox": [0, 0, 40, 30]}
        annotation = {"image_id": 1, "file_name": "0.png", "segments_info": [segment]}
        file = write_numbered(tmp_path, annotations=[annotation])
        register(FORMAT="coco_panoptic", JSON=file, SEGMENTS=tmp_path, IMAGES=tmp_path)
    assert len(load_dataset("own")) == 1
    assert class_names_of("own") == MetadataCatalog.get("own").thing_classes == ["5"]


@pytest.mark.parametrize(
    ("names", "result"),
    [
        ("[5, bolt]", ["5", "bolt"]),
        ("{0: 5, 1: 1.5}", ["5", "1.5"]),
        ("[' nut ', bolt]", ["nut", "bolt"]),
        ("[yes, no]", 'names has True, False; put these in quotes: "no"'),
        ("{0: on}", "names has True; put these in quotes"),
        ("['', bolt]", "class 0 in names has no name"),
        ("[' nut', nut]", "names has nut more than once"),
    ],
)
def test_names_in_yolo(names: str, result: list[str] | str, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
    write_image(tmp_path / "train/images/0.png", 8, 8)
    (tmp_path / "train/labels/0.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text(f"train: train/images\nnames: {names}\n")
    register(FORMAT="yolo", ROOT=tmp_path, SPLIT="train")
    if isinstance(result, str):
        with pytest.raises(ValueError, match=result):
            load_dataset("own")
    else:
        load_dataset("own")
        assert class_names_of("own") == result


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"circle": 5}, r"has 'circle': 5; folders and names must be text: put them in quotes"),
        ({"circle": ["a", 5]}, r"has 'circle': \['a', 5\]; folders and names must be text"),
        ({"circle": True}, "has 'circle': True; "),
        ({"circle": None}, "has 'circle': None; "),
        ({5: "circle"}, "has 5: 'circle'; "),
        (["circle"], r"is \['circle'\]; it must be a file, or {folder: class name}"),
        (5, "is 5; it must be a file"),
        ({}, "is {}; it must be a file"),
    ],
)
def test_classes_of_image_folders(classes: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "circle").mkdir()
    with pytest.raises(ValueError, match=rf"^DATASETS\.REGISTER\[0\]: CLASSES {message}"):
        register(FORMAT="image_folder", ROOT=tmp_path, CLASSES=classes)
    with pytest.raises(ValueError, match=f"^CLASSES {message}"):
        register_image_folder("python", tmp_path, classes)
    assert "python" not in DatasetCatalog


def test_two_folders_of_one_class(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        (tmp_path / name).mkdir()
    register(FORMAT="image_folder", ROOT=tmp_path, CLASSES={"n01": "tench", "n02": ["tench", "carp"]})
    with pytest.raises(ValueError, match=r"several folders of .* have the class name tench"):
        load_dataset("own")


@pytest.mark.parametrize("classes", [[5, "bolt"], ["bolt", True], "bolt"])
def test_metadata_of_a_data_set_in_python(classes: Any) -> None:
    DatasetCatalog.register("own", list)
    MetadataCatalog.get("own").thing_classes = classes
    with pytest.raises(ValueError, match=r'Dataset "own" has thing_classes .* in its metadata, which must be a list'):
        class_names_of("own")
