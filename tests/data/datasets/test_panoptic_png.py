"""PNG files of panoptic data: of any kind of pixels, and those that do not show what the JSON file says."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import PANOPTIC_SIZE, make_cfg, write_panoptic
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic as register_with_detectron2
from PIL import Image

from pair_detr.data import DetectionMapper, check_dataset, load_dataset, load_training_dicts, register_from_config
from pair_detr.data.datasets import panoptic_masks
from pair_detr.data.datasets.panoptic_png import id_to_rgb, read_segment_ids, read_stuff, rgb_to_id
from pair_detr.evaluation.build import require_test_set
from pair_detr.tools import check_dataset as tool

WIDTH, HEIGHT = PANOPTIC_SIZE


@pytest.fixture(autouse=True)
def _nothing_said(catalogs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panoptic_masks, "_warned", set())


def palette(ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    """A picture with a palette of the colors by number."""
    image = Image.fromarray(ids.astype(np.uint8)).convert("P")
    image.putpalette(colors.astype(np.uint8).flatten().tolist())
    return image


SMALL = np.array([[0, 1, 1], [2, 7, 7]])
LARGE = np.array([[0, 300, 300], [2, 65535, 7]])
LOOKS = np.random.default_rng(0).integers(0, 256, (256, 3))


@pytest.mark.parametrize(
    ("image", "mode", "expected"),
    [
        (Image.fromarray(SMALL.astype(np.uint8)), "L", SMALL),
        (Image.fromarray(LARGE.astype(np.uint16)), "I;16", LARGE),
        (Image.fromarray(SMALL > 0), "1", SMALL > 0),
        (Image.fromarray(SMALL.astype(np.uint8)).convert("LA"), "LA", SMALL),
        # The index of a color in a display palette, as annotation tools write it, or the color itself.
        (palette(SMALL, LOOKS), "P", SMALL),
        (Image.fromarray(id_to_rgb(LARGE)).convert("P", palette=Image.Palette.ADAPTIVE), "P", LARGE),
        (Image.fromarray(id_to_rgb(LARGE * 200)), "RGB", LARGE * 200),
        (Image.fromarray(np.dstack([id_to_rgb(LARGE), LARGE > 5]).astype(np.uint8), "RGBA"), "RGBA", LARGE),
        # Gray colors, which a program that makes files smaller writes as one channel.
        (Image.fromarray(id_to_rgb(SMALL * 65793)).convert("L"), "L", SMALL * 65793),
    ],
)
def test_ids_by_kind_of_pixels(tmp_path: Path, image: Image.Image, mode: str, expected: np.ndarray) -> None:
    file = tmp_path / "a.png"
    image.save(file)
    assert Image.open(file).mode == mode
    ids = read_segment_ids(str(file), sorted(set(expected.astype(int).flatten().tolist()) - {0}))
    assert ids.dtype == np.int32 and ids.tolist() == expected.astype(int).tolist()


def test_colors_and_ids() -> None:
    ids = np.array([[0, 1, 255], [256, 65536, 256**3 - 1]])
    assert id_to_rgb(ids)[1].tolist() == [[0, 1, 0], [0, 0, 1], [255, 255, 255]]
    assert rgb_to_id(id_to_rgb(ids)).tolist() == ids.tolist()


def test_pixels_of_other_kinds_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tiff"
    Image.fromarray(SMALL.astype(np.float32)).save(file)
    with pytest.raises(ValueError, match=r"a\.tiff has pixels of mode F.*Write ids as colors \(id = R \+ 256 G"):
        read_segment_ids(str(file), [1])


def test_pipes_and_colors_of_16_bits_are_named(tmp_path: Path) -> None:
    """Pillow would read the upper 8 bits, which are other ids, and wait for the pipe for ever."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "deep.png"), id_to_rgb(LARGE)[..., ::-1].astype(np.uint16))
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (("deep", "has more than 8 bits per channel"), ("pipe", "is a pipe or a device")):
        with pytest.raises(OSError, match=rf"{name}\.png cannot be read as a picture of segments .*{message}"):
            read_segment_ids(str(tmp_path / f"{name}.png"), [300])


