"""Data in YOLO's layout, as annotation tools export it."""

import re
import shutil
from pathlib import Path

import pytest
from data_helpers import make_cfg, predict, write_image
from detectron2.structures import BoxMode, PolygonMasks
from PIL import Image

from pair_detr.data import check_dataset, class_names_of, load_dataset, load_training_dicts, register_from_config
from pair_detr.data.catalog import forget_dataset
from pair_detr.data.datasets.yolo import load_yolo
from pair_detr.evaluation.build import build_evaluator

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images, of 40x20, 20x40 and 10x10 pixels, the last one without a file of labels."""
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    for name, size in {"a.jpg": (40, 20), "b.png": (20, 40), "c.png": (10, 10)}.items():
        write_image(tmp_path / "images" / "train" / name, *size)
    (tmp_path / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0 0 0.5 0 0.5 1 0 1\n")
    (tmp_path / "labels" / "train" / "b.txt").write_text("")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnc: 2\nnames: [cat, dog]\n")
    return tmp_path


def register(root: Path, **changes: object) -> str:
    register_from_config(
        make_cfg(REGISTER=[{"NAME": "y", "FORMAT": "yolo", "ROOT": str(root), "SPLIT": "train"} | changes])
    )
    return "y"


def test_boxes_and_polygons_in_pixels(root: Path) -> None:
    first, second, third = load_dataset(register(root))
    assert (first["width"], first["height"], first["image_id"]) == (40, 20, "images/train/a.jpg")
    box, polygon = first["annotations"]
    assert box == {"category_id": 1, "bbox_mode": BoxMode.XYXY_ABS, "bbox": [15, 5, 25, 15], "iscrowd": 0}
    assert polygon["segmentation"] == [[0, 0, 20, 0, 20, 20, 0, 20]] and polygon["bbox"] == [0, 0, 20, 20]
    assert PolygonMasks([polygon["segmentation"]]).area().item() == 400
    assert second["annotations"] == third["annotations"] == []
    assert class_names_of("y") == ["cat", "dog"]
    report = check_dataset("y")
    assert (report.num_images, report.num_boxes, report.num_masks, report.trainable) == (3, 2, 1, True)
    assert len(load_training_dicts(make_cfg(TRAIN=("y",)))) == 3


def test_boxes_are_those_of_the_turned_image(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(root / "images" / "train" / "a.jpg", exif=exif)
    first = load_yolo(root, "train")[0]
    assert (first["width"], first["height"]) == (20, 40)
    assert first["annotations"][0]["bbox"] == [7.5, 10, 12.5, 30]


@pytest.mark.parametrize(
    ("yaml", "moved"),
    [
        ("names: {1: dog, 0: cat}\npath: sub\ntrain: [images/train]", "sub"),
        ("names: {'1': dog, '0': cat}\ntrain: images/train", ""),
        ("names: [cat, dog]\ntrain: ../images/train", ""),
        ("names: [cat, dog]\ntrain: train.txt", ""),
        ("names: [cat, dog]\npath: sub\ntrain: train.txt", "sub"),
    ],
)
def test_where_the_images_may_be(root: Path, yaml: str, moved: str) -> None:
    expected = [len(record["annotations"]) for record in load_yolo(root, "train")]
    for folder in ("images", "labels") if moved else ():
        (root / moved).mkdir(exist_ok=True)
        shutil.move(root / folder, root / moved / folder)
    lines = [f"./images/train/{name}" for name in ("b.png", "a.jpg", "c.png", "a.jpg")]
    (root / moved / "train.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml)
    records = load_yolo(root / "data.yaml", "train")
    assert [len(record["annotations"]) for record in records] == expected == [2, 0, 0]


def test_labels_next_to_images(root: Path) -> None:
    shutil.copytree(root / "images" / "train", root / "all")
    shutil.copytree(root / "labels" / "train", root / "all", dirs_exist_ok=True)
    (root / "data.yaml").write_text("names: [cat, dog]\ntrain: all\n")
    assert [len(record["annotations"]) for record in load_yolo(root, "train")] == [2, 0, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"b\.txt, line 2: 4 numbers\. Correct the labels: a line is class x_center"),
        ("0 0.5 0.5 0.1 0.1 0.1", "line 2: 6 numbers"),
        ("cat 0.5 0.5 0.1 0.1", "line 2: could not convert string to float: 'cat'"),
        ("2 0.5 0.5 0.1 0.1", "line 2: class 2, but names has the classes 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "line 2: class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"line 2: class 0\.5"),
        ("0 20 10 8 8", "line 2: 20 is not between 0 and 1"),
        ("0 nan 0.5 0.1 0.1", "line 2: nan is not"),
    ],
)
def test_bad_lines_are_named(root: Path, line: str, message: str) -> None:
    (root / "labels" / "train" / "b.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=message):
        load_dataset(register(root))


ALIASES = "".join(f"a{i}: &a{i} [{', '.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("yaml", "error", "message"),
    [
        ("train: images/train", ValueError, r"data\.yaml has no names"),
        ("names: {1: cat}\ntrain: images/train", ValueError, r"numbers \[1\]; number the classes 0, 1"),
        ("names: {0: cat, 0.5: dog}\ntrain: images/train", ValueError, r"numbers \[0, 0\.5\]"),
        ("names: {0: cat, a: dog}\ntrain: images/train", ValueError, r"numbers \[0, 'a'\]"),
        ("names: [cat, dog, cat]\ntrain: images/train", ValueError, "names has cat more than once; give every class"),
        ("nc: 3\nnames: [cat, dog]\ntrain: images/train", ValueError, "nc is 3, but names has 2 classes"),
        ("names: [cat, dog]\ntrain: [5]", ValueError, "train has 5, which is no path"),
        ("names: [cat]\nval: x", ValueError, r'has no "train"; its keys are'),
        ("names: [cat]\ntrain: nowhere", FileNotFoundError, "train names .*nowhere, which does not exist"),
        ("names: [cat]\ntrain: labels", FileNotFoundError, "labels, which has no images"),
        ("names: [cat]\ntrain: list.txt", FileNotFoundError, r'images of "train" do not exist: .*gone\.jpg'),
        ("[", ValueError, "not valid YAML"),
        ("names: " + "[" * 10_000, ValueError, "not valid YAML"),
        ("names: {0: 2024-13-01}", ValueError, r"data\.yaml is not valid YAML \(month must"),
        (f"a: &a0 [1]\n{ALIASES}names: *a9\ntrain: x", ValueError, r"data\.yaml .*written out .* more than 1000000"),
        ("names: [cat]\nnames: [dog]\ntrain: nowhere", FileNotFoundError, "train names .*nowhere"),
        ("text", ValueError, "holds no keys"),
    ],
)
def test_bad_yaml(root: Path, yaml: str, error: type[Exception], message: str) -> None:
    (root / "list.txt").write_text("gone.jpg")
    (root / "data.yaml").write_text(yaml)
    with pytest.raises(error, match=message):
        load_dataset(register(root))


def test_labels_that_are_elsewhere_are_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "labels").rename(root / "annotations")
    load_dataset(register(root))
    assert re.search(r'none of the \d images of "train" has a file of labels.*labels/train/a\.txt', caplog.text)


def test_what_is_no_image_and_boxes_without_extent(root: Path) -> None:
    (root / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0 0.1\n1 0.5 0.5 0.1 0.1\n")
    report = check_dataset(register(root))
    assert [fault.reason for fault in report.invalid_boxes] == ["zero width"] and report.num_boxes == 3
    (root / "images" / "train" / "c.png").write_text("text")
    forget_dataset("y")
    with pytest.raises(OSError, match=r"c\.png cannot be read as images; replace or remove"):
        load_dataset("y")


def test_evaluation(root: Path, tmp_path: Path) -> None:
    inputs, outputs = predict(load_dataset(register(root)), noise=0)
    evaluator = build_evaluator(make_cfg(), "y", str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
