"""Images as people have them: turned, transparent, with a palette, gray, broken, without objects."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_cfg, restored_catalogs, write_coco
from detectron2.structures import BoxMode
from PIL import Image

from pair_detr.data import DetectionMapper, build_train_loader, register_coco
from pair_detr.data.image_names import missing_files
from pair_detr.images.inputs import as_format
from pair_detr.images.reading import image_sizes, read_pixels


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "L", "LA", "1", "CMYK", "YCbCr", "HSV"])
def test_every_mode_of_8_bits_becomes_rgb(tmp_path: Path, mode: str) -> None:
    color = (255, 255, 255) if mode in ("1", "L", "LA") else (255, 0, 0)
    suffix = {"CMYK": "tif", "YCbCr": "tif", "HSV": "tif", "PA": "tif"}.get(mode, "png")
    image = Image.new("RGB", (6, 4), color)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    try:
        # Pillow 12 does not read what it has written of YCbCr as it is.
        image.save(tmp_path / f"image.{suffix}", **({"compression": "tiff_lzw"} if mode == "YCbCr" else {}))
    except OSError:
        pytest.skip(f"this Pillow cannot write {mode}")
    pixels = read_pixels(str(tmp_path / f"image.{suffix}"), "RGB")
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels[0, 0].astype(int) - color).max() <= 3
    assert np.array_equal(read_pixels(str(tmp_path / f"image.{suffix}"), "BGR")[..., ::-1], pixels)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=b"\xff\x80")
    for name in ("clear.png", "palette.png"):
        assert read_pixels(str(tmp_path / name), "RGB")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("I", "tif"), ("F", "tif")])
def test_more_than_8_bits_are_named(tmp_path: Path, mode: str, suffix: str) -> None:
    """Pillow would clip them at 255, and everything would be white."""
    Image.fromarray(np.full((4, 6), 3000, dtype={"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])).save(
        tmp_path / f"deep.{suffix}"
    )
    with pytest.raises(ValueError, match=rf"deep\.{suffix} has more than 8 bits per channel .*scale it to 0\.\.255"):
        read_pixels(str(tmp_path / f"deep.{suffix}"), "RGB")


@pytest.mark.parametrize("file", ["a.png", "transparent.png", "a.tif", "uncompressed.tif", "a.ppm", "a.jp2"])
def test_colors_of_more_than_8_bits_are_named(tmp_path: Path, file: str) -> None:
    """Pillow would keep the upper 8 bits: of a camera's 12 next to nothing."""
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 80, 4 if "transparent" in file else 3), dtype=np.uint16)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if "uncompressed" in file else []
    for folder, content in (("deep", pixels), ("shallow", (pixels >> 4).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        assert cv2.imwrite(str(tmp_path / folder / file), content, options)
    deep = tmp_path / "deep" / file
    with pytest.raises(ValueError, match=rf"{file} has more than 8 bits per channel \(.* of 16 bits\): scale it to"):
        read_pixels(str(deep), "RGB")
    with pytest.raises(ValueError, match=rf"{file} has more than 8 bits per channel"):
        as_format(deep, "BGR")
    with Image.open(deep) as image, pytest.raises(ValueError, match="the image has more than 8 bits per channel"):
        as_format(image, "BGR")
    assert read_pixels(str(tmp_path / "shallow" / file), "RGB").mean() == pytest.approx(127, abs=4)


@pytest.mark.parametrize("linked", [False, True])
def test_pipes_are_no_images(tmp_path: Path, linked: bool) -> None:
    """Opening them would wait for ever."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(tmp_path / "fifo" if linked else pipe)
    if linked:
        pipe.symlink_to(tmp_path / "fifo")
    with pytest.raises(OSError, match=r"pipe\.png cannot be read as an image \(OSError: .* is a pipe"):
        read_pixels(str(pipe), "RGB")
    with pytest.raises(OSError, match=r"pipe\.png"):
        as_format(pipe, "BGR")
    assert image_sizes([pipe]) == [None]
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = [str(tmp_path / name) for name in ("pipe.png", "dead.png", "loop.png")]
    assert missing_files(names) == names


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_turned_image(tmp_path: Path, orientation: int) -> None:
    """The corner of the turned image that is white is the one that its annotation says, for every turn."""
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8] = 255
    # Pixels as a camera stores them: what EXIF's turn gives back as upright.
    undo = {1: [], 2: ["h"], 3: ["h", "v"], 4: ["v"], 5: ["t"], 6: ["t", "v"], 7: ["t", "h", "v"], 8: ["t", "h"]}
    stored = upright
    for step in undo[orientation]:
        stored = {"h": lambda x: x[:, ::-1], "v": lambda x: x[::-1], "t": lambda x: x.transpose(1, 0, 2)}[step](stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    assert image_sizes([tmp_path / "turned.png"]) == [(24, 16)]
    assert np.array_equal(read_pixels(str(tmp_path / "turned.png"), "RGB"), upright)
    cfg = make_cfg()
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (16,), 99
    annotation = {"bbox": [0, 0, 8, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": str(tmp_path / "turned.png"), "width": 24, "height": 16, "annotations": [annotation]}
    mapped = DetectionMapper(cfg, is_train=True)(record)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, 8, 8]]
    assert mapped["image"][:, :8, :8].min() == 255 and mapped["image"].float().mean() == pytest.approx(255 / 6)


@pytest.mark.parametrize("annotations", [[], [{"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 0, "iscrowd": 1}]])
@pytest.mark.parametrize("masks", [False, True])
def test_images_without_objects(tmp_path: Path, annotations: list[dict], masks: bool) -> None:
    """None at all, or a crowd alone, which nothing is learned from."""
    Image.new("L", (30, 20)).save(tmp_path / "empty.png")
    cfg = make_cfg()
    cfg.MODEL.MASK_ON = masks
    record = {"file_name": str(tmp_path / "empty.png"), "width": 30, "height": 20, "annotations": annotations}
    instances = DetectionMapper(cfg, is_train=True)(record)["instances"]
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.has("gt_masks") == masks


def test_the_training_loader_takes_them_all(tmp_path: Path) -> None:
    """Colors of each kind, a turned image, one without objects and a crowd, in the batches of an epoch."""
    with restored_catalogs():
        modes = ("RGBA", "P", "L", "RGB", "RGB", "RGB")
        turned, empty, crowd = 4, 5, 6
        boxes = [{"image_id": i, "bbox": [0, 0, 10, 10]} for i in range(1, 7) if i != empty]
        boxes[-1]["iscrowd"] = 1
        file = write_coco(tmp_path, boxes, [(40, 30)] * 6)
        # A color that Pillow's palette has.
        for number, mode in enumerate(modes, start=1):
            exif = Image.Exif()
            exif[0x0112] = 6 if number == turned else 1
            size = (30, 40) if number == turned else (40, 30)
            Image.new("RGB", size, (102, 102, 102)).convert(mode).save(tmp_path / f"{number}.png", exif=exif)
        register_coco("kinds", str(file), str(tmp_path))
        cfg = make_cfg(TRAIN=("kinds",))
        cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (30,), 99
        cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 6, 0
        (batch,) = itertools.islice(build_train_loader(cfg), 1)
    assert sorted(item["image_id"] for item in batch) == list(range(1, 7))
    for item in batch:
        assert item["image"].shape == (3, 30, 40) and (item["image"] == 102).all()
        objects = [] if item["image_id"] in (empty, crowd) else [[0, 0, 10, 10]]
        assert item["instances"].gt_boxes.tensor.tolist() == objects


def test_size_of_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("text")
    assert image_sizes([tmp_path / "text.jpg", tmp_path / "absent.jpg"]) == [None, None]
