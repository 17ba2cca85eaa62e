"""Pictures of datasets: of every kind, as annotated and as trained on, of what was asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import make_cfg, voc_annotation, voc_object, write_panoptic
from detectron2.structures import BoxMode
from PIL import Image

from pair_detr.data import DetectionMapper
from pair_detr.drawing import annotations
from pair_detr.drawing.annotations import draw_input, draw_record
from pair_detr.tools import check_dataset
from pair_detr.tools import visualize_data as tool

pytestmark = pytest.mark.usefixtures("catalogs")

WIDTH, HEIGHT = 240, 160
BOX = [40, 40, 160, 110]
NUM_IMAGES = 4


@pytest.fixture(autouse=True)
def _own_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the log of later tests would be kept from caplog."""
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)


def make(data_format: str, root: Path) -> dict[str, Any]:
    """Black images with a box of the second class, dog; returns the entry of DATASETS.REGISTER without NAME."""
    folder = root / {"voc": "JPEGImages", "image_folder": "dog"}.get(data_format, "images")
    folder.mkdir(parents=True)
    names = [f"{i}.png" for i in range(1, NUM_IMAGES + 1)]
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    left, top, right, bottom = BOX
    if data_format == "coco":
        images = [{"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
        box = {"category_id": 2, "iscrowd": 0, "area": 1, "bbox": [left, top, right - left, bottom - top]}
        polygon = [left, top, right, top, right, bottom, left, bottom]
        annotations = [{**box, "segmentation": [polygon], "id": i + 1, "image_id": 10 + i} for i in range(NUM_IMAGES)]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "train.json").write_text(json.dumps(content))
        return {"FORMAT": "coco", "JSON": str(root / "train.json"), "IMAGES": str(folder)}
    if data_format == "image_folder":
        (root / "cat").mkdir()
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "cat" / "5.png")
        return {"FORMAT": data_format, "ROOT": str(root)}
    labels = root / {"voc": "Annotations", "yolo": "labels"}[data_format]
    labels.mkdir()
    for name in names:
        file = (labels / name).with_suffix(".xml" if data_format == "voc" else ".txt")
        center = f"{(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT}"
        yolo = f"1 {center} {(right - left) / WIDTH} {(bottom - top) / HEIGHT}"
        voc = voc_annotation(WIDTH, HEIGHT, voc_object("dog", left + 1, top + 1, right, bottom))
        file.write_text(voc if data_format == "voc" else yolo)
    (root / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(str(i) for i in range(1, NUM_IMAGES + 1)))
    classes = {"CLASSES": ["cat", "dog"]} if data_format == "voc" else {}
    return {"FORMAT": data_format, "ROOT": str(root), "SPLIT": "train", **classes}


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A name, and the config that registers data of the format that the test asks for under it."""
    entry = {"NAME": "shown", **make(request.param, tmp_path / "data")}
    content = {"VERSION": 2, "DATASETS": {"REGISTER": [entry], "TRAIN": ["shown"]}}
    (tmp_path / "config.yaml").write_text(json.dumps(content))
    return request.param, tmp_path / "config.yaml"


def draw(config: Path, *arguments: str) -> tuple[int, list[Path]]:
    output = config.parent / "out"
    status = tool.main(["--config-file", str(config), "--output", str(output), *arguments])
    return status, sorted(output.rglob("*.*"))


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


FORMATS = ("coco", "voc", "yolo", "image_folder")


@pytest.mark.parametrize("config", FORMATS, indirect=True)
def test_every_kind_is_checked_and_drawn(config: tuple[str, Path]) -> None:
    data_format, file = config
    assert check_dataset.main(["shown", "--config-file", str(file), "--open-images"]) == 0
    status, files = draw(file, "--count", "2")
    assert status == 0 and [path.parent.name for path in files] == ["shown"] * 2
    shown = pixels(files[1])
    assert shown.shape == (HEIGHT, WIDTH, 3)
    if data_format == "image_folder":
        # The label alone, in the upper left corner.
        assert shown[:25, :60].max() > 100 and shown[25:].max() < 40
        return
    left, top, right, bottom = BOX
    middle = (top + bottom) // 2, (left + right) // 2
    for x in (left, right):
        assert shown[middle[0], x - 3 : x + 4].max() > 100
    for y in (top, bottom):
        assert shown[y - 3 : y + 4, middle[1]].max() > 100
    # Outside the box, whose label is above, is nothing; inside it is the mask, if there is one.
    assert shown[:, right + 8 :].max() < 40 and shown[: middle[0], : left - 8].max() < 40
    assert (shown[middle].max() > 40) == (data_format == "coco")


@pytest.mark.parametrize("config", FORMATS, indirect=True)
def test_every_kind_is_drawn_as_trained_on(config: tuple[str, Path]) -> None:
    data_format, file = config
    options = ["INPUT.FIXED_SIZE", "(320, 320)", "INPUT.MOSAIC.ENABLED", "True", "INPUT.MOSAIC.PROB", "1.0"]
    options += ["INPUT.COLOR_JITTER.ENABLED", "True", "MODEL.MASK_ON", str(data_format == "coco")]
    arguments = ["--augmented", "--views", "2", "--count", "2", "--opts", *options]
    status, files = draw(file, *arguments)
    assert status == 0
    stems = ("5", "1") if data_format == "image_folder" else ("1", "2")
    expected = [f"{i:06d}_{stem}_view{view}.png" for i, stem in enumerate(stems) for view in (0, 1)]
    assert [path.name for path in files] == expected
    before = [pixels(path) for path in files]
    assert all(picture.shape == (320, 320, 3) for picture in before)
    # A label is not made a mosaic of, and a black image's flip is black.
    varied = data_format != "image_folder"
    assert np.array_equal(before[0], before[1]) != varied
    # The padding, below what the image or a mosaic fills, has the color of the mean.
    padding = [124, 116, 104]
    assert all(np.abs(picture[-40:, -40:] - padding).max() < 8 for picture in before)
    status, files = draw(file, *arguments)
    assert all(np.array_equal(pixels(path), old) for path, old in zip(files, before, strict=True))
    draw(file, "--seed", "1", *arguments)
    assert any(not np.array_equal(pixels(path), old) for path, old in zip(files, before, strict=True)) == varied


@pytest.mark.parametrize("config", ["image_folder"], indirect=True)
def test_labels_keep_their_colors(config: tuple[str, Path]) -> None:
    """A color may be a part of the class that a label names."""
    _, file = config
    for photo in file.parent.rglob("*.png"):
        Image.new("RGB", Image.open(photo).size, (250, 0, 0)).save(photo)
    options = ["INPUT.CHANNEL_PERMUTATION", "1.0", "MODEL.CLIP.OBJECTNESS", "True", "MODEL.CLIP.TEXT_WEIGHTS", "a.npy"]
    status, files = draw(file, "--augmented", "--count", "2", "--opts", *options)
    assert status == 0 and files
    for path in files:
        red, green, blue = pixels(path)[-8:, -8:].reshape(-1, 3).mean(0)
        assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_input_is_drawn_where_it_is(
    tmp_path: Path, masks: bool, image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn: pixels in RGB order, boxes and masks in those of the padded image."""
    Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 0)).save(tmp_path / "1.png")
    left, top, right, bottom = BOX
    polygon = [[left, top, right, top, right, bottom, left, bottom]]
    annotation = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": polygon}
    record = {"file_name": str(tmp_path / "1.png"), "width": WIDTH, "height": HEIGHT, "annotations": [annotation]}
    cfg = make_cfg()
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED, cfg.INPUT.FIXED_SIZE = "none", False, (480, 480)
    cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON = image_format, masks
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(annotations, "draw_objects", lambda *given: calls.append(given))
    draw_input(DetectionMapper(cfg, is_train=True)(record), ["cat", "dog"], image_format, (480, 480), (7, 8, 9))
    ((image, boxes, labels, _, masks_drawn),) = calls
    assert image.shape == (480, 480, 3) and image[10, 10].tolist() == [200, 100, 0]
    assert image[400, 10].tolist() == ([7, 8, 9] if image_format == "RGB" else [9, 8, 7])
    assert boxes.tolist() == [[2 * value for value in BOX]] and labels == ["dog"]
    assert (masks_drawn is not None) == masks
    if masks:
        (mask,) = masks_drawn
        rows, columns = np.nonzero(mask)
        assert mask.shape == (480, 480) and mask.sum() == 4 * (right - left) * (bottom - top)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [2 * value for value in BOX]


