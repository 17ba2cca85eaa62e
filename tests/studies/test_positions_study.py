"""The studies of what text rows tell of boxes, on data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import write_coco
from detectron2.data import DatasetCatalog
from PIL import Image
from probe_helpers import write_class_data

from pair_detr.data import register_coco
from pair_detr.open_vocabulary import Vocabulary
from pair_detr.studies import positions, probe_sizes
from pair_detr.studies.class_objects import load_objects
from pair_detr.studies.positions import PROPERTIES, measure
from pair_detr.studies.probe_sizes import read_counts

pytest.importorskip("sklearn", reason="needs scikit-learn")


def load(folder: Path, boxes: list[dict], min_boxes: int = 2) -> positions.ClassObjects:
    file = write_coco(folder, boxes, [(100, 50)] * 3)
    vocabulary = Vocabulary(("dog", "Cat"), np.eye(2))
    return load_objects([str(file)], vocabulary, min_boxes, str(folder))


def test_objects_are_those_of_classes_with_enough_boxes(tmp_path: Path) -> None:
    cats = [{"image_id": 1 + i % 2, "bbox": [1, 2, 3, 4]} for i in range(3)]
    dogs = [{"image_id": 3, "bbox": [1, 2, 3, 4], "category_id": 2} for _ in range(5)]
    objects = load(tmp_path, [*cats, *dogs])
    # All dogs are in one image.
    assert objects.names == ["Cat"]
    assert objects.rows.tolist() == [[0, 1]]
    assert objects.boxes.tolist() == [[1, 2, 4, 6]] * 3
    assert objects.sizes.tolist() == [[100, 50]] * 3
    assert sorted(objects.images.tolist()) == [0, 0, 1]
    assert objects.describe() == "1 classes, 3 boxes, 2 images"
    assert load(tmp_path, cats, min_boxes=4).names == []


@pytest.mark.usefixtures("catalogs")
def test_registered_datasets_are_taken_together(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("cat", "dog"), np.eye(2))
    for name in ("probe_a", "probe_b"):
        file = write_coco(tmp_path / name, [{"image_id": 1, "bbox": [1, 2, 3, 4]}], [(20, 20)])
        register_coco(name, str(file), str(tmp_path / name))
    assert "probe_a" in DatasetCatalog
    objects = load_objects(["probe_a", "probe_b"], vocabulary, 2)
    assert objects.images.tolist() == [0, 1]
    with pytest.raises(KeyError, match="probe_c"):
        load_objects(["probe_c"], vocabulary, 2)


def test_files_as_lvis_has_them(tmp_path: Path) -> None:
    """Images have an address instead of a name."""
    file, texts = write_class_data(tmp_path)
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
    file.write_text(json.dumps(content))
    objects = load_objects([str(file)], Vocabulary.load(texts), 4, "coco")
    assert objects.records[0]["file_name"] == str(Path("coco/val2017/0.png"))
    assert objects.describe() == "12 classes, 96 boxes, 4 images"


def test_measures_of_boxes(tmp_path: Path) -> None:
    boxes = [[0, 0, 100, 50], [0, 0, 50, 50], [40, 10, 20, 5]]
    objects = load(tmp_path, [{"image_id": 1 + i, "bbox": box} for i, box in enumerate(boxes)])
    found = measure(objects)
    areas, aspects = np.log([1, 0.5, 0.02]), np.log([2, 1, 4])
    expected = [areas.mean(), aspects.mean(), np.mean([0.5, 0.25, 0.5]), np.mean([0.5, 0.5, 0.25]), 0]
    np.testing.assert_allclose(found.values, [expected])


def test_noise_of_few_boxes_lowers_the_ceiling(tmp_path: Path) -> None:
    """Of the variance of class means, that of a mean of three is noise."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(5, 40, (2, 3))
    boxes = [
        {"image_id": 1 + image, "category_id": 1 + number, "bbox": [1, 1, sides[number, image], 10]}
        for number in range(2)
        for image in range(3)
    ]
    ceilings = measure(load(tmp_path, boxes)).ceilings
    widths = np.log(sides[::-1])
    expected = 1 - (widths.var(1, ddof=1) / 3).mean() / widths.mean(1).var()
    assert ceilings[:2] == pytest.approx([expected, expected])
    assert len(ceilings) == len(PROPERTIES) + 1


def test_study_finds_the_area_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, texts = write_class_data(tmp_path, count=40)
    output = tmp_path / "out" / "positions.png"
    arguments = ["--data", str(annotations), "--text-weights", str(texts), "--min-boxes", "4", "--seeds", "2"]
    positions.main([*arguments, "--output", str(output)])
    assert min(Image.open(output).size) > 300
    log = capsys.readouterr().out
    assert "40 classes, 316 boxes, 4 images" in log
    area, aspect = (next(line for line in log.splitlines() if line.startswith(f"| {name}")) for name in PROPERTIES[:2])
    assert "| text rows        | 1.00 (1.00 to 1.00)" in area
    assert float(aspect.split("|")[3].split()[0]) < 0.5
    with pytest.raises(ValueError, match=r"40 classes can be used, and 21 folds need 42\. Lower --folds"):
        positions.main([*arguments, "--output", str(output), "--folds", "21"])
    with pytest.raises(ValueError, match="--folds 1"):
        positions.main([*arguments, "--output", str(output), "--folds", "1"])


def write_categories(file: Path, count: int = 60) -> tuple[Path, Path]:
    """Categories whose boxes per image follow their rows."""
    rows = np.random.default_rng(0).normal(size=(count, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"class {number}" for number in range(count))
    Vocabulary(names, rows).save(file.with_name("texts.npy"))
    categories = [
        {"name": name, "image_count": 100000, "instance_count": round(100000 * np.exp(1 + row[0]))}
        for name, row in zip(names, rows, strict=True)
    ]
    categories[3] |= {"image_count": 2}
    categories[4] |= {"name": "other", "synonyms": ["another", "class_4"]}
    file.write_text(json.dumps(categories))
    return file, file.with_name("texts.npy")


def test_counts_of_categories(tmp_path: Path) -> None:
    file, texts = write_categories(tmp_path / "categories.json")
    vocabulary = Vocabulary.load(texts)
    rows, counts = read_counts(file, vocabulary, 10)
    assert rows.shape == (59, 6)
    np.testing.assert_allclose(counts, 1 + rows[:, 0], atol=1e-4)
    file.write_text(json.dumps({"categories": json.loads(file.read_text())}))
    assert len(read_counts(file, vocabulary, 1)[0]) == 60
    file.write_text("[{}]")
    with pytest.raises(ValueError, match="no list of categories with name, image_count, instance_count"):
        read_counts(file, vocabulary, 10)


def test_more_classes_tell_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, texts = write_categories(tmp_path / "categories.json")
    output = tmp_path / "sizes.png"
    arguments = ["--categories", str(file), "--text-weights", str(texts), "--seeds", "2", "--output", str(output)]
    probe_sizes.main([*arguments, "--sizes", "3", "500"])
    lines = capsys.readouterr().out.splitlines()
    few, many = (line.split("|") for line in lines if line.startswith(("| 3 ", "| 47 ")))
    assert float(few[2].split()[0]) < 0.5
    assert float(many[2].split()[0]) > 0.95
    assert min(Image.open(output).size) > 300
    with pytest.raises(SystemExit, match="2"):
        probe_sizes.main([*arguments, "--sizes", "1"])
