"""Scores of a frozen CLIP for predicted boxes: computed by hand, and beside clip's own model."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_helpers import restored_catalogs
from detectron2.data import DatasetCatalog, MetadataCatalog
from model_helpers import as_batch, build, make_batch, make_boxes
from torch import Tensor

pytest.importorskip("clip", reason="needs the package clip")
from clip_helpers import EMBED_DIM, NAMES, clip_cfg, make_clip
from open_vocabulary_helpers import make_texts

from pair_detr.config.validation import check_values
from pair_detr.deployment.export import trace
from pair_detr.deployment.graph import DetectionGraph
from pair_detr.losses.classification import ClassScoring, SigmoidFocal, Softmax
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.modeling.region_scores import RegionScores
from pair_detr.open_vocabulary import Vocabulary, base_classes, load_vocabulary
from pair_detr.structures import Batch, Predictions

TEXTS = F.normalize(make_texts(len(NAMES), EMBED_DIM), dim=-1)
TEMPERATURE = 0.05


def make_regions(class_scoring: ClassScoring | None = None, **options: Any) -> RegionScores:
    vocabulary = Vocabulary(NAMES, TEXTS)
    options = {"temperature": TEMPERATURE, **options}
    return RegionScores(class_scoring or SigmoidFocal(), vocabulary, NAMES[:2], **options)


class MeanPool(torch.nn.Module):
    """In place of an attention pool: the mean of all cells."""

    grid, stride = 2, 32

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


@torch.no_grad()
def test_the_box_of_the_whole_image_is_scored_as_clip_scores_it(tmp_path: Path) -> None:
    """Where the image has as many cells as the attention pool has positions, RoIAlign takes each as it is."""
    network = make_clip()
    backbone = build(clip_cfg(tmp_path, network), randomize=False).detector.backbone
    images = torch.randn(2, 3, 64, 64)
    boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(2, 1, 4)
    found = make_regions().score(backbone(images)["res5"], boxes, as_batch(images), backbone.attnpool, TEXTS)
    cosines = F.normalize(network.encode_image(images), dim=-1) @ TEXTS.T
    torch.testing.assert_close(found[:, 0], (cosines / TEMPERATURE).log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert found.exp().amax(-1).std() > 1e-4


@pytest.mark.parametrize(
    ("class_scoring", "columns"), [(SigmoidFocal(), len(NAMES)), (Softmax(), len(NAMES) + 1)], ids=["focal", "softmax"]
)
def test_fusion_by_hand(class_scoring: ClassScoring, columns: int) -> None:
    """Boxes of one cell each, whose score NumPy computes; base classes are the first two."""
    maps = torch.randn(1, EMBED_DIM, 2, 2)
    # The centers of the cells of an image of 64 pixels, and boxes around them; a cell is then constant.
    cells = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    flat = maps.repeat_interleave(8, -1).repeat_interleave(8, -2)
    pool = MeanPool()
    pool.stride = 4
    centers = (cells.flip(1) + 0.5) / 2
    boxes = torch.cat((centers, torch.full((4, 2), 0.125)), dim=-1)[None, None]
    logits = torch.randn(1, 1, 4, columns)
    predictions = Predictions(logits, boxes)
    regions = make_regions(class_scoring, base_weight=0.2, novel_weight=0.7)
    fused = regions(predictions, flat, as_batch(torch.zeros(1, 3, 64, 64)), pool, TEXTS)
    found = class_scoring.probabilities(fused.logits)[0, 0].numpy()

    features = np.stack([maps[0, :, y, x].numpy() for y, x in cells.tolist()])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    region = np.exp(features @ TEXTS.numpy().T / TEMPERATURE)
    region /= region.sum(1, keepdims=True)
    raw = logits[0, 0].double().numpy()
    weight = np.array([0.2, 0.2, 0.7, 0.7])
    if columns == len(NAMES):
        expected = (1 / (1 + np.exp(-raw))) ** (1 - weight) * region**weight
    else:
        detector = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
        # The background is the detector's, and all is scaled to a sum of 1, as in F-VLM's code.
        expected = np.concatenate((detector[:, :-1] ** (1 - weight) * region**weight, detector[:, -1:]), axis=1)
        expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert fused.boxes is boxes


def test_weights_of_0_leave_the_detector_s_scores() -> None:
    predictions = Predictions(torch.randn(1, 2, 3, len(NAMES)), make_boxes(1, 2, 3))
    regions = make_regions(base_weight=0.0, novel_weight=0.0)
    maps = torch.randn(2, EMBED_DIM, 2, 3)
    fused = regions(predictions, maps, as_batch(torch.zeros(2, 3, 64, 96)), MeanPool(), TEXTS)
    torch.testing.assert_close(fused.logits.sigmoid(), predictions.logits.sigmoid())


def test_permuted_classes_permute_the_scores() -> None:
    maps, order = torch.randn(1, EMBED_DIM, 2, 2), [2, 0, 3, 1]
    predictions = Predictions(torch.randn(1, 1, 3, len(NAMES)), make_boxes(1, 1, 3))
    batch, regions = as_batch(torch.zeros(1, 3, 64, 64)), make_regions()
    expected = regions(predictions, maps, batch, MeanPool(), TEXTS).logits
    permuted = Predictions(predictions.logits[..., order], predictions.boxes)
    for exchange in (False, True):
        if exchange:
            regions.set_vocabulary(Vocabulary(tuple(NAMES[i] for i in order), TEXTS[order]))
        found = regions(permuted, maps, batch, MeanPool(), TEXTS[order]).logits
        torch.testing.assert_close(found, expected[..., order])


def test_other_classes_are_novel_unless_they_are_known() -> None:
    """By their names where these are exchanged, and by their texts in a graph, which has no names."""
    regions = make_regions()
    torch.testing.assert_close(regions.base_texts, TEXTS[:2])
    regions.set_vocabulary(Vocabulary(("Traffic_Cone", "DOG"), TEXTS[2:]))
    torch.testing.assert_close(regions.base_texts, TEXTS[3:])
    regions.set_vocabulary(Vocabulary(("fox",), TEXTS[:1]))
    assert regions.base_texts.shape == (1, EMBED_DIM) and not regions.base_texts.any()
    regions.set_vocabulary(Vocabulary(NAMES, TEXTS))
    torch.testing.assert_close(regions.base_texts, TEXTS[:2])


@pytest.mark.parametrize("spans_padding", [False, True])
def test_padding_changes_nothing(spans_padding: bool) -> None:
    """A batch pads the image of 64 x 64 pixels; beside it, maps have anything."""
    maps, padded = torch.randn(1, EMBED_DIM, 2, 2), 1e3 * torch.randn(1, EMBED_DIM, 3, 4)
    padded[..., :2, :2] = maps
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.4, 0.5, 0.2, 0.3], [0.25, 0.3, 0.5, 0.6]]])
    regions, pool = make_regions(), MeanPool()
    expected = regions.score(maps, boxes, as_batch(torch.zeros(1, 3, 64, 64)), pool, TEXTS)
    mask = torch.ones(1, 96, 128, dtype=torch.bool)
    mask[:, :64, :64] = False
    batch = Batch(torch.zeros(1, 3, 96, 128), mask, [(64, 64)], [(64, 64)])
    if spans_padding:
        # Boxes are relative to all of the input then.
        boxes = boxes * torch.tensor([0.5, 2 / 3, 0.5, 2 / 3])
        batch = Batch(batch.images, None, [(64, 64)], [(64, 64)], boxes_span_padding=True)
    torch.testing.assert_close(regions.score(padded, boxes, batch, pool, TEXTS), expected, atol=1e-4, rtol=1e-4)


def test_boxes_that_are_none_stay_so() -> None:
    """NaN and infinity do not reach RoIAlign, and are left out as before."""
    predictions = Predictions(torch.zeros(1, 1, 4, len(NAMES)), make_boxes(1, 1, 4))
    predictions.boxes[0, 0, 0, 2] = float("nan")
    predictions.boxes[0, 0, 1, 0] = float("inf")
    predictions.boxes[0, 0, 2, 2:] = 0
    predictions.logits[0, 0, 3, 1] = float("nan")
    fused = make_regions()(
        predictions, torch.randn(1, EMBED_DIM, 2, 2), as_batch(torch.zeros(1, 3, 64, 64)), MeanPool(), TEXTS
    )
    assert fused.logits[0, 0, :3].isfinite().all() and fused.logits[0, 0, 3, 1].isnan()


def detector_alone(model: DetectionTransformer, batch: list[dict[str, Any]]) -> Predictions:
    regions, model.detector.region_scores = model.detector.region_scores, None
    with torch.no_grad():
        predictions = model.detector(model.preprocess(batch))
    model.detector.region_scores = regions
    return predictions


@pytest.mark.parametrize("variant", ["pair_detr", "conditional_detr", "detr"])
def test_detections_have_the_fused_scores(tmp_path: Path, variant: str) -> None:
    model = build(clip_cfg(tmp_path, make_clip(), variant), randomize=False).eval()
    batch = make_batch([(64, 96), (50, 40)], [2, 1])
    alone, data = detector_alone(model, batch), model.preprocess(batch)
    with torch.no_grad():
        found = [result["instances"] for result in model(batch)]
        backbone = model.detector.backbone
        regions, head = model.detector.region_scores, model.detector.class_head
        maps = backbone(data.images)["res5"]
        region = regions.score(maps, alone.boxes[-1], data, backbone.attnpool, head.texts).exp()
    weight = torch.tensor([0.35] * 3 + [0.65])
    detector = model.class_scoring.binary_logits(alone.logits[-1]).sigmoid()
    scores = detector ** (1 - weight) * region**weight
    if variant == "detr":
        rest = model.class_scoring.probabilities(alone.logits[-1])[..., -1:]
        scores = (scores / (scores.sum(-1, keepdim=True) + rest)).amax(-1)
    for instances, expected in zip(found, scores, strict=True):
        expected = expected.flatten().sort(descending=True).values[: len(instances)]
        torch.testing.assert_close(instances.scores, expected, atol=1e-5, rtol=1e-4)


def test_training_has_the_detector_s_scores(tmp_path: Path) -> None:
    model = build(clip_cfg(tmp_path, make_clip()), randomize=False).train()
    batch = make_batch([(64, 96)], [2])
    losses = model(batch)
    model.detector.region_scores = None
    assert all(torch.equal(value, losses[name]) for name, value in model(batch).items())


def test_exchanged_vocabulary(tmp_path: Path) -> None:
    """Of any number of classes; the text of the one that is known keeps its weight."""
    model = build(clip_cfg(tmp_path, make_clip()), randomize=False).eval()
    batch = make_batch([(64, 96)], [1])
    texts = torch.cat((TEXTS[:1], F.normalize(make_texts(5, EMBED_DIM, seed=4), dim=-1)))
    model.set_vocabulary([NAMES[0], "a", "b", "c", "d", "e"], texts)
    torch.testing.assert_close(model.detector.region_scores.base_texts, TEXTS[:1], atol=1e-6, rtol=0)
    with torch.no_grad():
        found = model(batch)[0]["instances"]
    assert found.pred_classes.max() < 6 and found.scores.isfinite().all()
    with pytest.raises(ValueError, match=r"has 12 columns|have 12 columns"):
        model.set_vocabulary(["x"], make_texts(1, 12))


def test_texts_of_another_model_and_other_backbones_are_refused(tmp_path: Path) -> None:
    cfg = clip_cfg(tmp_path, make_clip())
    Vocabulary(NAMES, make_texts(len(NAMES), 12)).save(tmp_path / "other.npy")
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(tmp_path / "other.npy")
    with pytest.raises(ValueError, match=r"other\.npy: the text weights have 12 columns, but the image encoder .* 24"):
        build(cfg)
    # As a backbone alone it does.
    cfg.MODEL.CLIP.REGION.ENABLED = False
    assert build(cfg).detector.region_scores is None
    cfg = clip_cfg(tmp_path, make_clip())
    cfg.MODEL.CLIP.TEXT_WEIGHTS, cfg.MODEL.DETR.NUM_CLASSES = "", 3
    with pytest.raises(ValueError, match=r"REGION\.ENABLED is True, which needs .*MODEL\.CLIP\.TEXT_WEIGHTS"):
        build(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_convnet_backbone"
    with pytest.raises(ValueError, match=r"REGION\.ENABLED is True, but MODEL\.BACKBONE\.NAME build_convnet_backbone"):
        check_values(cfg)


def test_base_classes_of_a_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = clip_cfg(tmp_path, make_clip())
    vocabulary = load_vocabulary(cfg)
    assert base_classes(cfg, vocabulary) == NAMES[:-1]
    cfg.MODEL.CLIP.REGION.BASE_CLASSES = ()
    with caplog.at_level(logging.WARNING):
        assert base_classes(cfg, vocabulary) == NAMES
    assert "MODEL.CLIP.REGION.BASE_CLASSES" in caplog.text
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("ovcoco_2017_train_base",), ("ovcoco_2017_val",)
    names = base_classes(cfg, vocabulary)
    assert len(names) == 48 and "person" in names and "cat" not in names
    # Where the metadata of the training set name none, those of the test set count.
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("region_scores_train",), ("region_scores_val",)
    with restored_catalogs():
        for name in ("region_scores_train", "region_scores_val"):
            DatasetCatalog.register(name, list)
            MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
        MetadataCatalog.get("region_scores_val").novel_classes = ["dog"]
        assert base_classes(cfg, vocabulary) == ("cat",)
        cfg.DATASETS.TEST = ()
        assert base_classes(cfg, vocabulary) == ("cat", "dog")


def test_exported_graph(tmp_path: Path) -> None:
    """For any number of images and classes, of which it knows the base classes by their texts."""
    cfg = clip_cfg(tmp_path, make_clip(vision_layers=(1, 1, 1, 1)))
    cfg.MODEL.DETR.ENC_LAYERS, cfg.MODEL.DETR.DEC_LAYERS = 0, 1
    model = build(cfg, randomize=False).eval()
    graph = DetectionGraph(model, top_k=5).eval()
    # For images of any size it takes half a minute.
    program = trace(graph, channels=3, texts=TEXTS, size=(80, 112)).module()
    model.detections_per_image = 5
    texts = torch.cat((F.normalize(make_texts(2, EMBED_DIM, seed=4), dim=-1), TEXTS[:1]))
    images = torch.randint(256, (3, 3, 80, 112), dtype=torch.uint8)
    sizes = torch.tensor([[80, 112], [64, 100], [71, 90]])
    with torch.no_grad():
        boxes, scores, _ = program(images=images, sizes=sizes, texts=texts)
        model.set_vocabulary(["a", "b", NAMES[0]], texts)
        inputs = [{"image": image[:, :h, :w]} for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
        expected = [result["instances"] for result in model(inputs)]
    torch.testing.assert_close(scores, torch.stack([x.scores for x in expected]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(boxes, torch.stack([x.pred_boxes.tensor for x in expected]), atol=1e-3, rtol=1e-4)
