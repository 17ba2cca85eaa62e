"""Bad data are found before training, by name; the number of classes comes from the data."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_cfg, write_coco, write_image, write_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data import check_dataset, load_training_dicts, register_coco, register_voc, resolve_num_classes
from pair_detr.data.checks.invalid_boxes import box_fault
from pair_detr.tools import check_dataset as tool

pytestmark = pytest.mark.usefixtures("catalogs")


def register(name: str, folder: Path, annotations: list[dict], images: int = 2) -> Path:
    file = write_coco(folder, annotations, [(40, 30)] * images)
    register_coco(name, str(file), str(folder))
    return folder


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("pair_detr")]


@pytest.mark.parametrize(
    ("bbox", "mode", "reason"),
    [
        ([0, 0, 1e-3, 5], BoxMode.XYWH_ABS, None),
        ([-5, -5, 100, 100], BoxMode.XYXY_ABS, None),
        ([10, 20, 0, 40], BoxMode.XYWH_ABS, "zero width"),
        ([10, 20, 10, 40], BoxMode.XYXY_ABS, "zero width"),
        ([10, 20, 15, 10], BoxMode.XYXY_ABS, "negative height"),
        ([10, 20, 15, -1], BoxMode.XYWH_ABS, "negative height"),
        ([0, 0, float("nan"), 1], BoxMode.XYWH_ABS, "not finite"),
        ([0, 0, float("inf"), 1], BoxMode.XYXY_ABS, "not finite"),
        ([1, 2, 3], BoxMode.XYWH_ABS, "not four numbers"),
        (["1", 2, 3, 4], BoxMode.XYWH_ABS, "not four numbers"),
        (None, None, "not four numbers"),
        (np.array([1, 2, 3, 4], dtype=np.float32), BoxMode.XYWH_ABS, None),
        ([1, 2, 3, 4], BoxMode.XYXY_REL, "neither XYXY_ABS nor XYWH_ABS"),
        ([40, 0, 5, 5], BoxMode.XYWH_ABS, "outside of the image of 40x30 pixels"),
        ([39, 29, 5, 5], BoxMode.XYWH_ABS, None),
        ([-5, 0, 5, 5], BoxMode.XYWH_ABS, "outside of the image of 40x30 pixels"),
    ],
)
def test_box_faults(bbox: list[float], mode: BoxMode, reason: str | None) -> None:
    fault = box_fault(bbox, mode, (40, 30))
    assert fault is None if reason is None else reason in fault


@pytest.mark.parametrize(
    ("boxes", "doubt"),
    [
        # The last one is cut off, as annotators' boxes often are.
        ([[5, 5, 10, 10], [30, 20, 13, 12]], None),
        # Corners where width and height should be.
        ([[20, 5, 30, 15], [2, 2, 10, 10]], "1 of 2 boxes end far beyond their image (annotation 0 of "),
        ([[5, 20, 15, 25]], "1 of 1 boxes end far beyond"),
        ([[0.5, 0.5, 0.25, 0.5], [0.1, 0.1, 0.2, 0.2]], "all boxes are within the first pixel; they look like frac"),
        ([[0.5, 0.5, 0.25, 0.5], [1, 1, 20, 20]], None),
    ],
)
def test_boxes_of_another_format_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, boxes: list[list[float]], doubt: str | None
) -> None:
    register("d", tmp_path, [{"image_id": 1, "bbox": box, "category_id": 1} for box in boxes])
    report = check_dataset("d")
    assert report.trainable and [doubt in text for text in report.suspicious] == ([True] if doubt else [])
    assert warnings(caplog) == [f'Dataset "d": {text}.' for text in report.suspicious]
    caplog.clear()
    load_training_dicts(make_cfg(TRAIN=("d",)))
    assert warnings(caplog) == [f'Dataset "d": {text}.' for text in report.suspicious]


def test_classes_of_the_same_name_are_a_warning(tmp_path: Path) -> None:
    register("d", tmp_path, [{"image_id": 1, "bbox": [1, 1, 9, 9], "category_id": 1}])
    file = next(tmp_path.glob("*.json"))
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["name"] = "cell"
    file.write_text(json.dumps(content))
    assert check_dataset("d").suspicious == ["classes cell occur more than once; give each category a name of its own"]


def test_invalid_boxes_are_dropped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = [[1, 1, 5, 5], [2, 2, 0, 5], [3, 3, 5, -1], [4, 4, 4, 4]]
    register("bad_boxes", tmp_path, [{"image_id": 1 + i // 2, "bbox": b} for i, b in enumerate(boxes)])
    dicts = load_training_dicts(make_cfg(TRAIN=("bad_boxes",)))
    assert [[a["bbox"] for a in d["annotations"]] for d in dicts] == [[[1, 1, 5, 5]], [[4, 4, 4, 4]]]
    (warning,) = warnings(caplog)
    assert 'Dataset "bad_boxes": annotation 1 of 1.png has box [2, 2, 0, 5] (zero width), ' in warning
    assert "annotation 0 of 2.png has box [3, 3, 5, -1] (negative height). Dropped 2 such boxes" in warning
    assert "check_dataset bad_boxes" in warning


def test_unknown_class_stops_training(tmp_path: Path) -> None:
    register("unused", tmp_path, [])
    image = {"file_name": str(tmp_path / "1.png"), "image_id": 1, "width": 40, "height": 30}
    good = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    for class_id in (2, -1):
        name = f"own{class_id}"
        DatasetCatalog.register(name, lambda i=class_id: [image | {"annotations": [good, good | {"category_id": i}]}])
        MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
        message = rf'"own{class_id}": annotation 1 of .*1\.png has class {class_id}, but its 2 classes .*\(cat, dog\)'
        with pytest.raises(ValueError, match=message):
            load_training_dicts(make_cfg(TRAIN=(name,)))


def test_all_missing_images_are_named(tmp_path: Path) -> None:
    register("holes", tmp_path, [], images=4)
    for number in (2, 4):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r'"holes": 2 of 4 images do not exist: .*2\.png, .*4\.png\. Restore'):
        load_training_dicts(make_cfg(TRAIN=("holes",)))
    (tmp_path / "gone").mkdir()
    register_coco("no_folder", str(tmp_path / "annotations.json"), str(tmp_path / "nowhere"))
    assert len(check_dataset("no_folder").missing_files) == 4


def test_duplicate_images_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("twice", tmp_path, [{"image_id": 1, "bbox": [1, 1, 5, 5]}])
    file = tmp_path / "annotations.json"
    file.write_text(file.read_text().replace("2.png", "1.png"))
    assert len(load_training_dicts(make_cfg(TRAIN=("twice",)))) == 2
    (warning,) = warnings(caplog)
    assert "1 image occurs more than once" in warning and "1.png" in warning


def test_images_without_usable_box(tmp_path: Path) -> None:
    register("one_empty", tmp_path, [{"image_id": 1, "bbox": [1, 1, 0, 5]}, {"image_id": 2, "bbox": [1, 1, 5, 5]}])
    cfg = make_cfg(TRAIN=("one_empty",))
    assert len(load_training_dicts(cfg)) == 2
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert [d["image_id"] for d in load_training_dicts(cfg)] == [2]
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty"):
        load_training_dicts(make_cfg(TRAIN=()))


@pytest.mark.parametrize(
    "annotations",
    [
        [],
        [{"image_id": 1, "bbox": [1, 1, 0, 5]}],
        [{"image_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1}],
    ],
)
@pytest.mark.parametrize("filter_empty", [False, True])
def test_data_without_any_usable_box(tmp_path: Path, annotations: list[dict], filter_empty: bool) -> None:
    register("all_empty", tmp_path, annotations)
    cfg = make_cfg(TRAIN=("all_empty",))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN \['all_empty'\]: none of the 2 images has a usable box"):
        load_training_dicts(cfg)
    assert not check_dataset("all_empty").trainable

    # Next to a set that has boxes, it is background.
    (tmp_path / "other").mkdir()
    register("not_empty", tmp_path / "other", [{"image_id": 1, "bbox": [1, 1, 5, 5]}])
    cfg.DATASETS.TRAIN = ("all_empty", "not_empty")
    assert len(load_training_dicts(cfg)) == (1 if filter_empty else 4)


def test_annotation_without_a_box_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As datasets registered by other functions than this project's may have them."""
    image = {"file_name": str(tmp_path / "1.png"), "image_id": 1, "width": 40, "height": 30}
    write_image(tmp_path / "1.png", 40, 30)
    good = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    DatasetCatalog.register("own", lambda: [image | {"annotations": [{"category_id": 0}, good | {"bbox": "1"}, good]}])
    (record,) = load_training_dicts(make_cfg(TRAIN=("own",)))
    assert record["annotations"] == [good | {"iscrowd": 0}]
    (warning,) = warnings(caplog)
    assert "annotation 0 of 1.png has box None (not four numbers), annotation 1 of 1.png has box '1' (not" in warning


