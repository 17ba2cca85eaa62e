"""INPUT.FORMAT: models for gray images, for colors with a fourth channel, and for other orders of channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, restored_catalogs, write_coco
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from model_helpers import build, make_batch, tiny_cfg, tiny_resnet_cfg
from PIL import Image
from tool_helpers import save_model

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.config.choices import IMAGE_CHANNELS
from pair_detr.data import DetectionMapper, check_input
from pair_detr.images.inputs import as_format
from pair_detr.images.reading import read_pixels, to_rgb
from pair_detr.predictor import Predictor

RGB = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (60, 80, 1), dtype=np.uint8)
# ITU-R 601-2, as Pillow documents it.
GRAY = (RGB @ np.array([299, 587, 114]) / 1000)[..., None]


def set_format(cfg: CfgNode, image_format: str) -> CfgNode:
    cfg.INPUT.FORMAT = image_format
    cfg.MODEL.PIXEL_MEAN = [110.0, 120.0, 115.0, 128.0][: IMAGE_CHANNELS[image_format]]
    cfg.MODEL.PIXEL_STD = [58.0] * IMAGE_CHANNELS[image_format]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.RESIZE_CROP.ENABLED = (48,), 96, False
    return cfg


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "L", "LA", "1", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("image_format", IMAGE_CHANNELS)
def test_images_of_every_mode_become_every_format(image_format: str, mode: str) -> None:
    image = Image.new("RGB", (6, 4), (255, 0, 0))
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    pixels = as_format(image, image_format)
    assert pixels.shape == (4, 6, IMAGE_CHANNELS[image_format]) and pixels.dtype == np.uint8
    shown = to_rgb(pixels, image_format)
    colorless = mode in ("L", "LA", "1") or image_format in ("L", "LA")
    # A bilevel image rounds the gray of red, 76, to black, with a pattern.
    expected = image.convert("RGB").convert("L").getpixel((0, 0)) if colorless else None
    assert np.abs(shown[0, 0].astype(int) - ([expected] * 3 if colorless else [255, 0, 0])).max() <= 3


def test_arrays_in_the_models_own_channels() -> None:
    bgr, rgba = RGB[..., ::-1], np.concatenate((RGB, ALPHA), axis=2)
    assert np.array_equal(as_format(bgr, "RGB"), RGB) and np.array_equal(as_format(bgr, "BGR"), bgr)
    assert np.abs(as_format(bgr, "L") - GRAY).max() <= 1
    for gray in (ALPHA, ALPHA[..., 0]):
        assert np.array_equal(as_format(gray, "L"), ALPHA)
    assert np.array_equal(as_format(rgba[..., [2, 1, 0, 3]], "RGBA"), rgba)
    opaque = as_format(bgr, "RGBA")
    assert np.array_equal(opaque[..., :3], RGB) and (opaque[..., 3] == 255).all()
    for image, image_format, message in (
        (ALPHA[..., 0], "RGB", r"shape \(60, 80\); it must be \(height, width, 3\), in BGR order$"),
        (rgba, "RGB", r"shape \(60, 80, 4\)"),
        (rgba, "L", r"in BGR order, or \(height, width\), gray$"),
        (ALPHA, "RGBA", r"in BGR order, or \(height, width, 4\), in BGRA order$"),
        (ALPHA.astype(np.float32), "L", "type float32; it must be uint8"),
        (ALPHA[:0], "L", "has no pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            as_format(image, image_format)


@pytest.mark.parametrize("image_format", ["L", "RGBA", "HSV", "LA"])
def test_the_predictor_sees_what_training_sees(tmp_path: Path, image_format: str) -> None:
    file = tmp_path / "image.png"
    Image.fromarray(np.concatenate((RGB, ALPHA), axis=2)).save(file)
    arguments = save_model(tmp_path, set_format(tiny_cfg(), image_format))
    predictor = Predictor.from_files(*arguments[1::2], options=["MODEL.DEVICE", "cpu"])
    box = {"bbox": [5, 5, 30, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": str(file), "image_id": 1, "width": 80, "height": 60, "annotations": [box]}
    given = predictor.prepare(file)["image"]
    assert given.shape[0] == IMAGE_CHANNELS[image_format]
    assert torch.equal(given, DetectionMapper(predictor.cfg, is_train=False)(record)["image"])
    mapped = DetectionMapper(predictor.cfg, is_train=True)(record)
    losses = predictor.model.train()([mapped])
    assert all(torch.isfinite(loss) for loss in losses.values())
    predictor.model.eval()
    found = predictor(file)["instances"]
    assert found.image_size == (60, 80) and len(found) > 0
    with Image.open(file) as image:
        assert torch.equal(predictor(image)["instances"].scores, found.scores)
    # A frame of a video, which has no transparency.
    assert len(predictor(np.ascontiguousarray(RGB[..., ::-1]))["instances"]) > 0


@pytest.mark.parametrize("image_format", ["L", "RGBA"])
def test_tools_draw_their_images(tmp_path: Path, image_format: str) -> None:
    pytest.importorskip("cv2")
    from pair_detr.tools import demo, explain_matching, visualize_attention, visualize_data

    with restored_catalogs():
        cfg = set_format(tiny_cfg(), image_format)
        file = write_coco(tmp_path / "data", [{"image_id": 1, "bbox": [5, 10, 20, 15]}], [(60, 40)])
        entry = {"NAME": "own", "FORMAT": "coco", "JSON": str(file), "IMAGES": str(tmp_path / "data")}
        cfg.DATASETS.REGISTER, cfg.DATASETS.TEST = [entry], ("own",)
        cfg.MODEL.DETR.NUM_CLASSES = 2
        arguments = save_model(tmp_path, cfg)
        image = tmp_path / "data" / "1.png"
        options = ["--opts", "MODEL.DEVICE", "cpu"]
        out = tmp_path / "out"
        assert demo.main([*arguments, "--input", str(image), "--output", str(out), *options]) == 0
        explain_matching.main([*arguments, "--output", str(out / "matching.png"), *options])
        visualize_attention.main([*arguments, "--image", str(image), "--output", str(out / "a.png"), *options])
        config = ["--config-file", arguments[1], "--output", str(out)]
        assert visualize_data.main(["own", *config, "--augmented", "--opts", "INPUT.FIXED_SIZE", "(96, 96)"]) == 0
    for name in ("1.png", "matching.png", "a.png", "own/000000_1_view0.png"):
        with Image.open(out / name) as picture:
            assert picture.mode in ("RGB", "RGBA")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"INPUT.FORMAT": "RGBA"},
            r"MEAN has 3 values and MODEL\.PIXEL_STD has 3 values, but INPUT\.FORMAT 'RGBA' needs 4.*STD, or set",
        ),
        ({"INPUT.FORMAT": "L"}, r"PIXEL_MEAN has 3 values .*, but INPUT\.FORMAT 'L' needs 1"),
        ({"INPUT.FORMAT": "L", "MODEL.PIXEL_MEAN": [1.0]}, r"PIXEL_STD has 3 values, but INPUT\.FORMAT 'L' needs 1"),
        ({"MODEL.PIXEL_MEAN": [1.0]}, r"PIXEL_MEAN has 1 value, but INPUT\.FORMAT 'RGB' needs 3"),
        ({"INPUT.FORMAT": "YUV-BT.601"}, r"INPUT\.FORMAT is 'YUV-BT\.601'; it must be one of RGB, BGR, L"),
        ({"INPUT.FORMAT": "rgb"}, r"INPUT\.FORMAT is 'rgb'"),
        ({"MODEL.PIXEL_STD": [1.0, 0.0, 1.0]}, r"PIXEL_STD is \[1\.0, 0\.0, 1\.0\]; .*above 0"),
    ],
)
def test_statistics_have_to_be_those_of_the_channels(options: dict[str, object], message: str) -> None:
    cfg = tiny_cfg()
    cfg.merge_from_list([x for item in options.items() for x in item])
    # Before the data are read, and wherever a model is built.
    for check in (check_input, build):
        with pytest.raises(ValueError, match=message):
            check(cfg)


@pytest.mark.parametrize("image_format", ["L", "RGBA"])
def test_backbones_take_other_numbers_of_channels(image_format: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.TIMM.NAME = "build_timm_backbone", 0, "resnet10t"
    channels = IMAGE_CHANNELS[image_format]
    for other in (cfg, tiny_resnet_cfg()):
        model = build(set_format(other, image_format)).eval()
        batch = make_batch([(40, 60)], [1])
        batch[0]["image"] = torch.zeros(channels, 40, 60)
        assert len(model(batch)[0]["instances"]) > 0
    # timm's own way with weights of three channels.
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet10t.pth")
    cfg.MODEL.TIMM.WEIGHTS = str(tmp_path / "resnet10t.pth")
    first = next(iter(build(cfg, randomize=False).detector.backbone.parameters()))
    original = next(iter(torch.load(tmp_path / "resnet10t.pth").values()))
    assert first.shape[1] == channels
    if image_format == "L":
        torch.testing.assert_close(first, original.sum(1, keepdim=True))


def test_files_are_read_in_every_format(tmp_path: Path) -> None:
    Image.fromarray(np.concatenate((RGB, ALPHA), axis=2)).save(tmp_path / "image.png")
    assert np.array_equal(read_pixels(str(tmp_path / "image.png"), "RGBA")[..., 3:], ALPHA)
    assert np.abs(read_pixels(str(tmp_path / "image.png"), "L") - GRAY).max() <= 1
    assert make_cfg().INPUT.FORMAT in IMAGE_CHANNELS


def test_weights_of_three_channels_on_gray_images_are_refused_by_key(tmp_path: Path) -> None:
    cfg = set_format(tiny_cfg(), "L")
    save_model(tmp_path)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight is 4 x 3 x 3 x 3, not 4 x 1 x 3 x 3 .*INPUT\.FORMAT"):
        Predictor(cfg)
