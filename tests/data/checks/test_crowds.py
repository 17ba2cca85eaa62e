"""Crowds, difficult objects and images without objects are counted, named, and doubted where they are the most."""

import json
import logging
from pathlib import Path

import pytest
from data_helpers import edit, make_cfg, restored_catalogs, write_coco, write_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data import check_dataset, load_training_dicts, register_coco, register_voc
from pair_detr.evaluation.build import require_test_set
from pair_detr.tools import check_dataset as tool

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    caplog.set_level(logging.INFO, logger="pair_detr")


def box(image: int, **more: object) -> dict:
    return {"image_id": image, "bbox": [1, 1, 9, 9], **more}


def register(name: str, folder: Path, annotations: list[dict], images: int) -> None:
    register_coco(name, str(write_coco(folder, annotations, [(40, 30)] * images)), str(folder))


def mixed(folder: Path) -> None:
    """Images with: two cats, a cat and a crowd of dogs, crowds alone, a box without area, nothing, nothing."""
    crowds = [box(2, iscrowd=1, category_id=2), box(3, iscrowd=1), box(3, iscrowd=1)]
    boxes = [box(1), box(1), box(2), box(4) | {"bbox": [1, 1, 0, 5]}]
    register("mixed", folder, [*boxes, *crowds], images=6)


def test_report(tmp_path: Path) -> None:
    mixed(tmp_path)
    report = check_dataset("mixed")
    assert report.crowds == [
        "annotation 1 of 2.png (dog)",
        "annotation 0 of 3.png (cat)",
        "annotation 1 of 3.png (cat)",
    ]
    assert [(count.boxes, count.box_images, count.crowds) for count in report.classes.values()] == [
        (3, 2, 2),
        (0, 0, 1),
    ]
    files = (report.without_objects, report.crowds_alone, report.unusable_alone)
    assert [[Path(file).name for file in part] for part in files] == [["5.png", "6.png"], ["3.png"], ["4.png"]]
    details = "2 without objects, 1 with crowds alone, 1 with unusable boxes alone"
    assert report.describe() == f"6 images ({details}), 3 boxes, 3 crowds"
    assert report.trainable and report.suspicious == []


def test_training_logs_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixed(tmp_path)
    load_training_dicts(make_cfg(TRAIN=("mixed",)))
    assert f'Dataset "mixed": {check_dataset("mixed").describe()}.' in caplog.messages


def test_tool_lists_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixed(tmp_path)
    assert tool.main(["mixed"]) == 0
    assert "mixed: crowd: annotation 1 of 2.png (dog)" in caplog.messages
    assert f"mixed: without objects: {tmp_path / '5.png'}" in caplog.messages
    assert f"mixed: crowds alone: {tmp_path / '3.png'}" in caplog.messages
    assert f"mixed: unusable boxes alone: {tmp_path / '4.png'}" in caplog.messages
    (table,) = (message for message in caplog.messages if message.startswith("mixed: classes"))
    assert [line.replace(" ", "") for line in table.splitlines()[3:]] == ["|cat|3|2|2|0|", "|dog|0|0|1|0|"]
    assert "crowds" in table and "difficult" not in table


def test_long_lists_are_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("many", tmp_path, [box(1, iscrowd=1)] * 25 + [box(1)] * 25, images=1)
    assert tool.main(["many"]) == 0
    crowds = [message for message in caplog.messages if message.startswith("many: crowd: ")]
    assert len(crowds) == 21 and crowds[-1] == "many: crowd: and 5 more"


