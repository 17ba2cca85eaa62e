"""Each detector can learn four images by heart in 60 steps."""

import contextlib
import io

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from model_helpers import VARIANTS, build, tiny_cfg
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pair_detr.modeling.meta_arch import DetectionTransformer

SIZE = 64
STEPS = 60
COLORS = [(220, 40, 40), (40, 200, 60), (50, 80, 230)]


def rectangles(count: int, rng: np.random.Generator) -> dict:
    """An image with ``count`` filled rectangles, apart from each other, whose color is their class."""
    image = torch.full((3, SIZE, SIZE), 128, dtype=torch.uint8)
    boxes, labels = [], []
    # One a quadrant.
    for quadrant in rng.permutation(4)[:count]:
        width, height = rng.integers(20, 31, size=2)
        x = int(rng.integers(0, SIZE // 2 - width + 1) + SIZE // 2 * (quadrant % 2))
        y = int(rng.integers(0, SIZE // 2 - height + 1) + SIZE // 2 * (quadrant // 2))
        label = int(rng.integers(3))
        image[:, y : y + height, x : x + width] = torch.tensor(COLORS[label], dtype=torch.uint8)[:, None, None]
        boxes.append([x, y, x + width, y + height])
        labels.append(label)
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.gt_classes = torch.tensor(labels)
    return {"image": image, "instances": instances, "height": SIZE, "width": SIZE}


def ap50(model: DetectionTransformer, batch: list[dict]) -> float:
    """COCO's AP at IoU 0.5 of the model's detections."""
    truth = COCO()
    annotations = []
    for i, item in enumerate(batch):
        for box, label in zip(item["instances"].gt_boxes.tensor.tolist(), item["instances"].gt_classes, strict=True):
            x0, y0, x1, y1 = box
            annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": int(label), "iscrowd": 0}
            annotations.append(annotation | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE, "width": SIZE} for i in range(len(batch))],
        "categories": [{"id": i, "name": str(i)} for i in range(3)],
        "annotations": annotations,
    }
    results = []
    with torch.no_grad():
        outputs = model.eval()(batch)
    for i, output in enumerate(outputs):
        found = output["instances"]
        boxes = found.pred_boxes.tensor.clone()
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(boxes.tolist(), found.scores, found.pred_classes, strict=True):
            results.append({"image_id": i, "category_id": int(label), "bbox": box, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_sixty_steps_overfit_four_images(variant: str) -> None:
    rng = np.random.default_rng(0)
    batch = [rectangles(count, rng) for count in (3, 2, 4, 1)]
    cfg = tiny_cfg(variant, NUM_QUERIES=8, HIDDEN_DIM=64, FFN_DIM=128, ENC_LAYERS=1, DEC_LAYERS=2)
    cfg.MODEL.CONVNET.CHANNELS = [16, 32, 64]
    model = build(cfg, randomize=False)
    assert ap50(model, batch) < 0.5
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=STEPS, pct_start=0.2)
    for _ in range(STEPS):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert ap50(model, batch) > 0.9