def test_classes_of_stuff(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for image in (
        Image.fromarray(SMALL.astype(np.uint8)),
        palette(SMALL, LOOKS),
        Image.fromarray(np.dstack([SMALL] * 3).astype(np.uint8)),
    ):
        image.save(file)
        assert read_stuff(str(file)).tolist() == SMALL.tolist()
        assert read_stuff(str(file), dtype=int).dtype == int
    Image.fromarray(id_to_rgb(LARGE)).save(file)
    with pytest.raises(ValueError, match=r"a\.png has pixels of mode RGB, which are no classes of stuff"):
        read_stuff(str(file))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Registers "tiny" as a config does: images 11, with 7, 9 (a crowd), 256, 300 and 70000, and 12, with 1."""
    paths = write_panoptic(tmp_path / "panoptic")
    entry = {"NAME": "tiny", "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry]))
    return paths


def cfg_with_masks() -> CfgNode:
    cfg = make_cfg(TRAIN=("tiny",), TEST=("tiny",))
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (HEIGHT,), WIDTH
    return cfg


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def segments_of(content: dict) -> list[dict]:
    """Of image 11: 7, 9, 256, 300, 70000."""
    return content["annotations"][0]["segments_info"]


def test_segments_of_one_channel_are_trained_on(files: dict[str, Path]) -> None:
    file = files["SEGMENTS"] / "seg11.png"
    expected = DetectionMapper(cfg_with_masks(), is_train=True)(load_training_dicts(cfg_with_masks())[0])["instances"]
    ids = rgb_to_id(np.asarray(Image.open(file)))
    ids[ids == 70000] = 5
    Image.fromarray(ids.astype(np.uint16)).save(file)
    edit(files["JSON"], lambda content: segments_of(content)[4].update(id=5))
    found = DetectionMapper(cfg_with_masks(), is_train=True)(load_training_dicts(cfg_with_masks())[0])["instances"]
    assert (found.gt_masks.tensor == expected.gt_masks.tensor).all() and len(found) == 4
    assert check_dataset("tiny").trainable


def test_segments_without_a_pixel_are_named(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(files["JSON"], lambda content: segments_of(content)[0].update(id=8))
    file = files["SEGMENTS"] / "seg11.png"
    doubt = f'Dataset "tiny": {file} has no pixel of segments 8, and they are left out'
    dicts = load_training_dicts(cfg_with_masks())
    assert caplog.text.count(doubt) == 1
    caplog.clear()
    mapper = DetectionMapper(cfg_with_masks(), is_train=True)
    for _ in range(3):
        assert mapper(dicts[0])["instances"].gt_classes.tolist() == [0, 1, 2]
    assert caplog.text.count(f"{file} has no pixel of 1 of its segments, which are left out: 8. Correct") == 1
    caplog.clear()
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    caplog.set_level(logging.INFO, logger="pair_detr")
    assert tool.main(["tiny", "--open-images"]) == 0
    assert f"tiny: missing segments: {file} has no pixel of segments 8" in caplog.messages
    assert "5 boxes, 4 of them with masks" in caplog.messages[-1]
    # Boxes alone do without the file.
    caplog.clear()
    cfg = cfg_with_masks()
    cfg.MODEL.MASK_ON = False
    boxes = DetectionMapper(cfg, is_train=True)(load_training_dicts(cfg)[0])["instances"]
    assert len(boxes) == 4 and not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_warnings_of_segments_end(files: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    for number in range(30):
        panoptic_masks._warn_of_missing(f"{number}.png", [1])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 20
    assert messages[0].endswith("Correct the file or the ids.")
    assert messages[-1].endswith("left out without a word; check_dataset --open-images lists all.")


@pytest.mark.parametrize("check", ["training", "evaluation", "tool"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (WIDTH, HEIGHT)), r"seg12\.png has no pixel of segments 1, which are all of the image"),
        (Image.new("RGB", (5, 6)), r"seg12\.png has 5x6 pixels, but its image .*12\.png 48x32\. Replace the file"),
        (None, r"seg12\.png cannot be read as a picture"),
    ],
)
def test_files_of_no_use_stop_at_the_start(
    files: dict[str, Path],
    image: Image.Image | None,
    message: str,
    check: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = files["SEGMENTS"] / "seg12.png"
    if image is None:
        file.write_bytes(b"no picture")
    else:
        image.save(file)
    cfg = cfg_with_masks()
    if check == "tool":
        monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
        caplog.set_level(logging.INFO, logger="pair_detr")
        assert tool.main(["tiny"]) == 1
        assert any(message_of.startswith("tiny: unusable segments: ") for message_of in caplog.messages)
        return
    with pytest.raises(ValueError, match=rf'"tiny": 1 PNG file with segments cannot be used: .*{message}'):
        load_training_dicts(cfg) if check == "training" else require_test_set(cfg, "tiny")
    cfg.MODEL.MASK_ON = False
    cfg.TEST.EVALUATOR = "coco"
    load_training_dicts(cfg)
    require_test_set(cfg, "tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: segments_of(c)[1].update(id=7), r"2 segments of image 11 \(.*11\.png\) have the id 7"),
        (lambda c: segments_of(c)[1].update(id=0), r"a segment of image 11 \(.*11\.png\) has the id 0"),
        (lambda c: segments_of(c)[1].update(id=2**24), r"a segment of image 11 \(.*11\.png\) has the id 16777216"),
        (lambda c: segments_of(c)[1].update(id="b"), r"a segment of image 11 \(.*11\.png\) has the id 'b'"),
    ],
)
def test_ids_that_no_file_can_have(files: dict[str, Path], change: Callable[[dict], object], message: str) -> None:
    edit(files["JSON"], change)
    with pytest.raises(ValueError, match=rf'"tiny" cannot be loaded: .*{message}.*Give each segment of an image a wh'):
        load_dataset("tiny")


def test_ids_as_text_and_floats(files: dict[str, Path]) -> None:
    def change(content: dict) -> None:
        segments_of(content)[0]["id"], segments_of(content)[2]["id"] = "7", 256.0

    edit(files["JSON"], change)
    record = load_dataset("tiny")[0]
    assert [segment["id"] for segment in record["segments_info"]] == [7, 9, 256, 300, 70000]
    assert DetectionMapper(cfg_with_masks(), is_train=True)(record)["instances"].gt_classes.tolist() == [0, 0, 1, 2]


def test_images_without_an_entry_are_counted(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def add(content: dict) -> None:
        content["images"] += [{**content["images"][0], "id": own, "file_name": f"{own}.png"} for own in (13, 14)]

    edit(files["JSON"], add)
    expected = "2 images have no entry in annotations, and left out: 13.png, 14.png. Add their segments"
    assert any(doubt.startswith(expected) for doubt in check_dataset("tiny").suspicious)
    caplog.clear()
    assert len(load_training_dicts(cfg_with_masks())) == 2
    assert caplog.text.count(expected) == 1
    # Registered by Detectron2's own function, which takes images to be .jpg.
    for file in files["IMAGES"].iterdir():
        file.rename(files["IMAGES"] / f"seg{file.stem}.jpg")
    metadata = {
        key: MetadataCatalog.get("tiny").get(key)
        for key in ("thing_classes", "stuff_classes", "thing_dataset_id_to_contiguous_id")
    }
    metadata["stuff_dataset_id_to_contiguous_id"] = MetadataCatalog.get("tiny").stuff_dataset_id_to_contiguous_id
    folders = [str(files[key]) for key in ("IMAGES", "SEGMENTS", "JSON")]
    register_with_detectron2("theirs", metadata, *folders)
    assert any(doubt.startswith(expected) for doubt in check_dataset("theirs").suspicious)
    # What the file says now counts.
    edit(files["JSON"], lambda content: content["images"].pop())
    assert any(doubt.startswith("1 image has no entry") for doubt in check_dataset("tiny").suspicious)
    assert "annotations" not in DatasetCatalog.get("theirs")[0]
