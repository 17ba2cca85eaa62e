"""What a predictor takes - folders, addresses - and which detections it returns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import write_image
from inference_helpers import assert_same_detections
from model_helpers import tiny_cfg
from PIL import Image
from tool_helpers import save_model

import pair_detr
from pair_detr import predictor as predictor_module

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def predictor(tmp_path: Path) -> pair_detr.Predictor:
    save_model(tmp_path)
    return pair_detr.Predictor.from_files(str(tmp_path / "config.yaml"), str(tmp_path / "model.pth"))


def test_a_folder_is_all_its_images(predictor: pair_detr.Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    names = ("b.png", "a.jpg", "deep/c.png", ".hidden/d.png")
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, 40 + 10 * number, 30)
    (folder / "notes.txt").touch()
    expected = [predictor(folder / name) for name in ("a.jpg", "b.png", "deep/c.png")]
    for found in (predictor(folder), predictor(str(folder)), list(predictor.stream(folder, batch_size=1))):
        assert [Path(x.pop("file_name")).name for x in found] == ["a.jpg", "b.png"]
        assert_same_detections(found, expected[:2])
    found = predictor(folder, recursive=True)
    assert [x.pop("file_name") for x in found] == [str(folder / name) for name in ("a.jpg", "b.png", "deep/c.png")]
    assert_same_detections(found, expected)
    (single,) = predictor.stream(str(folder / "a.jpg"))
    assert single["file_name"] == str(folder / "a.jpg")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no images: recursive=True"):
        predictor(folder / "empty")


def test_addresses_are_opened_where_allowed_alone(
    predictor: pair_detr.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    picture = Image.fromarray(IMAGE[:, :, ::-1])
    monkeypatch.setattr(predictor_module, "download_image", lambda url: asked.append(url) or picture)
    with pytest.raises(ValueError, match=r"https://x\.org/a\.png is an address .* without allow_urls=True"):
        predictor("https://x.org/a.png")
    assert asked == []
    predictor.allow_urls = True
    found = [predictor("https://x.org/a.png"), *predictor(["https://x.org/b.png", IMAGE])]
    assert_same_detections(found, [predictor(IMAGE)] * 3)
    assert asked == ["https://x.org/a.png", "https://x.org/b.png"]


@pytest.mark.parametrize("masks", [False, True])
def test_threshold_and_one_class_per_query(tmp_path: Path, masks: bool) -> None:
    """Chosen from all pairs of query and class, which are told apart by their boxes."""
    cfg = tiny_cfg("conditional_detr", NUM_CLASSES=3)
    cfg.MODEL.MASK_ON = masks
    save_model(tmp_path, cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    everything = pair_detr.Predictor(cfg)(IMAGE)["instances"]
    boxes = everything.pred_boxes.tensor
    first = [i for i in range(len(boxes)) if not (boxes[:i] == boxes[i]).all(1).any()]
    assert len(first) < len(everything)
    predictor = pair_detr.Predictor(cfg, one_class_per_query=True)
    best = predictor(IMAGE)["instances"]
    torch.testing.assert_close(best.scores, everything.scores[first])
    assert torch.equal(best.pred_classes, everything.pred_classes[first])
    torch.testing.assert_close(best.pred_boxes.tensor, boxes[first])
    assert best.has("pred_masks") == masks
    if masks:
        assert torch.equal(best.pred_masks, everything.pred_masks[first])
    predictor.threshold = float(best.scores[2])
    assert len(predictor(IMAGE)["instances"]) == 3
    found = pair_detr.Predictor(cfg, threshold=1)(IMAGE)["instances"]
    assert len(found) == 0
    with pytest.raises(ValueError, match=r"threshold is 50; it must be from 0 to 1"):
        pair_detr.Predictor(cfg, threshold=50)
