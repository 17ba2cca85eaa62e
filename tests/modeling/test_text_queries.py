"""Queries that know the vocabulary: for every variant, with all that can be combined."""

from typing import Any

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from model_helpers import VARIANTS, make_batch, randomize_constants, tiny_cfg
from torch import Tensor

from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.modeling.text_queries import TextConditioning
from pair_detr.open_vocabulary import Vocabulary, random_text_weights
from pair_detr.structures import Queries

TEXTS = random_text_weights(["cat", "dog", "owl", "bee"])
MODES = ("none", "content", "position", "cross_attention")
SELECTED = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes"}
COMBINATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"QUERY_GROUPS": 2},
    {**SELECTED, "QUERY_GROUPS": 2, "DENOISING__GROUPS": 2, "BOX_REFINEMENT": "layers", "RELATIVE_BOXES": True},
    {**SELECTED, "LOSS__CLASSIFICATION": "mal", "PAIR__QUERIES_PER_OBJECT": 4, "PAIR__SHARED_DECODER": True},
)


def build_with_texts(mode: str, variant: str = "pair_detr", clip: dict[str, Any] | None = None, **detr: Any):
    cfg = tiny_cfg(variant, **detr)
    cfg.MODEL.CLIP.QUERIES = mode
    cfg.merge_from_list([x for key, value in (clip or {}).items() for x in (f"MODEL.CLIP.{key}", value)])
    torch.manual_seed(0)
    model = META_ARCH_REGISTRY.get("DetectionTransformer")(cfg, vocabulary=TEXTS)
    randomize_constants(model)
    model.set_vocabulary(TEXTS.names, TEXTS.weights)
    return model


def scores_by_class(model: DetectionTransformer, batch: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Sorted scores of each class of the first image."""
    model.eval()
    model.detections_per_image = 1000
    with torch.no_grad():
        found = model(batch)[0]["instances"]
    names = model.vocabulary
    return {name: found.scores[found.pred_classes == i].tolist() for i, name in enumerate(names)}


def combinations() -> list[Any]:
    found = []
    for variant in VARIANTS:
        for number, detr in enumerate(COMBINATIONS):
            if variant == "detr" and number > 1:
                continue
            found += [pytest.param(variant, detr, mode, id=f"{variant}-{number}-{mode}") for mode in MODES]
    return found


@pytest.mark.parametrize(("variant", "detr", "mode"), combinations())
def test_training_and_order_of_classes(variant: str, detr: dict[str, Any], mode: str) -> None:
    has_objectness = variant != "detr"
    clip = {"OBJECTNESS": True, "WILDCARD_SCORE": 0.3} if has_objectness else {}
    model = build_with_texts(mode, variant, clip, **detr)
    batch = make_batch([(64, 64), (48, 64)], [2, 0])
    sum(model.train()(batch).values()).backward()
    assert not [name for name, x in model.named_parameters() if x.requires_grad and x.grad is None]

    expected = scores_by_class(model, batch)
    order = [2, 0, 3, 1]
    model.set_vocabulary([TEXTS.names[i] for i in order], TEXTS.weights[order])
    found = scores_by_class(model, batch)
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-5), name


@pytest.mark.parametrize("mode", MODES)
def test_vocabulary_of_any_size(mode: str) -> None:
    model = build_with_texts(mode, clip={"OBJECTNESS": True}, **SELECTED)
    batch = make_batch([(64, 64)], [1])
    for count in (1, 200):
        model.set_vocabulary([f"class {i}" for i in range(count)], torch.randn(count, TEXTS.dim))
        scores = scores_by_class(model, batch)
        assert len(scores) == count
        assert all(0 < x < 1 for of_class in scores.values() for x in of_class)


@pytest.mark.parametrize("mode", MODES[1:])
def test_texts_reach_boxes(mode: str) -> None:
    """With other texts for the same classes the boxes are others: queries know what they look for."""
    batch = make_batch([(64, 64)], [1])
    boxes = {}
    for name in ("none", mode):
        model = build_with_texts(name, **SELECTED).eval()
        images = model.preprocess(batch)
        boxes[name] = []
        for seed in range(2):
            torch.manual_seed(seed)
            model.set_vocabulary(TEXTS.names, torch.randn(4, TEXTS.dim))
            # The same tokens, whatever the texts.
            model.detector.query_builder.dense_head.class_head.set_vocabulary(Vocabulary(TEXTS.names, TEXTS.weights))
            with torch.no_grad():
                boxes[name].append(model.detector(images).boxes)
    assert torch.equal(*boxes["none"])
    assert not torch.allclose(*boxes[mode], atol=1e-4)


def queries(content: Tensor | None = None) -> Queries:
    return Queries(torch.randn(2, 3, 8), content)


def test_text_of_the_closest_class() -> None:
    texts, classes = torch.randn(5, 6), torch.tensor([[4, 0, 2], [1, 1, 3]])
    start = queries(torch.randn(2, 3, 8))
    content, position = (TextConditioning(where, 6, 8) for where in ("content", "position"))
    found = content(start, texts, classes)
    for image, row in enumerate(classes.tolist()):
        for query, label in enumerate(row):
            expected = start.content[image, query] + content.projection.weight @ texts[label]
            torch.testing.assert_close(found.content[image, query], expected)
    assert found.position is start.position
    found = position(start, texts, classes)
    torch.testing.assert_close(found.position, start.position + texts[classes] @ position.projection.weight.T)
    assert found.content is start.content


def test_mean_of_texts_for_learned_queries() -> None:
    """Similar texts weigh more; with a single class there is nothing to weigh."""
    texts = torch.randn(5, 6)
    start = queries()
    module = TextConditioning("content", 6, 8)
    projected = texts @ module.projection.weight.T
    weights = (start.position @ projected.T / 8**0.5).softmax(-1)
    torch.testing.assert_close(module(start, texts, None).content, weights @ projected)
    one = module(start, texts[:1], None).content
    torch.testing.assert_close(one, projected[:1].expand_as(one))


def test_objectness_selects_tokens() -> None:
    """A token that is no known class, but an object, is selected before one that is a known class and none."""
    model = build_with_texts("content", clip={"OBJECTNESS": True}, **SELECTED)
    head = model.detector.query_builder.dense_head.class_head
    logits = torch.tensor([[5.0, -5.0, 0.0, 0.0, -3.0], [-5.0, -5.0, -5.0, -4.0, 2.0]])
    classes, scores = head.split(logits)
    assert scores.tolist() == [-3.0, 2.0]
    assert classes.argmax(-1).tolist() == [0, 3]


def test_linear_classifiers_have_neither() -> None:
    cfg = tiny_cfg(**SELECTED)
    cfg.MODEL.CLIP.QUERIES, cfg.MODEL.CLIP.OBJECTNESS, cfg.MODEL.CLIP.WILDCARD_SCORE = "content", True, 0.2
    model = META_ARCH_REGISTRY.get("DetectionTransformer")(cfg)
    assert model.detector.query_builder.text_conditioning is None
    term = model.criterion.terms[0]
    assert (term.wildcard_score, term.learns_from_labels) == (1.0, False)
    assert model.detector.class_head.out_features == 3
