"""Denoising queries: noisy copies of objects, what is random about them, and where they stand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from model_helpers import build, make_batch, make_boxes, make_targets, tiny_cfg
from open_vocabulary_helpers import TEXT_DIM, build_text_model, make_texts, make_vocabulary
from torch import Tensor, nn

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.modeling.batching import draw_noise
from pair_detr.modeling.denoising import Denoising, DenoisingOptions, DenoisingQueries
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.modeling.text_classifier import TextClassifier
from pair_detr.open_vocabulary import Vocabulary
from pair_detr.structures import Targets

DIM, CLASSES, LAYERS = 16, 3, 2
COUNTS = (2, 0, 3)
ON = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes", "DENOISING__GROUPS": 2, "DENOISING__NEGATIVES": True}


def options(**changes: Any) -> DenoisingOptions:
    return DenoisingOptions(**{"groups": 2, "label_noise": 0.0, "box_noise": 0.0, "negatives": False} | changes)


def noisy_targets(of: DenoisingOptions, counts: tuple[int, ...] = COUNTS) -> Targets:
    targets = make_targets(counts, CLASSES)
    targets.noise = torch.rand(sum(counts), of.noise_per_object)
    return targets


def make(of: DenoisingOptions, targets: Targets) -> tuple[DenoisingQueries, Denoising]:
    classifier = nn.Linear(DIM, CLASSES)
    module = Denoising(of, DIM, classifier)
    return module(targets, LAYERS, classifier), module


def slots(targets: Targets, of: DenoisingOptions) -> list[tuple[int, int, int, int, int]]:
    """Object, image, group, kind and the query that they are to have."""
    size, rows, start = of.kinds * max(1, *targets.counts), [], 0
    for image, count in enumerate(targets.counts):
        for i in range(count):
            for group in range(of.groups):
                rows += [(start + i, image, group, k, group * size + i * of.kinds + k) for k in range(of.kinds)]
        start += count
    return rows


@pytest.mark.parametrize("negatives", [False, True])
def test_no_noise_gives_the_objects_back(negatives: bool) -> None:
    of = options(negatives=negatives)
    targets = noisy_targets(of)
    found, module = make(of, targets)
    count = 2 * of.kinds * 3
    assert found.groups == (2, of.kinds * 3)
    assert found.content.shape == (3, count, DIM)
    assert found.reference.shape == (3, count, 4)
    used = torch.zeros(3, count, dtype=torch.bool)
    for target, image, _, _, query in slots(targets, of):
        torch.testing.assert_close(found.reference[image, query], targets.boxes[target])
        assert torch.equal(found.content[image, query], module.label_embedding.weight[targets.labels[target]])
        used[image, query] = True
    assert torch.equal(found.is_copy, used)
    # Attention to nothing would be NaN.
    assert torch.equal(found.is_used, used | torch.tensor([[False], [True], [False]]))


@pytest.mark.parametrize("negatives", [False, True])
def test_copies_have_their_objects_and_negatives_none(negatives: bool) -> None:
    of = options(negatives=negatives)
    targets = noisy_targets(of)
    found, _ = make(of, targets)
    rows = sorted(zip(*(x.tolist() for x in vars(found.assignment).values()), strict=True))
    assert rows == sorted(
        (layer, image, query, target)
        for layer in range(LAYERS)
        for target, image, _, kind, query in slots(targets, of)
        if kind == 0
    )
    # Layer after layer, and as many in each.
    assert found.assignment.layer.tolist() == [layer for layer in range(LAYERS) for _ in range(2 * sum(COUNTS))]


def test_noise_of_boxes_is_bounded() -> None:
    """Corners move by less than the noise times half of the box; those of negatives by that to twice that."""
    of = options(box_noise=0.4, negatives=True, groups=5)
    boxes = torch.cat((torch.rand(200, 2) * 0.2 + 0.4, torch.rand(200, 2) * 0.2 + 0.1), dim=1)
    targets = Targets.pack([boxes], [torch.zeros(200, dtype=torch.long)])
    targets.noise = torch.rand(200, of.noise_per_object)
    found, _ = make(of, targets)
    copies = found.reference[0].view(5, 200, 2, 4)
    moved = (cxcywh_to_xyxy(copies) - cxcywh_to_xyxy(boxes)[None, :, None]).abs()
    units = moved / (boxes[:, 2:].repeat(1, 2) / 2)[None, :, None]
    positive, negative = units[:, :, 0], units[:, :, 1]
    assert positive.max() <= 0.4 + 1e-4
    assert positive.max() > 0.35
    assert positive.mean() == pytest.approx(0.2, abs=0.02)
    assert negative.min() >= 0.4 - 1e-4
    assert negative.max() <= 0.8 + 1e-4
    # In both directions, by other distances in each group.
    signed = cxcywh_to_xyxy(copies) - cxcywh_to_xyxy(boxes)[None, :, None]
    assert ((signed > 0).float().mean((0, 1, 2)) - 0.5).abs().max() < 0.1
    assert (copies[0] - copies[1]).abs().mean() > 1e-3


@pytest.mark.parametrize("box_noise", [0.4, 1.0, 3.0])
def test_noisy_boxes_are_valid(box_noise: float) -> None:
    """Corners stay in the image, and in order: also of boxes at its edges, and of points."""
    of = options(box_noise=box_noise, negatives=True, groups=4)
    boxes = torch.cat((make_boxes(50), torch.tensor([[0.5, 0.5, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0.5, 0.5, 0, 1]])))
    targets = Targets.pack([boxes], [torch.zeros(len(boxes), dtype=torch.long)])
    targets.noise = torch.rand(len(boxes), of.noise_per_object)
    found = make(of, targets)[0].reference
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (found[..., 2:] >= 1e-3).all()
    corners = cxcywh_to_xyxy(found)
    assert (corners >= -1e-3).all()
    assert (corners <= 1 + 1e-3).all()


def test_noise_of_labels() -> None:
    """Any class with the probability that is asked for, the own one among them."""
    of = options(label_noise=0.6, groups=50)
    targets = Targets.pack([make_boxes(40)], [torch.ones(40, dtype=torch.long)])
    targets.noise = torch.rand(40, of.noise_per_object)
    found, module = make(of, targets)
    labels = (found.content[0, :, None] == module.label_embedding.weight).all(-1).float()
    assert (labels.sum(-1) == 1).all()
    assert labels.mean(0).tolist() == pytest.approx([0.2, 0.6, 0.2], abs=0.05)


@pytest.mark.parametrize("counts", [(0, 0), (0,)])
def test_batches_without_objects(counts: tuple[int, ...]) -> None:
    of = options(negatives=True)
    found, module = make(of, noisy_targets(of, counts))
    assert found.groups == (2, 2)
    assert found.content.shape == (len(counts), 4, DIM)
    assert not found.is_copy.any()
    assert found.is_used.all()
    assert len(found.assignment.query) == 0
    found.content.sum().backward()
    # For DistributedDataParallel.
    assert not module.label_embedding.weight.grad.any()


def test_texts_are_contents() -> None:
    vocabulary = make_vocabulary()
    classifier = TextClassifier(DIM, vocabulary)
    of = options()
    module, targets = Denoising(of, DIM, classifier), noisy_targets(of)
    for texts in (None, make_texts(5, seed=1)):
        if texts is not None:
            classifier.set_vocabulary(Vocabulary(tuple("abcde"), texts))
            targets.labels = targets.labels + 2
        found = module(targets, LAYERS, classifier)
        for target, image, _, _, query in slots(targets, of):
            row = classifier.texts[targets.labels[target]]
            torch.testing.assert_close(found.content[image, query], module.label_embedding(row))
    assert module.label_embedding.weight.shape == (DIM, TEXT_DIM)


def test_a_model_s_texts_after_another_vocabulary(tmp_path: Path) -> None:
    """All classifiers of the model get it, the one that denoising takes the texts of among them."""
    model = build_text_model(tmp_path, "conditional_detr", **ON)
    texts = make_texts(5, seed=1)
    model.set_vocabulary([*"abcde"], texts)
    builder = model.detector.query_builder
    torch.testing.assert_close(builder.dense_head.class_head.texts, model.detector.class_head.texts)
    batch = make_batch([(40, 48)], [2])
    batch[0]["instances"].gt_classes = torch.tensor([4, 3])
    targets = model.pack_targets(batch, model.preprocess(batch))
    targets.noise = torch.ones_like(targets.noise)
    content = builder.denoising(targets, 1, builder.dense_head.class_head).content[0]
    rows = builder.denoising.label_embedding(model.detector.class_head.texts[[4, 3]])
    torch.testing.assert_close(content[[0, 2]], rows)
    model.train()
    assert all(loss.isfinite() for loss in model(batch).values())


def noise(names: str, counts: list[int], seed: int = 0, iteration: int = 0) -> dict[str, Tensor]:
    items = [{"file_name": f"{name}.png"} for name in names]
    return dict(zip(names, draw_noise(items, counts, 20, seed, iteration).split(counts), strict=True))


def test_noise_belongs_to_the_image() -> None:
    """Its company and order change nothing; each image, iteration and seed has its own."""
    together = noise("abc", [3, 0, 2])
    other = noise("cxa", [2, 5, 3])
    assert torch.equal(together["a"], other["a"])
    assert torch.equal(together["c"], other["c"])
    assert together["b"].shape == (0, 20)
    assert together["a"].dtype == torch.float32
    assert (together["a"][:2] != together["c"]).all()
    assert (together["a"] != noise("a", [3], iteration=1)["a"]).all()
    assert (together["a"] != noise("a", [3], seed=1)["a"]).all()
    many = noise("a", [500])["a"]
    assert 0 <= many.min() < 0.001
    assert 0.999 < many.max() <= 1
    assert many.mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(draw_noise([{}, {}], [1, 1], 4, 0, 0), draw_noise([{}, {}], [1, 1], 4, 0, 0))
    assert draw_noise([], [], 4, 0, 0).shape == (0, 4)


def denoising_cfg(seed: int = 0, **changes: Any) -> CfgNode:
    cfg = tiny_cfg("conditional_detr", **ON | changes)
    cfg.SEED = seed
    return cfg


def packed_noise(model: DetectionTransformer, iteration: int) -> Tensor:
    torch.manual_seed(0)
    batch = make_batch([(40, 48), (40, 48)], [2, 1])
    with EventStorage(iteration):
        return model.pack_targets(batch, model.preprocess(batch)).noise


def test_noise_of_a_model() -> None:
    """It changes with iteration and seed, and with nothing else."""
    model = build(denoising_cfg())
    found = packed_noise(model, 0)
    assert found.shape == (3, 2 * 2 * 10)
    torch.manual_seed(5)
    assert torch.equal(packed_noise(build(denoising_cfg()), 0), found)
    assert (packed_noise(model, 1) != found).all()
    assert (packed_noise(build(denoising_cfg(seed=3)), 0) != found).all()
    # Without a seed, Detectron2 has -1.
    assert torch.equal(packed_noise(build(denoising_cfg(seed=-1)), 0), found)
    batch = make_batch([(40, 48)], [2])
    plain = build(tiny_cfg("conditional_detr"))
    assert plain.pack_targets(batch, plain.preprocess(batch)).noise is None