def test_tool_lists_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would keep the log of later tests from caplog.
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    caplog.set_level(logging.INFO, logger="pair_detr")
    register("tool", tmp_path, [{"image_id": 1, "bbox": [1, 1, 0, 5]}, {"image_id": 1, "bbox": [1, 1, 2, 5]}])
    assert tool.main(["tool"]) == 0
    assert "tool: dropped: annotation 0 of 1.png has box [1, 1, 0, 5] (zero width)" in caplog.messages
    verdict = "can be trained on if its images can be read (--open-images)"
    assert f"tool: 2 images (1 without objects), 1 box: {verdict}" in caplog.messages
    (table,) = (message for message in caplog.messages if message.startswith("tool: classes"))
    assert table.splitlines()[-2].replace(" ", "") == "|cat|1|1|0|0|"
    (tmp_path / "2.png").unlink()
    assert tool.main(["tool"]) == 1
    assert f"tool: missing image: {tmp_path / '2.png'}" in caplog.messages


def test_tool_goes_on_after_a_data_set_that_cannot_be_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    caplog.set_level(logging.INFO, logger="pair_detr")
    register("torn", tmp_path / "torn", []).joinpath("annotations.json").write_text("[")
    register("gone", tmp_path / "gone", []).joinpath("annotations.json").unlink()
    register("fine", tmp_path / "fine", [{"image_id": i, "bbox": [1, 1, 2, 5]} for i in (1, 2)])
    assert tool.main(["unheard_of", "torn", "gone", "fine"]) == 1
    first, second, third, last = (
        caplog.messages[0],
        *(m for m in caplog.messages[1:] if "cannot be loaded" in m or "trained on" in m),
    )
    assert first.startswith('unheard_of: cannot be loaded: Dataset "unheard_of" is not registered')
    assert second.startswith("torn: cannot be loaded: ") and "not valid JSON" in second
    assert third.startswith("gone: cannot be loaded: ") and "annotations.json" in third
    assert last == "fine: 2 images, 2 boxes: can be trained on if its images can be read (--open-images)"