@pytest.mark.parametrize(("crowds", "doubted"), [(1, False), (2, False), (3, True), (5, True)])
def test_most_objects_being_crowds_is_a_doubt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, crowds: int, doubted: bool
) -> None:
    register("d", tmp_path, [box(1, iscrowd=1)] * crowds + [box(1)] * 2, images=1)
    doubts = check_dataset("d").suspicious
    text = f"{crowds} of {crowds + 2} annotations are crowds (iscrowd 1)"
    assert [doubt.startswith(text) and "set iscrowd to 0 for single objects" in doubt for doubt in doubts] == (
        [True] if doubted else []
    )
    caplog.clear()
    load_training_dicts(make_cfg(TRAIN=("d",)))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [f'Dataset "d": {doubt}.' for doubt in doubts]


def test_data_of_crowds_alone_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("all_crowd", tmp_path, [box(1, iscrowd=1), box(2, iscrowd=1), box(2) | {"bbox": [1, 1, 0, 5]}], images=3)
    match = (
        "none of the 3 images has a usable box to learn from: found: "
        r"2 crowds \(nothing is learned from these: set iscrowd to 0 for single objects\), 1 unusable box \(correct "
        r"them\), 1 image without objects"
    )
    for filter_empty in (False, True):
        cfg = make_cfg(TRAIN=("all_crowd",), TEST=("all_crowd",))
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
        with pytest.raises(ValueError, match=match):
            load_training_dicts(cfg)
        cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
        with pytest.raises(ValueError, match=match):
            load_training_dicts(cfg)
    assert tool.main(["all_crowd"]) == 1
    assert "all_crowd: crowd: annotation 0 of 1.png (cat)" in caplog.messages
    assert caplog.messages[-1].endswith("2 crowds: cannot be trained on")
    register("test", tmp_path / "test", [box(1, iscrowd=1), box(2, iscrowd=1)], images=3)
    with pytest.raises(ValueError, match="of 2 annotations 2 are crowds"):
        require_test_set(cfg, "test")


def test_difficult_objects_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_voc(tmp_path / "voc")
    file = root / "Annotations" / "a.xml"
    # The dog's, the first of the two.
    file.write_text(file.read_text().replace("<difficult>0</difficult>", "<difficult>1</difficult>", 1))
    register_voc("voc", str(root), "train")
    report = check_dataset("voc")
    assert {name: (count.boxes, count.difficult) for name, count in report.classes.items()} == {
        "cat": (1, 0),
        "dog": (1, 1),
    }
    assert report.describe() == "2 images (1 without objects), 2 boxes, 1 of them difficult" and not report.suspicious
    assert tool.main(["voc"]) == 0
    assert "| dog     |       1 |                   1 |" in caplog.text
    edit(file, "<difficult>0</difficult>", "<difficult>1</difficult>")
    (doubt,) = check_dataset("voc").suspicious
    assert doubt.startswith("2 of 2 objects are difficult, which Pascal VOC's AP does not ask for")


def test_images_that_nobody_annotated_are_doubted_in_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("labeled", tmp_path, [box(1)], images=1)
    image = {"file_name": str(tmp_path / "1.png"), "image_id": 1, "width": 40, "height": 30}
    DatasetCatalog.register("bare", lambda: [image])
    empty = {**image, "annotations": [{**box(1), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1}]}
    DatasetCatalog.register("empty", lambda: [empty])
    for name in ("bare", "empty"):
        MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    load_training_dicts(make_cfg(TRAIN=("labeled", "bare", "empty")))
    found = [message for message in caplog.messages if "no annotations at all" in message]
    assert len(found) == 1 and found[0].startswith('Dataset "bare": ')


def test_classes_of_the_same_name_are_counted_apart(tmp_path: Path) -> None:
    objects = [{"image_id": 1, "bbox": [5, 5, 9, 9], "category_id": number} for number in (1, 1, 2)]
    file = write_coco(tmp_path, objects, [(40, 30)])
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "bolt"}]
    file.write_text(json.dumps(content))
    with restored_catalogs():
        register_coco("same_names", str(file), str(tmp_path))
        counts = check_dataset("same_names").classes
    assert {name: count.boxes for name, count in counts.items()} == {"bolt (class 0)": 2, "bolt (class 1)": 1}
