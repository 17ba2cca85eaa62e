"""Where training starts from and what it reaches: nothing is detached that should learn, and nothing else learns."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from model_helpers import VARIANTS, build, make_batch, tiny_cfg, tiny_resnet_cfg
from torch import Tensor, nn
from transformers_helpers import their_state_dict

from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import Predictions

SIZES = [(48, 64), (64, 40)]
COUNTS = [2, 1]


def predict(model: DetectionTransformer) -> Predictions:
    torch.manual_seed(1)
    return model.detector(model.preprocess(make_batch(SIZES, COUNTS)))


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def reached(module: nn.Module) -> set[str]:
    """Names of the parameters that have got a gradient other than zero."""
    return {name for name, gradient in gradients_of(module).items() if gradient.any()}


@pytest.fixture
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is built or cast to "float" is float64."""
    before = torch.get_default_dtype()
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("variant", ["conditional_detr", "detr"])
def test_gradients_equal_transformers(variant: str) -> None:
    """In float64: behind a kink of a ReLU or a saturated softmax, fp32 gradients of equal models can be far apart."""
    # Imported here, because it skips whoever imports it where transformers is absent.
    import test_equals_transformers as reference

    # Theirs freezes the whole backbone; ours what Detectron2 does, the stem and the first stage.
    ours, theirs = build(tiny_resnet_cfg(variant)).train(), reference.their_model(variant).eval().requires_grad_(True)
    # Random norms make features in the hundreds, and so softmaxes that multiply the last bit's difference at will.
    ours.detector.input_proj.weight.data *= 0.01
    theirs.load_state_dict(their_state_dict(ours, variant), strict=False)
    batch = make_batch(reference.SIZES, reference.COUNTS)
    images = ours.preprocess(batch)
    pixels = {"pixel_values": images.images, "pixel_mask": (~images.padding_mask).long()}
    found, expected = ours.detector(images), theirs(**pixels)
    of_boxes, of_logits = torch.randn_like(expected.pred_boxes), torch.randn_like(expected.logits)
    torch.autograd.backward([found.boxes[-1], found.logits[-1]], [of_boxes, of_logits])
    torch.autograd.backward([expected.pred_boxes, expected.logits], [of_boxes, of_logits])

    assert found.boxes.dtype == expected.pred_boxes.dtype == torch.float64
    named_as_theirs = their_state_dict(SimpleNamespace(state_dict=lambda: gradients_of(ours)), variant)
    their_gradients = gradients_of(theirs)
    missing = {name for name in their_gradients if name not in named_as_theirs}
    assert missing
    assert all("embedder" in name or "stages.0" in name or "normalization" in name for name in missing), missing
    largest = max(gradient.abs().max() for gradient in their_gradients.values())
    for name, gradient in named_as_theirs.items():
        expected_gradient = their_gradients[name]
        # Biases of keys have no effect on the softmax: their gradients are rounding errors.
        scale = expected_gradient.abs().max() + 1e-3 * largest
        assert (gradient - expected_gradient).abs().max() < 1e-5 * scale, name


@pytest.mark.parametrize("trained", ["logits", "boxes"])
def test_center_decoder_trains_as_conditional_detr(trained: str) -> None:
    pair, conditional = build(tiny_cfg()).train(), build(tiny_cfg("conditional_detr")).train()
    conditional.load_state_dict(pair.state_dict(), strict=False)
    outputs = [getattr(predict(model), trained) for model in (pair, conditional)]
    torch.testing.assert_close(*outputs)
    weight = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(weight)
    found, expected = gradients_of(pair.detector), gradients_of(conditional.detector)
    assert "decoder.layers.0.ffn.linear1.weight" in reached(conditional.detector)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("variant", "output", "decoder"),
    [
        ("conditional_detr", "boxes", "decoder"),
        ("pair_detr", "boxes", "decoder"),
        ("pair_detr", "top_left", "top_left_decoder"),
    ],
)
def test_predicted_points_train_the_reference_points(variant: str, output: str, decoder: str) -> None:
    """In a fresh model the point is the reference point, and no other path leads there: the heads are zero."""
    model = build(tiny_cfg(variant), randomize=False)
    head = getattr(model.detector, decoder).ref_point_head
    queries = model.detector.query_embed.weight
    points = getattr(predict(model), output)[..., :2]
    weight = torch.randn_like(points)
    expected = torch.autograd.grad(head(queries).sigmoid().expand_as(points), [*head.parameters(), queries], weight)
    found = torch.autograd.grad(points, [*head.parameters(), queries], weight)
    for gradient, expected_gradient in zip(found, expected, strict=True):
        assert expected_gradient.any()
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("options", [{}, {"PAIR__PROJECTION_DIM": 12}, {"PAIR__CONTRASTIVE_LOSS": "cross"}])
def test_pair_loss_alone_trains_both_decoders(options: dict[str, object]) -> None:
    model = build(tiny_cfg(**options))
    torch.manual_seed(1)
    model(make_batch(SIZES, COUNTS))["loss_pair"].backward()
    detector = model.detector
    # The content of the first layer's queries is zero.
    without = {f"layers.0.self_attn.{name}_proj.weight" for name in ("qcontent", "kcontent", "v")}
    for decoder in (detector.decoder, detector.top_left_decoder):
        assert reached(decoder) == {name for name, _ in decoder.named_parameters()} - without
    assert reached(detector.encoder)
    for projection in (detector.center_projection, detector.top_left_projection):
        assert len(reached(projection)) == len(list(projection.parameters()))
    assert not [name for name in reached(detector) if "_head.mlp" in name or "class_head" in name]


@pytest.mark.parametrize("variant", VARIANTS)
def test_biases_of_all_attentions_start_as_in_the_official_code(variant: str) -> None:
    """Zero for the output, as in torch.nn.MultiheadAttention; and where that one stacks the inputs, zero for them."""
    detector = build(tiny_cfg(variant), randomize=False).detector
    names = ("out_proj.bias", "in_proj_bias")
    biases = {name: p for name, p in detector.named_parameters() if name.endswith(names)}
    attentions = 2 + 2 * 3 * (2 if variant == "pair_detr" else 1)
    assert sum(name.endswith("out_proj.bias") for name in biases) == attentions
    assert [name for name, bias in biases.items() if bias.any()] == []