def test_tool_registers_from_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    config = tmp_path / "config.yaml"
    root = write_voc(tmp_path / "voc")
    config.write_text(
        f"VERSION: 2\nDATASETS:\n  REGISTER: [{{NAME: tool_voc, FORMAT: voc, ROOT: {root}, SPLIT: train}}]\n"
    )
    assert tool.main(["tool_voc", "--config-file", str(config)]) == 0


def test_report_lists_what_the_voc_loader_dropped(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc")
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("<xmax>20</xmax>", "<xmax>10</xmax>"))
    register_voc("voc", str(root), "train")
    report = check_dataset("voc")
    assert (report.num_images, report.num_boxes) == (2, 1)
    assert [str(f) for f in report.invalid_boxes] == ["annotation 1 of a.jpg has box [10, 5, 10, 15] (zero width)"]


# ---- number of classes ----


def classes(name: str, *names: str, ids: dict[int, int] | None = None) -> str:
    DatasetCatalog.register(name, lambda: [])
    MetadataCatalog.get(name).set(thing_classes=list(names))
    if ids is not None:
        MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id=ids)
    return name


def resolve(number: int, train: tuple[str, ...], test: tuple[str, ...] = ()) -> int:
    cfg = make_cfg(TRAIN=train, TEST=test)
    cfg.MODEL.DETR.NUM_CLASSES = number
    return resolve_num_classes(cfg)


