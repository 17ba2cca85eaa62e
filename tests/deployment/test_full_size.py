"""The graph of a model with blocks of ResNet-50, of the published width."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from pair_detr import load_config, runtime
from pair_detr.deployment import ExportOptions, export_model
from pair_detr.tools.common import without_data


@pytest.mark.slow
def test_resnet_50(tmp_path: Path) -> None:
    """Conditional DETR with random weights, whose boxes would all be at their reference points."""
    # Blocks are alike, and so are the layers of the transformer. Two stages have all kinds.
    layers = ["MODEL.DETR.ENC_LAYERS", "1", "MODEL.DETR.DEC_LAYERS", "2", "MODEL.RESNETS.OUT_FEATURES", "['res3']"]
    cfg = without_data(load_config("conditional_detr/r50", ["INPUT.MIN_SIZE_TEST", "0", *layers]))
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.detector.box_head.mlp.layers[-1].weight.normal_(std=0.1)
    export_model(model, cfg, tmp_path / "out", ExportOptions())
    detector = runtime.load(tmp_path / "out")
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((128, 160), (100, 160))]
    with torch.no_grad():
        expected = model([{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images])
    found = detector.predict([(image, image.shape[:2]) for image in images])
    for one, other in zip(expected, found, strict=True):
        one, other = one["instances"], other["instances"].to_detectron2()
        assert len(one) == len(other) == 100
        torch.testing.assert_close(other.scores, one.scores, atol=1e-4, rtol=0)
        # Of random weights, scores are so alike that any may come before any other.
        distance = torch.cdist(one.pred_boxes.tensor, other.pred_boxes.tensor, p=torch.inf)
        assert (distance.min(1).values < 1e-3).float().mean() > 0.9
