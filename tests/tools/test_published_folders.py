"""Folders of transformers, ready to be published: what its own classes detect, the model card, and the way back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from hub_helpers import COMMIT, fill_cache
from huggingface_hub import constants
from model_helpers import build, tiny_cfg, tiny_resnet_cfg
from open_vocabulary_helpers import build_text_model
from PIL import Image

from pair_detr import Predictor
from pair_detr.checkpoint import ConversionError, required_config
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.tools.convert_weights import main

transformers = pytest.importorskip("transformers")
NAMES = ["cat", "dog", "owl"]
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def _no_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's would keep the log of later tests from caplog."""
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)


def save_model(folder: Path, cfg: CfgNode, **training: Any) -> Path:
    """Final weights, as a training of the config would write them."""
    model = build(cfg)
    model.class_names = NAMES
    needed = required_config(cfg)
    checkpointer = AtomicCheckpointer(
        model, str(folder), required_config=needed, training=training or None, config_text=cfg.dump()
    )
    checkpointer.save("model_final", iteration=99)
    return folder / "model_final.pth"


def unusual_cfg(variant: str) -> CfgNode:
    """What transformers can hold, but is not what the published models have."""
    cfg = tiny_resnet_cfg(variant, NUM_QUERIES=20)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 96
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [127.5, 100.0, 80.0], [127.5, 60.0, 50.0]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    return cfg


def their_detections(folder: Path) -> dict[str, torch.Tensor]:
    """By score, as transformers' own code finds them in the image."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**processor(IMAGE, return_tensors="pt"))
    options = {"top_k": 20} if "Conditional" in type(model).__name__ else {}
    (found,) = processor.post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[IMAGE.size[::-1]], **options
    )
    order = found["scores"].argsort(descending=True)
    return {key: found[key][order] for key in ("scores", "labels", "boxes")}


@pytest.mark.parametrize("variant", ["pair_detr", "conditional_detr", "detr"])
def test_transformers_detects_the_same(tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = save_model(tmp_path, unusual_cfg(variant))
    folder = tmp_path / "folder"
    main(["--reverse", "transformers", str(weights), str(folder)])
    assert sorted(x.name for x in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    theirs = their_detections(folder)
    # From the hub as well, once it is there.
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    fill_cache(tmp_path / "cache", f"me/{variant}", files)
    main([f"hub://me/{variant}@{COMMIT}", str(tmp_path / "back.pth")])
    assert torch.load(tmp_path / "back.pth")["pair_detr"]["class_names"] == NAMES
    for source in (weights, folder, f"hub://me/{variant}@{COMMIT}"):
        predictor = Predictor(source)
        assert predictor.metadata.thing_classes == NAMES
        ours = predictor(IMAGE)["instances"]
        count = min(len(ours), len(theirs["scores"]))
        assert count >= 10
        torch.testing.assert_close(ours.scores[:count], theirs["scores"][:count], atol=1e-5, rtol=0)
        # Theirs are not clipped.
        limits = torch.tensor([*IMAGE.size, *IMAGE.size])
        boxes = theirs["boxes"][:count].clamp(min=0).minimum(limits)
        torch.testing.assert_close(ours.pred_boxes.tensor[:count], boxes, atol=1e-2, rtol=0)
        assert torch.equal(ours.pred_classes[:count], theirs["labels"][:count])


def test_model_card(tmp_path: Path) -> None:
    cfg = tiny_resnet_cfg("pair_detr")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("my_train",), ("my_val",)
    cfg.MODEL.WEIGHTS = "/somewhere/secret/start.pth"
    weights = save_model(tmp_path, cfg, **{"number of training images": 123})
    rows = [{"iteration": 49, "bbox/AP": 1.0}, {"iteration": 100, "bbox/AP": 41.26, "bbox/AP50": 60.0}]
    rows[1] |= {"bbox/APl": float("nan"), "bbox/AP-cat": 50.0}
    (tmp_path / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    main(["--reverse", "transformers", str(weights), str(tmp_path / "my-detector")])
    card = (tmp_path / "my-detector" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: object-detection\n")
    for text in (
        "# my-detector",
        "Conditional DETR for 3 classes: cat, dog, owl.",
        "| training sets | my_train |",
        "| training images | 123 |",
        "| iterations | 100 |",
        "| trained as | PairDETR |",
        "| started from | start.pth |",
        "In percent on my_val",
        "| bbox/AP | 41.3 |",
        "| bbox/AP50 | 60.0 |",
        "It finds at most 7 objects",
    ):
        assert text in card
    assert "secret" not in card and "bbox/AP-cat" not in card and "nan" not in card


def test_results_of_other_iterations_do_not_count(tmp_path: Path) -> None:
    weights = save_model(tmp_path, tiny_resnet_cfg("conditional_detr"))
    (tmp_path / "metrics.json").write_text('{"iteration": 49, "bbox/AP": 1.0}\n')
    main(["--reverse", "transformers", str(weights), str(tmp_path / "folder")])
    assert "## Results\n\nNot known.\n" in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.parametrize("target", ["official", "transformers"])
def test_all_parts_that_cannot_be_held_are_named(tmp_path: Path, target: str) -> None:
    cfg = tiny_cfg("pair_detr", DENSE__ENABLED=True, QUERY_SELECTION="boxes", PAIR__CLASS_DECODER="top_left")
    cfg.INPUT.FIXED_SIZE = (64, 64)
    weights = save_model(tmp_path, cfg)
    with pytest.raises(ConversionError) as raised:
        main(["--reverse", target, str(weights), str(tmp_path / "out")])
    text = str(raised.value)
    assert text.startswith(f"{target} cannot hold the model: ")
    for key in ("BACKBONE.NAME", "QUERY_SELECTION", "PAIR.CLASS_DECODER top_left", "INPUT.FIXED_SIZE"):
        assert key in text
    assert not (tmp_path / "out").exists()


def test_texts_and_pixels_of_the_official_code(tmp_path: Path) -> None:
    model = build_text_model(tmp_path)
    torch.save({"model": model.state_dict()}, tmp_path / "texts.pth")
    with pytest.raises(ConversionError, match=r"classifier compares with texts \(MODEL\.CLIP\.TEXT_WEIGHTS\)"):
        main(["--reverse", "official", str(tmp_path / "texts.pth"), str(tmp_path / "out")])
    weights = save_model(tmp_path, unusual_cfg("detr"))
    with pytest.raises(
        ConversionError, match=r"pixel mean \(MODEL\.PIXEL_MEAN \[127\.5.*deviation.*STRIDE_IN_1X1 True"
    ):
        main(["--reverse", "official", str(weights), str(tmp_path / "out")])