def test_number_is_taken_from_the_data(tmp_path: Path) -> None:
    two = classes("two", "cat", "dog")
    assert resolve(0, (two,)) == 2
    assert resolve(0, (), (two,)) == 2
    assert resolve(0, (two, classes("two_again", "cat", "dog"))) == 2
    # Metadata that only loading fills in.
    register("lazy", tmp_path, [])
    assert MetadataCatalog.get("lazy").get("thing_classes") is None
    assert resolve(0, ("lazy",)) == 2


def test_number_must_agree_with_the_data() -> None:
    two = classes("two", "cat", "dog")
    assert resolve(2, (two,), (two,)) == 2
    for number in (1, 3):
        with pytest.raises(
            ValueError, match=rf'NUM_CLASSES {number} does not .*"two".*2 classes \(cat, dog\).*NUM_CLASSES to 2'
        ):
            resolve(number, (two,))
        with pytest.raises(ValueError, match='"two"'):
            resolve(number, (), (two,))
    with pytest.raises(ValueError, match='the classes of "two"'):
        resolve(0, (two,), (classes("three", "cat", "dog", "owl"),))
    # Nothing is known about a dataset that is not there.
    assert resolve(7, ("not_registered",)) == 7
    assert resolve(7, ()) == 7


def test_a_number_must_be_that_of_the_data() -> None:
    """Raw category ids are no classes: predictions above the contiguous ones would end the evaluation."""
    assert resolve(80, ("coco_2017_train",)) == 80
    for number in (79, 81, 91):
        with pytest.raises(ValueError, match="80 classes"):
            resolve(number, ("coco_2017_train",))
    # The largest id plus one may not be below the number of classes either.
    with pytest.raises(ValueError, match="2 classes"):
        resolve(1, (classes("odd", "cat", "dog", ids={0: 0}),))


def test_number_that_cannot_be_told() -> None:
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 0 and DATASETS\.TRAIN and DATASETS\.TEST are empty"):
        resolve(0, ())
    with pytest.raises(ValueError, match="NUM_CLASSES is -1"):
        resolve(-1, ())
    with pytest.raises(KeyError, match='"not_registered" is not registered'):
        resolve(0, ("not_registered",))
    DatasetCatalog.register("nameless", lambda: [{"file_name": "x"}])
    with pytest.raises(ValueError, match='"nameless" has no thing_classes'):
        resolve(0, ("nameless",))


def test_training_sets_of_different_classes() -> None:
    names = classes("two", "cat", "dog"), classes("other", "dog", "owl")
    with pytest.raises(ValueError, match=r'"other" has 2 classes \(dog, owl\), "two" 2 classes \(cat, dog\) \(in the'):
        resolve(0, names)


def test_the_order_of_classes_may_differ(caplog: pytest.LogCaptureFixture) -> None:
    swapped = classes("swapped", "dog", "cat")
    assert resolve(0, (classes("two", "cat", "dog"), swapped), (swapped,)) == 2
    assert not warnings(caplog)


def test_a_test_set_of_other_classes_says_so() -> None:
    one, two = classes("one", "cat", "dog"), classes("two", "cat", "dog", "owl")
    with pytest.raises(ValueError, match=r'"two" has 3 classes .*in the second alone: owl\).*Set DATASETS\.TEST'):
        resolve(0, (one,), (two,))


def test_tool_opens_images(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    caplog.set_level(logging.INFO, logger="pair_detr")
    register("opened", tmp_path, [{"image_id": 1, "bbox": [1, 1, 5, 5]}], images=3)
    assert tool.main(["opened", "--open-images"]) == 0
    assert caplog.messages[-1].endswith("can be trained on")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    write_image(tmp_path / "3.png", 50, 30)
    assert tool.main(["opened", "--open-images"]) == 1
    cut, resized = [message for message in caplog.messages if "unreadable image" in message]
    assert "2.png" in cut
    assert "3.png" in resized and "50" in resized
