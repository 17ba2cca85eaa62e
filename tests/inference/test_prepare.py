"""Models that are prepared for inference against the models themselves."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from inference_helpers import assert_same_detections
from model_helpers import VARIANTS, build, make_batch, tiny_cfg, tiny_resnet_cfg
from open_vocabulary_helpers import build_text_model, make_texts, text_cfg
from segmentation_helpers import build_sharp, make_mask_batch, panoptic_cfg
from torch import nn
from torch._dynamo.testing import CompileCounter

from pair_detr import prepare_for_inference
from pair_detr.config_files import load_config
from pair_detr.inference.batch_norm import is_batch_norm
from pair_detr.modeling.meta_arch import DetectionTransformer

_catalogs = pytest.fixture(autouse=True)(restored_catalogs)
# The second image is padded.
SIZES = [(64, 96), (48, 80)]
SELECTION = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes", "BOX_REFINEMENT": "layers", "RELATIVE_BOXES": True}


@torch.no_grad()
def detect(model: DetectionTransformer, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return model.eval()(batch)


def with_masks(cfg: CfgNode) -> CfgNode:
    cfg.MODEL.MASK_ON = True
    return cfg


@pytest.mark.parametrize("variant", VARIANTS)
def test_folded_models_detect_the_same(variant: str) -> None:
    """On the small network, a ResNet, one that is dilated, and with selected queries; all with masks and padding."""
    dilated = with_masks(tiny_resnet_cfg(variant))
    dilated.MODEL.RESNETS.RES5_DILATION = 2
    cfgs = [with_masks(tiny_cfg(variant)), with_masks(tiny_resnet_cfg(variant)), dilated]
    if variant != "detr":
        cfgs.append(with_masks(tiny_cfg(variant, **SELECTION, BOX_BIAS=True, MASK__SPATIAL_QUERY=True)))
    for cfg in cfgs:
        model = build(cfg)
        batch = make_batch(SIZES, [1, 1])
        expected = detect(model, batch)
        prepared = prepare_for_inference(model, "fp32")
        assert any(map(is_batch_norm, model.modules())) and not any(map(is_batch_norm, prepared.modules()))
        assert_same_detections(prepared(batch), expected)
        assert_same_detections(prepared(batch[:1]), detect(model, batch[:1]))


def test_the_published_network_detects_the_same() -> None:
    cfg = load_config("conditional_detr/r50", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    # So few that all of them are detected: which are the best would depend on rounding.
    cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.DETR.NUM_QUERIES = 3, 20
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    model = build(cfg)
    batch = make_batch([(64, 64)], [1])
    expected = detect(model, batch)
    prepared = prepare_for_inference(model, "fp32")
    assert not any(map(is_batch_norm, prepared.modules()))
    assert_same_detections(prepared(batch), expected)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_timm_models_detect_the_same(norm: str) -> None:
    pytest.importorskip("timm")
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    for name, left in (("test_resnet", 0), ("test_efficientnet", 0)):
        cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.NORM, cfg.MODEL.TIMM.OUT_INDICES = name, norm, [3]
        model = build(cfg)
        batch = make_batch(SIZES, [1, 1])
        expected = detect(model, batch)
        prepared = prepare_for_inference(model, "fp32")
        assert sum(map(is_batch_norm, prepared.modules())) == left
        assert_same_detections(prepared(batch), expected)


def test_the_given_model_stays_as_it_is() -> None:
    model = build(tiny_cfg()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepare_for_inference(model, "bf16")
    prepared(make_batch(SIZES, [1, 1]))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before)
    assert model.training and not prepared.training
    assert all(p.requires_grad for p in model.detector.backbone.parameters())
    assert not any(p.requires_grad for p in prepared.parameters())
    sum(model(make_batch(SIZES, [1, 1])).values()).backward()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_stored_in_few_bits_and_predictions_are_full(variant: str, dtype: str) -> None:
    """Query by query, as detections of a random model may be in another order."""
    for detr in ({}, SELECTION) if variant != "detr" else ({},):
        model = build(with_masks(tiny_cfg(variant, **detr))).eval()
        # Queries that predict boxes far apart from each other.
        model.detector.query_embed.weight.data.mul_(5)
        batch = make_batch(SIZES, [1, 1])
        prepared = prepare_for_inference(model, dtype)
        detector = prepared.detector
        expected_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
        stored = {
            p.dtype
            for part in (detector.backbone, detector.encoder, detector.input_proj, detector.mask_head)
            for p in part.parameters()
        }
        assert stored == {expected_dtype}
        assert {p.dtype for p in detector.decoder.layers.parameters()} == {expected_dtype}
        full = [detector.box_head, detector.class_head, detector.query_embed]
        assert {p.dtype for part in full for p in part.parameters()} == {torch.float32}
        with torch.no_grad():
            plain = model.detector(model.preprocess(batch))
            found = detector(prepared.preprocess(batch))
        assert found.logits.dtype == found.boxes.dtype == torch.float32
        if not detr:
            torch.testing.assert_close(found.logits.sigmoid(), plain.logits.sigmoid(), atol=0.01, rtol=0)
            torch.testing.assert_close(found.boxes, plain.boxes, atol=0.01, rtol=0)
            assert variant == "detr" or plain.boxes[0, 0].std(0).max() > 0.4
        for result, sized in zip(prepared(batch), SIZES, strict=True):
            instances = result["instances"]
            assert instances.scores.dtype == instances.pred_boxes.tensor.dtype == torch.float32
            assert instances.pred_masks.shape[1:] == sized


def test_reference_points_are_those_of_full_weights() -> None:
    model = build(tiny_cfg("conditional_detr")).eval()
    position = model.detector.query_embed.weight
    expected = model.detector.decoder.ref_point_head(position)
    prepared = prepare_for_inference(model, "bf16").detector
    assert torch.equal(prepared.decoder.ref_point_head(prepared.query_embed.weight), expected)


def test_vocabularies_can_be_exchanged(tmp_path: Path) -> None:
    """Cosines are fp32: classes that differ by a thousandth of a cosine have different scores."""
    model = build_text_model(tmp_path).eval()
    batch = make_batch(SIZES[:1], [1])
    prepared = prepare_for_inference(model, "fp32")
    half = prepare_for_inference(model, "bf16")
    texts = make_texts(4, seed=3)
    texts[1:] = texts[:1] * (1 + 1e-3 * texts[1:])
    for each in (model, prepared, half):
        each.set_vocabulary(["a", "b", "c", "d"], texts)
    assert_same_detections(prepared(batch), detect(model, batch))
    assert half.detector.class_head.texts.dtype == torch.float32
    assert half(batch)[0]["instances"].scores.unique().numel() == 4 * 7
    assert model.vocabulary == half.vocabulary == ("a", "b", "c", "d")


@pytest.mark.parametrize("queries", ["content", "position", "cross_attention"])
@pytest.mark.parametrize("detr", [{}, SELECTION], ids=["learned", "selected"])
def test_queries_with_texts(queries: str, detr: dict[str, Any], tmp_path: Path) -> None:
    cfg = text_cfg(tmp_path, **detr)
    cfg.MODEL.CLIP.QUERIES, cfg.MODEL.CLIP.OBJECTNESS = queries, True
    model = build(cfg).eval()
    batch = make_batch(SIZES[:1], [1])
    assert_same_detections(prepare_for_inference(model, "fp32")(batch), detect(model, batch))
    found = prepare_for_inference(model, "bf16")(batch)[0]["instances"]
    assert len(found) > 0
    assert found.scores.dtype == torch.float32


def test_panoptic_models() -> None:
    model = build_sharp(panoptic_cfg("conditional_detr", "prepared_panoptic")).eval()
    batch = make_mask_batch(SIZES, [2, 1])
    expected, found = detect(model, batch), prepare_for_inference(model, "fp32")(batch)
    assert_same_detections(found, expected)
    for own, other in zip(found, expected, strict=True):
        assert (own["panoptic_seg"][0] == other["panoptic_seg"][0]).float().mean() > 0.999
        assert [x["category_id"] for x in own["panoptic_seg"][1]] == [
            x["category_id"] for x in other["panoptic_seg"][1]
        ]
        torch.testing.assert_close(own["sem_seg"], other["sem_seg"], atol=1e-3, rtol=1e-3)
    assert prepare_for_inference(model, "bf16")(batch)[0]["sem_seg"].dtype == torch.float32


@pytest.mark.slow
def test_compiled_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for images of any size and number; without the code that a compiler would make of it."""
    counter = CompileCounter()
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend=counter))
    cfg = tiny_cfg("conditional_detr", ENC_LAYERS=1, DEC_LAYERS=1)
    cfg.MODEL.BACKBONE.NAME = "build_patch_backbone"
    model = build(cfg)
    prepared = prepare_for_inference(model, "fp32", compile=True)
    for sizes in ([(64, 96)] * 2, [(96, 80)] * 3):
        batch = make_batch(sizes, [1] * len(sizes))
        assert_same_detections(prepared(batch), detect(model, batch))
    assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cfg = with_masks(tiny_resnet_cfg(variant))
    model = build(cfg).eval()
    batch = make_batch(SIZES, [1, 1])
    expected = detect(model, batch)
    model.cuda()
    for precision, tolerance in {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1, "auto": 0.1}.items():
        prepared = prepare_for_inference(model, precision)
        assert not any(map(is_batch_norm, prepared.modules()))
        for found, plain in zip(prepared(batch), expected, strict=True):
            instances = found["instances"]
            assert instances.scores.dtype == instances.pred_boxes.tensor.dtype == torch.float32
            torch.testing.assert_close(instances.scores.cpu(), plain["instances"].scores, atol=tolerance, rtol=0)


def test_wrappers_are_refused() -> None:
    with pytest.raises(TypeError, match="The model is a Sequential; give the DetectionTransformer itself"):
        prepare_for_inference(nn.Sequential(build(tiny_cfg())))


def test_rounded_weights_are_not_taken_for_full_ones() -> None:
    model = prepare_for_inference(build(tiny_cfg("conditional_detr")), "fp32")
    rounded = prepare_for_inference(model, "bf16")
    with pytest.raises(ValueError, match="weights are rounded to bfloat16 already: give the model that was trained"):
        prepare_for_inference(rounded, "fp32")


def test_unknown_precisions() -> None:
    with pytest.raises(ValueError, match="precision is 'int8'; it must be one of fp32, bf16, fp16, auto"):
        prepare_for_inference(build(tiny_cfg()), "int8")