def test_crowds_difficult_objects_and_unknown_classes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "1.png")
    good = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    changes = [{"iscrowd": 1}, {"difficult": 1}, {"category_id": 7}, {"bbox": [1, 1, 1, 9]}]
    labels: list[str] = []
    monkeypatch.setattr(annotations, "draw_objects", lambda image, boxes, given, *_: labels.extend(given))
    draw_record({"file_name": str(tmp_path / "1.png"), "annotations": [good | change for change in changes]}, ["cat"])
    assert labels == ["cat (iscrowd)", "cat (difficult)", "class 7"]


def test_panoptic_segments(tmp_path: Path) -> None:
    entry = {"NAME": "pan", "FORMAT": "coco_panoptic", **{k: str(v) for k, v in write_panoptic(tmp_path).items()}}
    (tmp_path / "config.yaml").write_text(json.dumps({"VERSION": 2, "DATASETS": {"REGISTER": [entry]}}))
    status, files = draw(tmp_path / "config.yaml", "pan")
    assert status == 0 and len(files) == 2
    status, files = draw(tmp_path / "config.yaml", "pan", "--augmented", "--opts", "MODEL.MASK_ON", "True")
    assert status == 0 and len(files) == 4


@pytest.mark.parametrize("config", ["coco"], indirect=True)
def test_which_images(config: tuple[str, Path]) -> None:
    file = config[1]
    assert [path.name for path in draw(file, "--images", "13", "images/1.png")[1]] == ["000000_1.png", "000003_4.png"]
    for name in ("000000_1.png", "000003_4.png"):
        (file.parent / "out" / "shown" / name).unlink()
    assert [path.name for path in draw(file, "--start", "1", "--count", "0")[1]] == [
        f"00000{i}_{i + 1}.png" for i in (1, 2, 3)
    ]
    with pytest.raises(ValueError, match=r"there is no image 9\.png, neither as id nor as file name: 1\.png, 2\.png"):
        draw(file, "--images", "9.png")
    with pytest.raises(ValueError, match="--start is 4, but there are 4 images"):
        draw(file, "--start", "4")
    with pytest.raises(KeyError, match='"other" is not registered'):
        draw(file, "other")
    with pytest.raises(ValueError, match="There is nothing to draw"):
        tool.main([])
    for wrong in (["--start", "-1"], ["--count", "-1"], ["--views", "0"]):
        with pytest.raises(SystemExit):
            tool.parse_arguments(wrong)


