"""Image labels: folders of classes, JSON files, and the vocabulary that they are brought to."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from data_helpers import make_cfg, write_coco, write_image
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image

from pair_detr.data import (
    check_dataset,
    class_names_of,
    load_dataset,
    load_training_dicts,
    register_coco,
    register_from_config,
    register_image_folder,
    register_image_labels,
)
from pair_detr.data.class_matching import match_classes
from pair_detr.tools import check_dataset as check_dataset_tool

pytestmark = pytest.mark.usefixtures("catalogs")


def write_folder(root: Path, **images: int) -> Path:
    """A folder of each name with so many images of 30x20 pixels."""
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            write_image(root / name / f"{index}.png", 30, 20)
    return root


def write_labels(file: Path, labels: list[list[int]], categories: dict[int, str]) -> Path:
    images = [
        {"id": 7 + i, "file_name": f"{i}.png", "width": 30, "height": 20, "pos_category_ids": ids}
        for i, ids in enumerate(labels)
    ]
    content = {"images": images, "categories": [{"id": i, "name": name} for i, name in categories.items()]}
    file.write_text(json.dumps(content))
    return file


def test_folders_are_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path / "photos", hot_dog=1, cat=2, empty=0)
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "broken.jpg").write_text("no image either")
    (root / "README").write_text("not a class")
    (root / "cat" / "more").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 10)).save(root / "cat" / "more" / "turned.JPG", exif=exif)
    register_image_folder("photos", root)
    with caplog.at_level(logging.WARNING):
        dicts = load_dataset("photos")
    assert MetadataCatalog.get("photos").thing_classes == ["cat", "empty", "hot_dog"]
    assert [(r["image_id"], r["pos_category_ids"], r["annotations"]) for r in dicts] == [
        ("cat/0.png", [0], []),
        ("cat/1.png", [0], []),
        ("cat/more/turned.JPG", [0], []),
        ("hot_dog/0.png", [2], []),
    ]
    # What Detectron2 will read, which turns the image.
    for record in dicts:
        assert read_image(record["file_name"]).shape[:2] == (record["height"], record["width"])
    assert (dicts[2]["width"], dicts[2]["height"]) == (10, 40)
    for part in (
        "1 file is not an image, and skipped: ",
        "cat/notes.txt",
        "1 image is unreadable, and skipped: ",
        "cat/broken.jpg",
        "1 class has no images: empty",
    ):
        assert part in caplog.text


def test_folders_with_names_of_their_own(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", n01=1, n02=1, n03=1)
    names = tmp_path / "mapping.txt"
    names.write_text("n03 tench, Tinca tinca\nn01 tabby, tabby cat\n\n")
    register_image_folder("photos", root, names)
    assert [r["image_id"] for r in load_dataset("photos")] == ["n03/0.png", "n01/0.png"]
    assert MetadataCatalog.get("photos").thing_classes == ["tench", "tabby"]
    assert MetadataCatalog.get("photos").thing_synonyms == [["Tinca tinca"], ["tabby cat"]]
    register_image_folder("two", root, {"n02": "owl"})
    assert class_names_of("two") == ["owl"] and len(load_dataset("two")) == 1


def test_bad_folders(tmp_path: Path) -> None:
    register_image_folder("absent", tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    register_image_folder("bare", tmp_path / "bare")
    register_image_folder("lacking", write_folder(tmp_path / "lacking", cat=1), {"cat": "cat", "dog": "dog"})
    register_image_folder("unnamed", tmp_path / "lacking", {"cat": " "})
    with pytest.raises(FileNotFoundError, match=r'"absent": .*absent is not a folder'):
        load_dataset("absent")
    with pytest.raises(FileNotFoundError, match="bare has no folders"):
        load_dataset("bare")
    with pytest.raises(FileNotFoundError, match="lacks the folders of 1 class: dog"):
        load_dataset("lacking")
    with pytest.raises(ValueError, match=r"folders cat of .* have no class name"):
        load_dataset("unnamed")


def test_labels_of_a_json_file_become_contiguous(tmp_path: Path) -> None:
    file = write_labels(tmp_path / "labels.json", [[90, 3], [], [17, 17]], {90: "ant", 3: "cat", 17: "dog"})
    register_image_labels("labels", file, tmp_path)
    dicts = load_dataset("labels")
    assert MetadataCatalog.get("labels").thing_classes == ["cat", "dog", "ant"]
    assert [r["pos_category_ids"] for r in dicts] == [[0, 2], [], [1]]
    assert [r["image_id"] for r in dicts] == [7, 8, 9] and dicts[0]["file_name"] == str(tmp_path / "0.png")


def test_labels_as_other_programs_write_them(tmp_path: Path) -> None:
    file = write_labels(tmp_path / "labels.json", [["90", 3.0]], {90: " ant ", 3: "cat"})
    content = json.loads(file.read_text())
    content["images"][0].update(id=7.0, width="30")
    content["categories"][0]["synonyms"] = None
    file.write_text(json.dumps(content))
    register_image_labels("labels", file, tmp_path)
    (record,) = load_dataset("labels")
    assert record["pos_category_ids"] == [0, 1]
    assert [type(record[key]) for key in ("image_id", "width")] == [int, int]
    metadata = MetadataCatalog.get("labels")
    assert metadata.thing_classes == ["cat", "ant"] and metadata.thing_synonyms == [[], []]


def test_lvis_names_files_by_address(tmp_path: Path) -> None:
    image = {"id": 1, "coco_url": "http://a.b/train2017/0001.jpg", "width": 3, "height": 2, "pos_category_ids": [1]}
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"images": [image], "categories": [{"id": 1, "name": "a", "synonyms": ["b"]}]}))
    register_image_labels("labels", file, tmp_path)
    assert load_dataset("labels")[0]["file_name"] == str(tmp_path / "train2017" / "0001.jpg")
    assert MetadataCatalog.get("labels").thing_synonyms == [["b"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].pop("pos_category_ids"), "image 7 has no pos_category_ids"),
        (lambda c: c["images"][0]["pos_category_ids"].append(5), r"image 7 has the labels \[5\], which are not among"),
        (lambda c: c["images"][0].update(pos_category_ids=None), "image 7 has pos_category_ids None"),
        (lambda c: c["categories"][0].update(name=None), "category 1 has name null"),
        (lambda c: c["images"][0].pop("file_name"), "image 7 has neither file_name nor coco_url"),
        (lambda c: c["images"][0].pop("width"), "image 7 has no width"),
        (lambda c: c["categories"].append({"id": 1, "name": "cat"}), "category 1 occurs more than once"),
        (lambda c: c.pop("categories"), r"labels\.json cannot be understood .*The file should hold"),
    ],
)
def test_bad_json_files(tmp_path: Path, change: Callable[[dict], object], message: str) -> None:
    file = write_labels(tmp_path / "labels.json", [[1]], {1: "cat"})
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    register_image_labels("labels", file, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_dataset("labels")


def test_classes_match_by_name_and_synonym() -> None:
    match = match_classes(
        ["Hot_Dog", "aeroplane", "wiener", "cougar", "unheard-of", "jaguar"],
        ["hot dog", "airplane", "puma", "car", "big cat"],
        synonyms=[[], [], ["Hot-dog"], [], [], []],
        vocabulary_synonyms=[["frankfurter"], ["aeroplane"], ["cougar"], ["Jaguar"], ["jaguar"]],
    )
    assert match.to_vocabulary == {0: 0, 1: 1, 2: 0, 3: 2}
    assert match.by_synonym == ["aeroplane = airplane", "wiener = hot dog", "cougar = puma"]
    assert match.unmatched == ["unheard-of"] and match.ambiguous == ["jaguar = car or big cat"]
    assert match.describe().startswith("4 of 6 classes are in the vocabulary") and "unheard-of" in match.describe()
    # A name of the vocabulary wins over a synonym of another of its classes.
    assert match_classes(["bat"], ["club", "bat"], vocabulary_synonyms=[["bat"], []]).to_vocabulary == {0: 1}
    with pytest.raises(ValueError, match=r'0 and 1 .* "hot dog" and "Hot_dog"'):
        match_classes(["a"], ["hot dog", "Hot_dog"])


def mixed_cfg(folder: Path, categories: dict[int, str], labels: list[list[int]]) -> CfgNode:
    register_coco(
        "boxes", str(write_coco(folder, [{"image_id": 1, "bbox": [5, 5, 9, 9]}], [(30, 20)] * 3)), str(folder)
    )
    for index in range(len(labels)):
        write_image(folder / f"{index}.png", 30, 20)
    register_image_labels("labels", write_labels(folder / "labels.json", labels, categories), folder)
    cfg = make_cfg(TRAIN=("boxes", "labels"))
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    return cfg


def test_labels_are_brought_to_the_vocabulary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = mixed_cfg(tmp_path, {1: "Dog", 2: "owl", 3: "CAT"}, [[1, 2], [2], [3, 1]])
    with caplog.at_level(logging.INFO):
        dicts = load_training_dicts(cfg)
    assert [r["ann_type"] for r in dicts] == ["box"] * 3 + ["image"] * 2
    assert [r["dataset_source"] for r in dicts] == [0, 0, 0, 1, 1]
    assert [r["pos_category_ids"] for r in dicts[3:]] == [[1], [0, 1]]
    assert "2 of 3 classes are in the vocabulary; not in it: owl" in caplog.text
    assert "1 of 3 images have no label in the vocabulary" in caplog.text


def test_labels_without_anything_in_common(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'None of the classes of "labels" is one of "boxes".*not in it: owl'):
        load_training_dicts(mixed_cfg(tmp_path, {1: "owl"}, [[1]]))


def test_boxes_outside_of_the_vocabulary_stop(tmp_path: Path) -> None:
    cfg = mixed_cfg(tmp_path, {1: "cat"}, [[1]])
    file = write_coco(tmp_path / "other", [{"image_id": 1, "bbox": [5, 5, 9, 9]}], [(30, 20)])
    file.write_text(file.read_text().replace('"cat"', '"owl"'))
    register_coco("other", str(file), str(tmp_path / "other"))
    cfg.DATASETS.TRAIN = ("boxes", "other")
    with pytest.raises(ValueError, match=r'"other" has boxes of classes that "boxes".* not: .*not in it: owl'):
        load_training_dicts(cfg)


def test_boxes_can_serve_as_image_labels(tmp_path: Path) -> None:
    cfg = mixed_cfg(tmp_path, {1: "cat"}, [[1]])
    boxes = [{"image_id": 1, "bbox": [5, 5, 9, 9], "category_id": 2}, {"image_id": 1, "bbox": [1, 1, 9, 9]}]
    register_coco("other", str(write_coco(tmp_path / "other", boxes, [(30, 20)] * 2)), str(tmp_path / "other"))
    cfg.DATASETS.TRAIN = ("boxes", "other")
    cfg.DATALOADER.DATASET_ANN = ["box", "image"]
    images = [r for r in load_training_dicts(cfg) if r["ann_type"] == "image"]
    assert [(r["pos_category_ids"], r["annotations"]) for r in images] == [([0, 1], [])]


def test_image_labels_need_the_sampler_for_them(tmp_path: Path) -> None:
    cfg = mixed_cfg(tmp_path, {1: "cat"}, [[1]])
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    with pytest.raises(ValueError, match=r"labels has image labels, not boxes. .*SAMPLER_TRAIN to MultiDatasetSampler"):
        load_training_dicts(cfg)


def test_some_box_is_needed(tmp_path: Path) -> None:
    cfg = mixed_cfg(tmp_path, {1: "cat"}, [[1]])
    register_coco("empty", str(write_coco(tmp_path / "empty", [], [(30, 20)])), str(tmp_path / "empty"))
    cfg.DATASETS.TRAIN = ("empty", "labels")
    with pytest.raises(ValueError, match=r"\['empty'\]: none of the 1 image has a usable box"):
        load_training_dicts(cfg)
    # Next to others, a set without objects is background; labels alone suffice for a trained model.
    cfg.DATASETS.TRAIN = ("boxes", "empty", "labels")
    assert [r["ann_type"] for r in load_training_dicts(cfg)] == ["box"] * 4 + ["image"]
    cfg.DATASETS.TRAIN = ("labels",)
    assert [r["ann_type"] for r in load_training_dicts(cfg)] == ["image"]


def test_registration_from_a_config(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", cat=1)
    (tmp_path / "names.txt").write_text("cat tabby\n")
    labels = write_labels(tmp_path / "labels.json", [[1]], {1: "cat"})
    entries = [
        {"NAME": "p", "FORMAT": "image_folder", "ROOT": str(root)},
        {"NAME": "q", "FORMAT": "image_folder", "ROOT": str(root), "CLASSES": str(tmp_path / "names.txt")},
        {"NAME": "r", "FORMAT": "image_folder", "ROOT": str(root), "CLASSES": {"cat": "tiger"}},
        {"NAME": "s", "FORMAT": "image_labels", "JSON": str(labels), "IMAGES": str(root / "cat")},
    ]
    register_from_config(make_cfg(REGISTER=entries))
    assert [class_names_of(name) for name in "pqrs"] == [["cat"], ["tabby"], ["tiger"], ["cat"]]
    bad = {"NAME": "t", "FORMAT": "image_folder", "ROOT": str(root), "CLASSES": str(tmp_path / "absent.txt")}
    with pytest.raises(FileNotFoundError, match=r"REGISTER\[0\]: CLASSES names .*absent\.txt, which does not exist"):
        register_from_config(make_cfg(REGISTER=[bad]))


def test_report_and_tool(tmp_path: Path) -> None:
    file = write_labels(tmp_path / "labels.json", [[1, 2], [2], []], {1: "cat", 2: "dog"})
    for index in (0, 2):
        write_image(tmp_path / f"{index}.png", 30, 20)
    register_image_labels("labels", file, tmp_path)
    report = check_dataset("labels")
    assert (report.num_images, report.num_boxes, report.num_labels) == (3, 0, 3)
    assert {name: c.labeled_images for name, c in report.classes.items()} == {"cat": 1, "dog": 2}
    assert report.missing_files == [str(tmp_path / "1.png")] and report.unlabeled == [str(tmp_path / "2.png")]
    assert not report.trainable
    assert check_dataset_tool.main(["labels"]) == 1
    write_image(tmp_path / "1.png", 30, 20)
    assert check_dataset_tool.main(["labels"]) == 0
    # All labels unknown to the metadata, and none at all.
    DatasetCatalog.register("odd", lambda: [{"file_name": str(tmp_path / "0.png"), "pos_category_ids": [4]}])
    MetadataCatalog.get("odd").set(thing_classes=["cat"], annotation_type="image")
    assert check_dataset("odd").unknown_classes == [f"{tmp_path / '0.png'} has the label 4"]
    DatasetCatalog.register("none", lambda: [{"file_name": str(tmp_path / "0.png"), "pos_category_ids": []}])
    MetadataCatalog.get("none").set(thing_classes=["cat"], annotation_type="image")
    assert not check_dataset("none").trainable and check_dataset_tool.main(["none"]) == 1


def test_class_table_counts_boxes_and_images(tmp_path: Path) -> None:
    boxes = [{"image_id": 1, "bbox": [1, 1, 5, 5]}, {"image_id": 1, "bbox": [2, 2, 5, 5]}]
    boxes += [{"image_id": 2, "bbox": [1, 1, 5, 5]}, {"image_id": 2, "bbox": [1, 1, 5, 5], "iscrowd": 1}]
    boxes += [{"image_id": 2, "bbox": [1, 1, 0, 5], "category_id": 2}]
    register_coco("boxes", str(write_coco(tmp_path, boxes, [(30, 20)] * 2)), str(tmp_path))
    table = check_dataset_tool.class_table(check_dataset("boxes"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows == [["cat", "3", "2", "1", "0"], ["dog", "0", "0", "0", "0"]]


def test_photos_by_class_in_the_vocabulary_of_coco(shared_dir: Path) -> None:
    register_image_folder("photos", shared_dir / "datasets" / "photos_by_class")
    assert class_names_of("photos") == ["cat", "hot_dog", "owl", "parrot"]
    coco = MetadataCatalog.get("coco_2017_train").thing_classes
    match = match_classes(class_names_of("photos"), coco)
    assert {class_names_of("photos")[i]: coco[j] for i, j in match.to_vocabulary.items()} == {
        "cat": "cat",
        "hot_dog": "hot dog",
    }
    lvis = MetadataCatalog.get("lvis_v1_train")
    by_lvis = match_classes(class_names_of("photos"), lvis.thing_classes, vocabulary_synonyms=lvis.thing_synonyms)
    # The same by LVIS's list of synonyms in another file.
    info = {entry["name"]: entry for entry in json.loads((shared_dir / "lvis/lvis_v1_train_cat_info.json").read_text())}
    named = {class_names_of("photos")[i]: lvis.thing_classes[j] for i, j in by_lvis.to_vocabulary.items()}
    assert {"cat", "owl", "parrot"} <= named.keys()
    assert all(name in (info[other]["name"], *info[other]["synonyms"]) for name, other in named.items())
