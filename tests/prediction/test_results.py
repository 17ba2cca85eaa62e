"""Files of results, read by other programs or by hand."""

import csv
import json
from pathlib import Path

import pytest
import torch
from prediction_helpers import make_instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from tool_helpers import CLASSES

from pair_detr.prediction.coco_results import CocoResults
from pair_detr.prediction.formats import FORMATS
from pair_detr.prediction.results import DetectedImage
from pair_detr.utils.outputs import RECORD, is_made_here

BOXES = [[1, 2, 11, 7], [0, 0, 5, 5]]


def images() -> list[DetectedImage]:
    """Of 30 x 20 pixels: with two objects, with none, and a frame with a track."""
    tracked = make_instances((20, 30), BOXES, [0, 2])
    tracked.track_ids = torch.tensor([7, -1])
    return [
        DetectedImage("in/x.jpg", "x", make_instances((20, 30), BOXES, [1, 2], [0.9, 0.5])),
        DetectedImage("in/empty.jpg", "empty", make_instances((20, 30), [], [])),
        DetectedImage("in/clip.mp4", "clip", tracked, frame=3),
    ]


def write(folder: Path, *formats: str) -> None:
    for name in formats:
        with FORMATS[name](folder, CLASSES, [3, 5, 9]) as writer:
            for image in images():
                writer.add(image)


def test_coco(tmp_path: Path) -> None:
    masked = images()
    masked[0].instances.pred_masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masked[0].instances.pred_masks[0, 2:7, 1:9] = True
    with CocoResults(tmp_path, CLASSES, [3, 5, 9]) as writer:
        for image in masked:
            writer.add(image)
    content = COCO(str(tmp_path / "results.json"))
    first, second, third, fourth = content.loadAnns(content.getAnnIds())
    assert (first["category_id"], first["bbox"], first["area"]) == (5, [1, 2, 10, 5], 40)
    assert mask_util.area(first["segmentation"]) == 40
    assert (second["category_id"], third["area"], fourth["area"]) == (9, 50, 25)
    assert [x.get("track_id") for x in (first, third, fourth)] == [None, 7, None]
    assert content.getAnnIds(imgIds=[2]) == []
    assert [x.get("frame") for x in content.imgs.values()] == [None, None, 3]


def test_yolo(tmp_path: Path) -> None:
    write(tmp_path, "yolo")
    assert (tmp_path / "classes.txt").read_text().split() == list(CLASSES)
    labels = tmp_path / "labels"
    assert sorted(file.name for file in labels.glob("*.txt")) == ["clip_3.txt", "empty.txt", "x.txt"]
    assert (labels / "empty.txt").read_text() == ""
    rows = [line.split() for line in (labels / "x.txt").read_text().splitlines()]
    assert [int(row[0]) for row in rows] == [1, 2]
    # Boxes of 10 x 5 and 5 x 5 pixels around (6, 4.5) and (2.5, 2.5), and the scores.
    expected = [[6 / 30, 4.5 / 20, 10 / 30, 5 / 20, 0.9], [2.5 / 30, 2.5 / 20, 5 / 30, 5 / 20, 0.5]]
    assert [list(map(float, row[1:])) for row in rows] == [pytest.approx(row, abs=1e-5) for row in expected]
    assert [len(line.split()) for line in (labels / "clip_3.txt").read_text().splitlines()] == [7, 6]
    assert (labels / "clip_3.txt").read_text().splitlines()[0].endswith(" 7")


def test_a_frame_does_not_replace_an_image_of_its_name(tmp_path: Path) -> None:
    frame = images()[2]
    with FORMATS["yolo"](tmp_path, CLASSES) as writer:
        writer.add(DetectedImage("clip_3.jpg", "clip_3", make_instances((20, 30), [], [])))
        writer.add(frame)
    assert {x.name: x.stat().st_size > 0 for x in (tmp_path / "labels").glob("*.txt")} == {
        "clip_3.txt": False,
        "clip_3_2.txt": True,
    }


def test_csv(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["frame"], row["class"], row["track_id"]) for row in rows] == [
        ("in/x.jpg", "", "dog", ""),
        ("in/x.jpg", "", "owl", ""),
        ("in/clip.mp4", "3", "cat", "7"),
        ("in/clip.mp4", "3", "owl", ""),
    ]
    assert [float(rows[0][key]) for key in ("class_id", "score", "x1", "y1", "x2", "y2")] == [1, 0.9, 1, 2, 11, 7]


def test_supervision(tmp_path: Path) -> None:
    """As its own JSONSink writes them."""
    sv = pytest.importorskip("supervision")
    write(tmp_path, "supervision")
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert [(row["class_name"], row["class_id"], row["tracker_id"], row["frame"]) for row in rows] == [
        ("dog", 1, "", None),
        ("owl", 2, "", None),
        ("cat", 0, 7, 3),
        ("owl", 2, "", 3),
    ]
    with sv.JSONSink(str(tmp_path / "expected.json")) as sink:
        detections = sv.Detections.from_detectron2({"instances": images()[0].instances})
        sink.append(detections, {"class_name": ["dog", "owl"], "file": "in/x.jpg", "frame": None})
    assert rows[:2] == json.loads((tmp_path / "expected.json").read_text())


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_known_until_someone_changes_it(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    written = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != RECORD]
    assert written and all(map(is_made_here, written))
    assert set(FORMATS[name].files(tmp_path, ["x", "empty"], ["clip"])) == set(written)
    write(tmp_path, name)
    assert all(map(is_made_here, written))
    for file in written:
        file.write_text("mine")
        assert not is_made_here(file)


@pytest.mark.parametrize("name", FORMATS)
def test_an_error_leaves_files_of_all_images_as_they_were(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    file = tmp_path / {"yolo": "classes.txt"}.get(name, FORMATS[name].output)
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt), FORMATS[name](tmp_path, ["a", "b", "c"], [1, 2, 3]) as writer:
        writer.add(images()[0])
        raise KeyboardInterrupt
    assert file.read_bytes() == before
    assert all(is_made_here(file) for file in tmp_path.rglob("*.txt"))
