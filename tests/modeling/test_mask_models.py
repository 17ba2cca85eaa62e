"""Masks through the meta-architecture: training, the frozen stage, inference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from model_helpers import VARIANTS, build, tiny_cfg
from open_vocabulary_helpers import make_vocabulary
from pycocotools import mask as coco_mask
from segmentation_helpers import build_sharp, make_mask_batch, mask_cfg, naive_masks, panoptic_cfg

from pair_detr.engine import build_optimizer
from pair_detr.modeling.postprocessing.masks import resize_masks

SIZES = [(61, 90), (97, 43), (50, 50)]
COUNTS = [3, 0, 2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_losses_and_gradients_for_any_batch(variant: str) -> None:
    """As DistributedDataParallel needs it; without objects the mask losses and their gradients are zero."""
    model = build(mask_cfg(variant)).train()
    names = None
    for counts in (COUNTS, [0, 0, 0]):
        model.zero_grad()
        batch = make_mask_batch(SIZES, counts)
        if not any(counts):
            for item in batch:
                # Detectron2's mapper leaves them out where there is nothing.
                item["instances"].remove("gt_masks")
        losses = model(batch)
        names = names or list(losses)
        assert list(losses) == names
        assert {"loss_mask", "loss_dice"} <= losses.keys()
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        of_head = [p.grad.abs().sum() for p in model.detector.mask_head.parameters()]
        assert all((grad > 0) == any(counts) for grad in of_head)
    assert losses["loss_mask"] == losses["loss_dice"] == 0


def test_masks_change_neither_boxes_nor_their_losses() -> None:
    cfg = mask_cfg()
    model = build(cfg).train()
    cfg.MODEL.MASK_ON = False
    without = build(cfg).train()
    without.load_state_dict(model.state_dict(), strict=False)
    batch = make_mask_batch(SIZES, COUNTS)
    losses, expected = model(batch), without(batch)
    assert losses.keys() - expected.keys() == {"loss_mask", "loss_dice"}
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)
    with torch.no_grad():
        for found, wanted in zip(model.eval()(batch), without.eval()(batch), strict=True):
            torch.testing.assert_close(found["instances"].pred_boxes.tensor, wanted["instances"].pred_boxes.tensor)
            assert not wanted["instances"].has("pred_masks")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_second_stage_changes_the_mask_head_alone(variant: str) -> None:
    cfg = mask_cfg(variant, MASK__FREEZE_DETECTOR=True, DROPOUT=0.5)
    model = build(cfg).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = build_optimizer(cfg, model)
    batch = make_mask_batch(SIZES, COUNTS)
    totals = []
    for _ in range(2):
        losses = model(batch)
        assert set(losses) == {"loss_mask", "loss_dice"}
        totals.append(float(sum(losses.values()).detach()))
    # Without dropout and its like, twice the same.
    assert totals[0] == totals[1]
    sum(losses.values()).backward()
    optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if "mask_head" in key}
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(
        model.detector.mask_head.parameters()
    )
    assert not any(module.training for name, module in model.detector.named_modules() if "mask_head" not in name)
    assert model.detector.mask_head.training
    assert not model.eval().detector.mask_head.training


def test_the_second_stage_trains_on_empty_images() -> None:
    model = build(mask_cfg(MASK__FREEZE_DETECTOR=True)).train()
    sum(model(make_mask_batch(SIZES, [0, 0, 0])).values()).backward()
    assert all((p.grad == 0).all() for p in model.detector.mask_head.parameters())


def test_objects_without_masks_are_named() -> None:
    model = build(mask_cfg()).train()
    batch = make_mask_batch(SIZES, COUNTS)
    batch[2]["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match=r"image2\.png has 2 objects without masks.*MODEL.MASK_ON False"):
        model(batch)


def plain_masks(model: Any, batch: list[dict[str, Any]], image: int, query: int) -> np.ndarray:
    """Upsampled to the batch, cut to the image, resized, thresholded; query by query."""
    with torch.no_grad():
        logits = naive_masks(model.detector.mask_head, model.detector(model.preprocess(batch)).mask_queries)
    padded = [max(x["image"].shape[i] for x in batch) for i in (1, 2)]
    height, width = batch[image]["image"].shape[1:]
    full = F.interpolate(logits[image, query][None, None], size=padded, mode="bilinear", align_corners=False)
    size = batch[image]["height"], batch[image]["width"]
    probs = F.interpolate(full[..., :height, :width].sigmoid(), size=size, mode="bilinear", align_corners=False)
    return probs[0, 0].numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_of_detections(variant: str) -> None:
    """Full size, of the query that was detected; queries with several labels have one mask."""
    model = build_sharp(mask_cfg(variant)).eval()
    batch = make_mask_batch(SIZES, COUNTS)
    batch[0] |= {"height": 122, "width": 180}
    batch[1] |= {"height": 55, "width": 21}
    with torch.no_grad():
        results = model(batch)
        logits = model.detector(model.preprocess(batch)).logits[-1]
    _, _, queries = model.class_scoring.detections(logits, model.detections_per_image)
    for i, (item, result) in enumerate(zip(batch, results, strict=True)):
        instances = result["instances"]
        assert result.keys() == {"instances"}
        assert instances.pred_masks.dtype == torch.bool
        assert instances.pred_masks.shape == (len(instances), item["height"], item["width"])
        for number in (0, len(instances) - 1):
            probs = plain_masks(model, batch, i, int(queries[i, number]))
            certain = np.abs(probs - 0.5) > 1e-3
            assert certain.mean() > 0.9
            assert ((probs > 0.5) == instances.pred_masks[number].numpy())[certain].all()
        rle = instances_to_coco_json(instances, 7)[0]["segmentation"]
        assert (coco_mask.decode(rle) == instances.pred_masks[0].numpy()).all()


@pytest.mark.parametrize("output", [(60, 80), (120, 160), (45, 61)])
def test_a_mask_that_equals_the_ground_truth_covers_it_after_resizing(output: tuple[int, int]) -> None:
    """Bands over cells of the mask's grid: the same part of the output, whatever its size."""
    logits = torch.full((2, 20, 25), -50.0)
    logits[0, 5:10] = logits[1, :, 5:15] = 50.0
    # Stride 4; the image is 60 x 80 of the padded 80 x 100.
    found = resize_masks(logits, (80, 100), (60, 80), output) > 0.5
    y, x = (torch.arange(n) + 0.5 for n in output)
    rows, columns = y / output[0] * 60, x / output[1] * 80
    expected = torch.zeros(2, *output, dtype=torch.bool)
    expected[0, (rows > 20) & (rows < 40)] = True
    expected[1, :, (columns > 20) & (columns < 60)] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("variant", ["pair_detr", "detr"])
