"""Training and validation sets out of one set, in every format."""

import json
import random
import shutil
from pathlib import Path

import pytest
from data_helpers import make_cfg, predict, voc_annotation, voc_object, write_coco, write_image
from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.data import check_dataset, class_names_of, load_dataset, register_from_config
from pair_detr.data.datasets.split import validation_files
from pair_detr.evaluation.build import build_evaluator

pytestmark = pytest.mark.usefixtures("catalogs")

NUM_IMAGES = 10


def make(data_format: str, folder: Path) -> dict[str, object]:
    """Writes ten images, each with a box of a dog or cat, or as a photo of one; returns the entry without SPLIT."""
    names = [f"{i}.png" for i in range(1, NUM_IMAGES + 1)]
    if data_format in ("coco", "image_labels"):
        boxes = [{"image_id": i + 1, "bbox": [2, 3, 10, 12], "category_id": 1 + i % 2} for i in range(NUM_IMAGES)]
        file = write_coco(folder, boxes, [(30, 20)] * NUM_IMAGES)
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["pos_category_ids"] = [1]
        file.write_text(json.dumps(content))
        return {"JSON": str(file), "IMAGES": str(folder)}
    if data_format == "image_folder":
        for i, name in enumerate(names):
            (folder / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
            write_image(folder / ("cat", "dog")[i % 2] / name, 30, 20)
        return {"ROOT": str(folder)}
    images, labels = ("JPEGImages", "Annotations") if data_format == "voc" else ("images", "labels")
    for name in (images, labels):
        (folder / name).mkdir(parents=True)
    for i, name in enumerate(names):
        write_image(folder / images / name, 30, 20)
        if data_format == "voc":
            text = voc_annotation(30, 20, voc_object(("cat", "dog")[i % 2], 3, 4, 12, 15))
            (folder / labels / name).with_suffix(".xml").write_text(text)
        else:
            (folder / labels / name).with_suffix(".txt").write_text(f"{i % 2} 0.5 0.5 0.5 0.5")
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    return {"ROOT": str(folder)}


FORMATS = ("coco", "voc", "yolo", "image_folder", "image_labels")


@pytest.mark.parametrize("data_format", FORMATS)
def test_each_image_is_on_one_side(data_format: str, tmp_path: Path) -> None:
    entry = {"NAME": "s", "FORMAT": data_format, **make(data_format, tmp_path / "data")}
    register_from_config(make_cfg(REGISTER=[{**entry, "SPLIT": {"VAL": 0.3, "SEED": 4}}]))
    files = {name: {record["file_name"] for record in load_dataset(name)} for name in ("s", "s_train", "s_val")}
    assert len(files["s_train"]) == 7 and len(files["s_val"]) == 3
    assert files["s_train"] | files["s_val"] == files["s"] and not files["s_train"] & files["s_val"]
    assert class_names_of("s_val") == class_names_of("s_train") == ["cat", "dog"]
    for name in ("s_train", "s_val"):
        assert check_dataset(name).trainable
    # The same images wherever the data are; others with another seed.
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = {
        key: value.replace(str(tmp_path / "data"), str(tmp_path / "elsewhere")) for key, value in entry.items()
    } | {"NAME": "m", "SPLIT": {"VAL": 0.3, "SEED": 4}}
    others = {**moved, "NAME": "o", "SPLIT": {"VAL": 0.3, "SEED": 5}}
    register_from_config(make_cfg(REGISTER=[moved, others]))
    names = {Path(file).name for file in files["s_val"]}
    assert {Path(record["file_name"]).name for record in load_dataset("m_val")} == names
    assert {Path(record["file_name"]).name for record in load_dataset("o_val")} != names


def test_order_does_not_matter_and_copies_stay_together() -> None:
    files = [f"folder/{i}.jpg" for i in range(50)]
    chosen = validation_files(files, 0.2, seed=0)
    assert len(chosen) == 10
    shuffled = files + files[:20]
    random.Random(1).shuffle(shuffled)
    assert validation_files(shuffled, 0.2, seed=0) == chosen
    assert len(validation_files(files[:2], 0.01, seed=0)) == len(validation_files(files[:2], 0.99, seed=0)) == 1
    with pytest.raises(ValueError, match="1 image cannot be split"):
        validation_files(["a", "a"], 0.5, seed=0)


def test_images_that_are_added_change_few_sides() -> None:
    files = [f"{i}.jpg" for i in range(200)]
    before, after = validation_files(files[:180], 0.25, 3), validation_files(files, 0.25, 3)
    assert len(before - after) <= 5


@pytest.mark.parametrize("data_format", ["coco", "voc", "yolo"])
def test_evaluation_asks_for_the_part_s_images_alone(data_format: str, tmp_path: Path) -> None:
    entry = {"NAME": "e", "FORMAT": data_format, "SPLIT": {"VAL": 0.3}, **make(data_format, tmp_path / "data")}
    register_from_config(make_cfg(REGISTER=[entry]))
    evaluator = build_evaluator(make_cfg(), "e_val", str(tmp_path / "out"))
    inputs, outputs = predict(load_dataset("e_val"), noise=0)
    evaluator.reset()
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    assert set(results) == ({"bbox", "voc"} if data_format == "voc" else {"bbox"})
    assert all(result["AP"] == pytest.approx(100) for result in results.values())


def test_another_list_to_split(tmp_path: Path) -> None:
    entry = {"NAME": "v", "FORMAT": "voc", **make("voc", tmp_path), "SPLIT": {"VAL": 0.5, "OF": "some"}}
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "some.txt").write_text("1\n2\n3\n4\n")
    register_from_config(make_cfg(REGISTER=[entry]))
    assert len(load_dataset("v_train")) == len(load_dataset("v_val")) == 2
    with pytest.raises(FileNotFoundError, match=r"SPLIT names .*none\.txt"):
        register_from_config(make_cfg(REGISTER=[{**entry, "NAME": "w", "SPLIT": {"VAL": 0.5, "OF": "none"}}]))


def test_names_that_are_taken(tmp_path: Path) -> None:
    DatasetCatalog.register("t_val", list)
    entry = {"NAME": "t", "FORMAT": "coco", "SPLIT": {"VAL": 0.5}, **make("coco", tmp_path)}
    with pytest.raises(ValueError, match='"t_val" is the name of a dataset registered elsewhere'):
        register_from_config(make_cfg(REGISTER=[entry]))
    assert "t" not in DatasetCatalog
    assert "image_root" not in MetadataCatalog.get("t_val").as_dict()