@pytest.mark.parametrize("config", ["coco"], indirect=True)
@pytest.mark.parametrize("options", [[], ["--augmented"]])
def test_pictures_of_the_user_stay(config: tuple[str, Path], options: list[str]) -> None:
    file = config[1]
    own = file.parent / "out" / "shown" / f"000002_3{'_view0' * bool(options)}.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a picture of the user")
    with pytest.raises(FileExistsError, match=rf"{own.name} exists, and was not made by this program\."):
        draw(file, *options)
    assert list(own.parent.iterdir()) == [own] and own.read_bytes() == b"a picture of the user"
    assert draw(file, "--overwrite", *options) == draw(file, *options)
    assert pixels(own).shape[2] == 3
    with pytest.raises(OSError, match=r"nothing can be written to .*config\.yaml"):
        tool.main(["--config-file", str(file), "--output", str(file)])


@pytest.mark.parametrize("config", ["coco"], indirect=True)
@pytest.mark.parametrize("options", [[], ["--augmented"]])
def test_an_unreadable_image_is_named_and_the_others_drawn(
    config: tuple[str, Path], options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = config[1]
    broken = file.parent / "data" / "images" / "2.png"
    broken.write_bytes(broken.read_bytes()[:50])
    status, files = draw(file, *options)
    assert status == 1 and len(files) == NUM_IMAGES - 1
    assert any(f"{broken} cannot be read as an image" in message for message in caplog.messages)
    assert caplog.messages[-1] == "1 pictures could not be drawn."