def test_panoptic_outputs(variant: str) -> None:
    model = build_sharp(panoptic_cfg(variant, "masks_panoptic_test")).eval()
    if variant == "pair_detr":
        # The scores of a fresh model are those of the focal loss's prior.
        model.detector.class_head.bias.data += 5
    batch = make_mask_batch(SIZES, COUNTS)
    with torch.no_grad():
        results = model(batch)
        predictions = model.detector(model.preprocess(batch))
    found = 0
    for i, (item, result) in enumerate(zip(batch, results, strict=True)):
        size = item["height"], item["width"]
        assert result.keys() == {"instances", "panoptic_seg", "sem_seg"}
        instances = result["instances"]
        assert len(instances)
        assert (instances.pred_classes < 2).all()
        assert instances.pred_masks.shape == (len(instances), *size)
        segments, info = result["panoptic_seg"]
        assert segments.shape == size
        assert {x["id"]: x["area"] for x in info} == {
            int(k): int(n) for k, n in zip(*segments.unique(return_counts=True), strict=True) if k
        }
        assert all(x["isthing"] == (x["category_id"] < 2) for x in info)
        logits = predictions.logits[-1, i]
        probs = logits.sigmoid() if variant == "pair_detr" else logits.softmax(-1)[:, :-1]
        masks = torch.stack([torch.from_numpy(plain_masks(model, batch, i, q)) for q in range(7)])
        scores, best = (logits.sigmoid() if variant == "pair_detr" else logits.softmax(-1)).max(-1)
        confident = scores[(best < 4) & (scores > 0.2)]
        assert bool(info) == bool(len(confident))
        assert not info or max(x["score"] for x in info) == pytest.approx(float(confident.max()))
        found += len(info)
        _, labels, queries = model.class_scoring.detections(logits[None], model.detections_per_image)
        expected = masks[queries[0][labels[0] < 2]]
        certain = (expected - 0.5).abs() > 1e-3
        assert ((expected > 0.5) == instances.pred_masks)[certain].all()
        torch.testing.assert_close(result["sem_seg"], torch.einsum("qc,qhw->chw", probs, masks), atol=1e-3, rtol=1e-3)
    assert found


def test_the_vocabulary_of_a_panoptic_model(tmp_path: Path) -> None:
    """Other texts for its classes, but no other number of classes: which would be things?"""
    cfg = panoptic_cfg("pair_detr", "masks_panoptic_test")
    names = ("cat", "dog", "sky", "sea")
    make_vocabulary(names).save(tmp_path / "texts.npy")
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(tmp_path / "texts.npy")
    model = build_sharp(cfg).eval()
    model.set_vocabulary(names, make_vocabulary(names, seed=1).weights)
    assert "panoptic_seg" in model(make_mask_batch(SIZES, COUNTS))[0]
    with pytest.raises(ValueError, match=r"3 classes, but the panoptic model 4.*PANOPTIC\.ENABLED False"):
        model.set_vocabulary(names[:3], make_vocabulary(names[:3]).weights)


def test_panoptic_errors() -> None:
    cfg = panoptic_cfg("detr", "masks_panoptic_test")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"PANOPTIC\.ENABLED is True, but neither DATASETS\.TEST nor DATASETS\.TRAIN"):
        build(cfg)
    cfg = panoptic_cfg("detr", "masks_panoptic_test")
    cfg.MODEL.DETR.PANOPTIC.SCORE_THRESHOLD = 1.0
    with pytest.raises(ValueError, match=r"SCORE_THRESHOLD is 1\.0"):
        build(cfg)
    cfg = tiny_cfg("detr", PANOPTIC__ENABLED=True)
    with pytest.raises(ValueError, match=r"PANOPTIC\.ENABLED is True, but MODEL\.MASK_ON is False"):
        build(cfg)
