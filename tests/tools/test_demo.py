"""Detection in images and videos by the demo."""

import errno
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs, write_image
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from engine_helpers import tiny_options, write_dataset
from PIL import Image
from prediction_helpers import make_instances, write_video
from pycocotools.coco import COCO
from tool_helpers import CLASSES, save_model

import pair_detr
from pair_detr.data.datasets import from_config as registration
from pair_detr.drawing.detections import draw_detections
from pair_detr.drawing.objects import class_colors
from pair_detr.engine import argument_parser, main
from pair_detr.prediction.coco_results import CocoResults
from pair_detr.prediction.media import Frames, VideoFile, find_media
from pair_detr.prediction.names import name_outputs
from pair_detr.prediction.runner import Job, Runner
from pair_detr.tools import demo

cv2 = pytest.importorskip("cv2", reason="the demo needs opencv-python-headless")


def test_images_and_videos_go_on_despite_a_broken_file(tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    model = save_model(tmp_path)
    write_image(inputs / "a.png", 60, 40)
    write_image(inputs / "b.jpg", 30, 50)
    (inputs / "c.png").write_bytes((inputs / "a.png").read_bytes()[:2000])
    write_video(inputs / "d.mp4", 4)
    (inputs / "e.mp4").write_text("no video")
    (inputs / "notes.txt").write_text("no image")
    expected = pair_detr.Predictor.from_files(model[1], model[3])(inputs / "a.png")["instances"]
    confidence = float(expected.scores[9:11].mean())
    expected = expected[:10]
    output = tmp_path / "out"
    arguments = [*model, "--input", str(inputs), "--output", str(output), "--confidence", str(confidence), "--opts"]
    assert demo.main([*arguments, "MODEL.DEVICE", "cpu"]) == 1

    assert sorted(path.name for path in output.iterdir()) == ["a.png", "b.jpg", "d.mp4", "results.json"]
    content = COCO(str(output / "results.json"))
    assert [cat["name"] for cat in content.loadCats([1, 2, 3])] == list(CLASSES)
    images = list(content.imgs.values())
    assert [(x["width"], x["height"]) for x in images] == [(60, 40), (30, 50), *[(64, 48)] * 4]
    assert [x.get("frame") for x in images] == [None, None, 0, 1, 2, 3]
    found = content.loadAnns(content.getAnnIds(imgIds=[1]))
    assert [x["category_id"] - 1 for x in found] == expected.pred_classes.tolist()
    x1, y1, x2, y2 = expected.pred_boxes.tensor.T
    np.testing.assert_allclose([x["bbox"] for x in found], torch.stack((x1, y1, x2 - x1, y2 - y1), 1), atol=1e-3)
    assert content.loadRes(content.dataset["annotations"]).getAnnIds(imgIds=[6]) != []
    frames = Frames(output / "d.mp4")
    assert (frames.expected, round(frames.fps), len(list(frames))) == (4, 10, 4)


def test_batches_change_nothing(tmp_path: Path) -> None:
    """Of images of two sizes around a video, one of which is broken: results in the order of the inputs."""
    model = save_model(tmp_path)
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name, size in (("a", (60, 40)), ("b", (40, 60)), ("c", (60, 40)), ("e", (60, 40)), ("f", (40, 60))):
        write_image(inputs / f"{name}.png", *size)
    (inputs / "b2.png").write_text("no image")
    write_video(inputs / "d.mp4", 5)
    contents = []
    for batch_size in (1, 3):
        output = tmp_path / f"out{batch_size}"
        arguments = ["--input", str(inputs), "--output", str(output), "--confidence", "0.1"]
        arguments += ["--batch-size", str(batch_size), "--opts", "MODEL.DEVICE", "cpu"]
        assert demo.main([*model, *arguments]) == 1
        contents.append(json.loads((output / "results.json").read_text()))
    single, batched = contents
    assert [Path(x["file_name"]).name for x in single["images"]] == [
        "a.png",
        "b.png",
        "c.png",
        *["d.mp4"] * 5,
        "e.png",
        "f.png",
    ]
    assert batched["images"] == single["images"]
    for found, expected in zip(batched["annotations"], single["annotations"], strict=True):
        assert found["image_id"] == expected["image_id"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_category_ids_are_those_of_the_data_set(tmp_path: Path) -> None:
    """As the metadata of a dataset of the config have them, in any order of its classes."""
    with restored_catalogs():
        MetadataCatalog.get("pets").set(
            thing_classes=["Owl", "cat", "dog"], thing_dataset_id_to_contiguous_id={90: 0, 17: 1, 18: 2}
        )
        DatasetCatalog.register("pets", lambda: [])
        arguments = save_model(tmp_path)[1::2]
        options = ["DATASETS.TEST", "('pets',)"]
        predictor = pair_detr.Predictor.from_files(*arguments, options=options)
        assert predictor.category_ids == [17, 18, 90]
        assert predictor.metadata.thing_dataset_id_to_contiguous_id == {17: 0, 18: 1, 90: 2}
        MetadataCatalog.pop("pets")
        MetadataCatalog.get("pets").set(
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id={17: 0, 18: 1},
            stuff_dataset_id_to_contiguous_id={90: 2},
        )
        assert pair_detr.Predictor.from_files(*arguments, options=options).category_ids == [17, 18, 90]
        assert pair_detr.Predictor.from_files(*arguments).category_ids is None


@pytest.mark.parametrize("data", ["in memory", "not loaded", "gone"])
def test_category_ids_are_those_of_the_training(tmp_path: Path, data: str) -> None:
    """Of a COCO file with the ids 0, 7 and 42, wherever the model is used."""
    entry = write_dataset(tmp_path, "pets")
    file = Path(entry["JSON"])
    content = json.loads(file.read_text())
    content["categories"] = [{"id": i, "name": name} for i, name in ((42, "owl"), (0, "cat"), (7, "dog"))]
    for annotation in content["annotations"]:
        annotation["category_id"] = 7 * annotation["category_id"] if annotation["category_id"] == 1 else 0
    file.write_text(json.dumps(content))
    options = tiny_options(entry, tmp_path / "out", SOLVER__MAX_ITER=1)
    with restored_catalogs():
        main(argument_parser().parse_args(["--num-gpus", "1", *options]))
        if data == "gone":
            file.unlink()
        arguments = ["--config-file", str(tmp_path / "out" / "config.yaml"), "--input", str(tmp_path / "0.png")]
        arguments += ["--weights", str(tmp_path / "out" / "model_final.pth"), "--output", str(tmp_path / "demo")]
        if data != "in memory":
            DatasetCatalog.pop("pets")
            MetadataCatalog.pop("pets")
            registration._registered.pop("pets")
        assert demo.main([*arguments, "--confidence", "0"]) == 0
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["categories"] == [{"id": i, "name": name} for i, name in ((0, "cat"), (7, "dog"), (42, "owl"))]
    assert {x["category_id"] for x in results["annotations"]} <= {0, 7, 42}


def test_category_ids_that_nobody_knows_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pair_detr")
    with CocoResults(tmp_path, CLASSES):
        assert "Category ids in results.json are 1 to 3: neither the checkpoint nor a dataset" in caplog.text
    assert [x["id"] for x in json.loads((tmp_path / "results.json").read_text())["categories"]] == [1, 2, 3]


def test_colors_are_those_of_the_image_and_of_the_video(tmp_path: Path) -> None:
    blue = np.zeros((480, 640, 3), np.uint8)
    blue[..., 0] = 255  # In BGR order.
    outputs = {"instances": make_instances((480, 640), [[2, 2, 9, 9]], [0])}
    picture = draw_detections(blue, outputs, Metadata(name="test", thing_classes=list(CLASSES)))
    assert picture[240, 320].tolist() == [0, 0, 255]
    video = VideoFile(tmp_path / "x.mp4", 10)
    video.write(picture)
    video.close()
    (frame,) = Frames(tmp_path / "x.mp4")
    np.testing.assert_allclose(frame[240, 320], [255, 0, 0], atol=16)


def test_boxes_masks_and_panoptic_segments_are_drawn_where_they_are() -> None:
    image = np.full((400, 600, 3), 128, dtype=np.uint8)
    metadata = Metadata(name="test", thing_classes=list(CLASSES), stuff_classes=["grass"])
    instances = make_instances((400, 600), [[100, 50, 300, 250]], [0])
    picture = draw_detections(image, {"instances": instances}, metadata)
    assert picture.shape == image.shape
    # The label lies above the box.
    changed = np.argwhere((picture != 128).any(-1) & (np.arange(400)[:, None] >= 50))
    assert np.abs(changed.min(0) - (50, 100)).max() < 6
    assert np.abs(changed.max(0) - (250, 300)).max() < 6
    inside = picture[150, 200]
    assert (inside == 128).all()
    instances.pred_masks = torch.zeros(1, 400, 600, dtype=torch.bool)
    instances.pred_masks[0, 60:240, 110:290] = True
    assert (draw_detections(image, {"instances": instances}, metadata)[150, 200] != 128).any()
    segments = torch.zeros(400, 600, dtype=torch.int32)
    segments[300:] = 1
    info = [{"id": 1, "isthing": False, "category_id": 0, "area": 60000}]
    drawn = draw_detections(image, {"instances": instances, "panoptic_seg": (segments, info)}, metadata)
    grass = class_colors(len(CLASSES) + 1)[len(CLASSES)]
    np.testing.assert_allclose(drawn[390, 20], 0.55 * 128 + 0.45 * grass, atol=2)
    assert (drawn[60, 60] == 128).all()


def test_inputs_are_found_and_outputs_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "b/deep/y.png", "b/z.MOV", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = find_media([str(tmp_path / "a" / "x.jpg"), str(tmp_path / "b"), str(tmp_path / "b/**/*")])
    assert [str(f.relative_to(tmp_path)) for f in files] == ["a/x.jpg", "b/x.jpg", "b/x.png", "b/z.MOV", "b/deep/y.png"]
    names = [path.name for path in name_outputs(files, tmp_path / "out")]
    assert names == ["x.jpg", "x_2.jpg", "x_3.png", "z.mp4", "y.png"]
    with pytest.raises(ValueError, match=r"a/x\.jpg is one of the inputs"):
        name_outputs(files[:1], tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for text, message in (
        ("empty", r"no images or videos; --recursive also takes"),
        ("no*.jpg", "matches it; correct the path"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            find_media([str(tmp_path / text)])


def test_pictures_of_an_earlier_run_are_no_inputs(tmp_path: Path) -> None:
    """Where the output is in a folder that is searched, or is that folder."""
    model = save_model(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    write_image(folder / "a.bmp", 60, 40)
    for place, output in (
        (["--recursive", "--input", str(folder)], folder / "out"),
        (["--input", f"{folder}/*"], folder),
    ):
        arguments = [*model, *place, "--output", str(output), "--confidence", "0", "--opts", "MODEL.DEVICE", "cpu"]
        for _ in range(2):
            assert demo.main(arguments) == 0
            assert len(json.loads((output / "results.json").read_text())["images"]) == 1
    # One that is named is taken at its word.
    assert find_media([str(folder / "a.png")], output=folder) == [folder / "a.png"]


def test_of_folders_and_patterns_only_media_that_are_not_hidden_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ".cache" / "photos"
    media = ("a.jpg", "b.MP4", "deep/c.tiff")
    hidden = ("._a.jpg", ".thumbnails/a.jpg", "__MACOSX/a.jpg", "deep/@eaDir/c.jpg")
    # Pillow knows the endings of these.
    others = ("scan.pdf", "table.h5", "figure.eps", "film.fli", "a.json", "deep/paper.pdf")
    for name in (*media, *hidden, *others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    def found(*inputs: str) -> list[str]:
        return [file.relative_to(folder).as_posix() for file in find_media([str(folder / text) for text in inputs])]

    assert found("") == ["a.jpg", "b.MP4"]
    assert "left out hidden files (1)" in caplog.text and "._a.jpg (1)" in caplog.text
    caplog.clear()
    assert found("**/*") == list(media)
    assert "left out hidden files that match it (2)" in caplog.text
    assert found("__MACOSX/*", ".thum*/*", "._a.jpg", ".*") == ["__MACOSX/a.jpg", ".thumbnails/a.jpg", "._a.jpg"]
    assert found("scan.pdf") == ["scan.pdf"]
    with pytest.raises(FileNotFoundError, match="no image or video matches it"):
        found("*.pdf")


def test_a_disk_that_becomes_full_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = save_model(tmp_path)
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", 40, 30)
    saved = []

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(self: Image.Image, file: Path, **options: object) -> None:
        saved.append(file)
        monkeypatch.setattr(tempfile, "TemporaryFile", fail)
        fail()

    monkeypatch.setattr(Image.Image, "save", save)
    inputs = ["--input", str(tmp_path / "?.png"), "--output", str(tmp_path / "out")]
    with pytest.raises(OSError, match=r"nothing can be written to .*out \(No space left on device\)"):
        demo.main([*arguments, *inputs, "--opts", "MODEL.DEVICE", "cpu"])
    assert len(saved) == 1


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError, match=r"x\.jpg: it is a pipe or a device, not a file"):
        find_media([str(tmp_path / "x.jpg")])


def test_a_damaged_video_keeps_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "x.mp4", 5)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path)[1::2])
    iterate = Frames.__iter__
    monkeypatch.setattr(Frames, "__iter__", lambda self: (f for f, _ in zip(iterate(self), range(2), strict=False)))
    runner = Runner(predictor, 0.5)
    with pytest.raises(OSError, match=r"x\.mp4 ends after 2 of 5 frames"):
        runner.video(Job(tmp_path / "x.mp4", "x", tmp_path / "out" / "x.mp4"))
    assert runner.summary.num_images == 2
    assert (tmp_path / "out" / "x.mp4").is_file()
    monkeypatch.setattr(Frames, "__iter__", lambda self: iter(()))
    with pytest.raises(OSError, match=r"x\.mp4 has no frames: replace it"):
        runner.video(Job(tmp_path / "x.mp4", "x", tmp_path / "out" / "none.mp4"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.mp4"]
    with pytest.raises(OSError, match="no webcam 99"):
        runner.video(Job(99, "webcam", tmp_path / "out" / "webcam.mp4"))


def test_bad_arguments_stop_before_the_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", 8, 8)
    output = ["--output", str(tmp_path / "out")]
    arguments = ["--config-file", "bases/quickstart", *output, "--input", str(tmp_path / "a.png")]
    with pytest.raises(ValueError, match="--weights"):
        demo.main(arguments)
    (tmp_path / "file").touch()
    for options in (
        ["--confidence", "50"],
        ["--max-frames", "0"],
        ["--batch-size", "0"],
        ["--output", str(tmp_path / "file")],
    ):
        with pytest.raises(SystemExit):
            demo.main([*arguments, *options])
        assert f"error: {options[0]} " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        demo.main(["--config-file", "bases/quickstart", *output, "--webcam"])
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        demo.main(arguments)
    assert not (tmp_path / "out").exists()


def test_pictures_of_any_mode_are_drawn(tmp_path: Path) -> None:
    arguments = save_model(tmp_path)
    for mode in ("L", "P", "RGBA", "CMYK"):
        Image.new("RGB", (40, 30), "red").convert(mode).save(tmp_path / f"{mode}.tiff")
    inputs = ["--input", str(tmp_path / "*.tiff"), "--output", str(tmp_path / "out")]
    assert demo.main([*arguments, *inputs, "--opts", "MODEL.DEVICE", "cpu"]) == 0
    assert {Image.open(file).size for file in (tmp_path / "out").glob("*.png")} == {(40, 30)}


def test_all_formats_of_a_folder_and_those_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.logger, "handlers", [caplog.handler])
    model = save_model(tmp_path)
    for name in ("in/a.png", "in/deep/a.jpg", "in/deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, 60, 40)
    output = tmp_path / "out"
    arguments = [*model, "--input", str(tmp_path / "in"), "--recursive", "--output", str(output), "--confidence", "0"]
    arguments += ["--format", "coco", "yolo", "csv", "supervision", "--no-pictures"]
    assert demo.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"]) == 0
    written = {file.relative_to(output).as_posix() for file in output.rglob("[!.]*") if file.is_file()}
    labels = {"labels/a.txt", "labels/a_2.txt", "labels/b.txt"}
    assert written == {"results.json", "results.csv", "detections.json", "classes.txt", *labels}
    counts = {
        len(json.loads((output / "results.json").read_text())["annotations"]),
        len((output / "results.csv").read_text().splitlines()) - 1,
        len(json.loads((output / "detections.json").read_text())),
        sum(len((output / name).read_text().splitlines()) for name in labels),
    }
    assert len(counts) == 1
    assert f"{counts.pop()} detections of at least 0 in 3 images or frames: results.json and labels and " in caplog.text
    assert " images a second, " in caplog.text and " ms of them in the model)" in caplog.text
    # Once more, then with a file that somebody has corrected.
    assert demo.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"]) == 0
    (output / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(FileExistsError, match=r"a\.txt exists, and was not made by this program\. .*--overwrite"):
        demo.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"])


def test_the_best_score_is_said_where_none_is_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.logger, "handlers", [caplog.handler])
    model = save_model(tmp_path)
    write_image(tmp_path / "a.png", 60, 40)
    best = pair_detr.Predictor.from_files(model[1], model[3])(tmp_path / "a.png")["instances"][0]
    arguments = [*model, "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--confidence", "1"]
    assert demo.main([*arguments, "--no-pictures", "--opts", "MODEL.DEVICE", "cpu"]) == 0
    name, score = CLASSES[int(best.pred_classes)], float(best.scores)
    assert f"No detection reaches 1; the best score is {score:.2g} ({name} in {tmp_path / 'a.png'}): try" in caplog.text


def test_addresses_are_opened_where_allowed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path)
    url = "https://example.org/photos/a.jpg?size=9"
    arguments = [
        *model,
        "--input",
        url,
        "https://example.org/b",
        "--output",
        str(tmp_path / "out"),
        "--confidence",
        "0",
    ]
    with pytest.raises(ValueError, match=r"a\.jpg\?size=9: it is an address; .* add --allow-urls"):
        demo.main(arguments)

    def download(address: str) -> Image.Image:
        if address != url:
            raise OSError(f"{address} cannot be downloaded")
        return Image.new("RGB", (40, 30))

    monkeypatch.setattr("pair_detr.prediction.media.download_image", download)
    assert demo.main([*arguments, "--allow-urls", "--opts", "MODEL.DEVICE", "cpu"]) == 1
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.jpg", "results.json"]
    (image,) = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert (image["file_name"], image["width"], image["height"]) == (url, 40, 30)


def test_tiles_and_tracks(tmp_path: Path) -> None:
    """A picture and a video, in tiles; the objects of the video are numbered."""
    pytest.importorskip("trackers")
    model = save_model(tmp_path)
    write_image(tmp_path / "in.png", 120, 60)
    write_video(tmp_path / "in.mp4", 3)
    arguments = [*model, "--input", str(tmp_path / "in.png"), str(tmp_path / "in.mp4"), "--tile", "40", "--track"]
    arguments += ["--output", str(tmp_path / "out"), "--confidence", "0.02", "--opts", "MODEL.DEVICE", "cpu"]
    assert demo.main(arguments) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"in.png", "in_2.mp4", "results.json"}
    found = json.loads((tmp_path / "out" / "results.json").read_text())["annotations"]
    assert max(x["bbox"][0] + x["bbox"][2] for x in found if x["image_id"] == 1) > 80
    assert {x["image_id"] for x in found if "track_id" in x} == {3, 4}


def test_what_does_not_go_together_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", 8, 8)
    write_video(tmp_path / "a.mp4", 1)
    arguments = ["--config-file", "bases/quickstart", "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="--track follows objects through videos, but the inputs are images alone"):
        demo.main([*arguments, "--input", str(tmp_path / "a.png"), "--track"])
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ImportError, match="pip install trackers"):
        demo.main([*arguments, "--input", str(tmp_path / "a.mp4"), "--track"])
    for options in (["--tile", "0"], ["--tile-overlap", "1"], ["--tile-overlap", "0.99", "--tile", "9"]):
        with pytest.raises(SystemExit):
            demo.main([*arguments, "--input", str(tmp_path / "a.png"), *options])
        assert f"error: {options[0]} " in capsys.readouterr().err
    # Without pictures, neither of the packages that draw is needed.
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ValueError, match="--weights"):
        demo.main([*arguments, "--input", str(tmp_path / "a.png"), "--no-pictures"])
    for options in (["--tile", "99"], ["--format", "supervision"]):
        with pytest.raises(ImportError, match="pip install supervision"):
            demo.main([*arguments, "--input", str(tmp_path / "a.png"), "--no-pictures", *options])


def test_a_webcam_is_filmed_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Webcam:
        expected, fps = None, 10

        def __init__(self, source: int) -> None:
            assert source == 1

        def __iter__(self) -> Iterator[np.ndarray]:
            yield from [np.zeros((48, 64, 3), np.uint8)] * 3
            raise KeyboardInterrupt

    monkeypatch.setattr("pair_detr.prediction.runner.Frames", Webcam)
    arguments = [*save_model(tmp_path), "--webcam", "1", "--format", "coco", "yolo", "--output", str(tmp_path / "out")]
    assert demo.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"]) == 0
    images = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert [(x["file_name"], x["frame"]) for x in images] == [("webcam 1", frame) for frame in range(3)]
    assert sorted(x.name for x in (tmp_path / "out" / "labels").glob("*.txt")) == [f"webcam_{i}.txt" for i in range(3)]
    assert len(list(Frames(tmp_path / "out" / "webcam.mp4"))) == 3


def test_without_a_codec_results_can_be_had_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.logger, "handlers", [caplog.handler])
    write_video(tmp_path / "x.mp4", 2)
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    arguments = [*save_model(tmp_path), "--input", str(tmp_path / "x.mp4"), "--output", str(tmp_path / "out")]
    assert demo.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"]) == 1
    assert "this OpenCV has no codec for MP4. Install opencv-python-headless anew" in caplog.text
    assert demo.main([*arguments, "--no-pictures", "--opts", "MODEL.DEVICE", "cpu"]) == 0
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["images"]) == 2
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["results.json"]
