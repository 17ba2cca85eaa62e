"""Structure, initialization and size of the three detectors."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from model_helpers import VARIANTS, as_batch, build, default_cfg, make_batch, tiny_cfg, tiny_resnet_cfg
from torch import nn

from pair_detr.config_files import config_file
from pair_detr.modeling import PairDETR
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import Predictions

SIZES = [(48, 64), (64, 40)]
COUNTS = [2, 0]


def predict(model: DetectionTransformer) -> Predictions:
    torch.manual_seed(1)
    return model.detector(model.preprocess(make_batch(SIZES, COUNTS)))


def on_meta(name: str, num_classes: int = 91) -> DetectionTransformer:
    """A shipped config's model, without memory for its weights."""
    cfg = default_cfg()
    cfg.merge_from_file(str(config_file(name)))
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    cfg.MODEL.DEVICE = "meta"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    with torch.device("meta"):
        return build_model(cfg)


def sizes(model: nn.Module) -> tuple[int, int]:
    """Number of parameters, and of those that are trained."""
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "entries", "parameters", "trainable"),
    [
        # The official checkpoints' entries. Their published sums leave out the four buffers of each frozen batch norm.
        ("conditional_detr/r50", 564, 43_418_401, 43_196_001),
        ("conditional_detr/dc5_r50", 564, 43_418_401, 43_196_001),
        ("conditional_detr/r101", 819, 62_358_305, 62_135_905),
        # What the official code of DETR prints for its R50.
        ("detr/r50", None, 41_524_768, 41_302_368),
    ],
)
def test_size_is_that_of_the_official_models(name: str, entries: int | None, parameters: int, trainable: int) -> None:
    model = on_meta(name)
    assert sizes(model) == (parameters, trainable)
    if entries:
        assert len(model.state_dict()) == entries
    # conv1 (7 x 7) and the nine convolutions and the shortcut of the first stage are frozen.
    bottlenecks = (64 + 256 + 256) * 64 + 3 * 9 * 64 * 64 + 3 * 64 * 256
    assert parameters - trainable == 3 * 64 * 49 + bottlenecks + 64 * 256


def linear(rows: int, columns: int) -> int:
    return rows * columns + rows


def conditional_decoder_size(layers: int, dim: int, ffn: int) -> int:
    norm = 2 * dim
    self_attention = 6 * linear(dim, dim)
    cross_attention = 6 * linear(dim, dim)
    layer = self_attention + cross_attention + linear(ffn, dim) + linear(dim, ffn) + 3 * norm
    first_layer_alone = linear(dim, dim)
    reference_points = linear(dim, dim) + linear(2, dim)
    query_scale = 2 * linear(dim, dim)
    return layers * layer + first_layer_alone + norm + reference_points + query_scale


def point_head_size(dim: int) -> int:
    return 2 * linear(dim, dim) + linear(2, dim)


def test_pair_detr_adds_a_decoder_and_a_point_head() -> None:
    """As published, which is what all variants' base builds by default."""
    surplus = sizes(on_meta("bases/r50"))[0] - sizes(on_meta("conditional_detr/r50"))[0]
    assert surplus == conditional_decoder_size(6, 256, 2048) + point_head_size(256)
    assert 11.3e6 < surplus < 11.5e6


def test_shared_decoder_adds_reference_points_scale_norm_and_head_only() -> None:
    surplus = sizes(build(tiny_cfg(PAIR__SHARED_DECODER=True)))[0] - sizes(build(tiny_cfg("conditional_detr")))[0]
    assert surplus == conditional_decoder_size(0, 32, 64) - linear(32, 32) + point_head_size(32)


def test_pair_box_head_predicts_a_point() -> None:
    center, pair = (sizes(build(tiny_cfg(PAIR__BOX_DECODING=name)))[0] for name in ("center", "pair"))
    assert center - pair == linear(4, 32) - linear(2, 32)


def test_projection_adds_two_linear_maps() -> None:
    without, projected = (sizes(build(tiny_cfg(PAIR__PROJECTION_DIM=dim)))[0] for dim in (0, 12))
    assert projected - without == 2 * linear(12, 32)


@pytest.mark.parametrize("variant", ["pair_detr", "conditional_detr"])
def test_training_starts_at_the_reference_points_with_the_prior(variant: str) -> None:
    model = build(tiny_cfg(variant), randomize=False)
    predictions = predict(model)
    reference = model.detector.decoder.ref_point_head(model.detector.query_embed.weight).sigmoid()
    expected = torch.cat((reference, torch.full_like(reference, 0.5)), dim=-1).expand_as(predictions.boxes)
    torch.testing.assert_close(predictions.boxes, expected)
    assert reference.std(0).min() > 1e-3
    torch.testing.assert_close(model.detector.class_head.bias.sigmoid(), torch.full((3,), 0.01))
    if variant == "pair_detr":
        corner = model.detector.top_left_decoder.ref_point_head(model.detector.query_embed.weight).sigmoid()
        torch.testing.assert_close(predictions.top_left, corner.expand_as(predictions.top_left))
        assert (corner - reference).abs().max() > 1e-2


def test_detr_starts_with_torchs_initialization() -> None:
    model = build(tiny_cfg("detr"), randomize=False)
    assert model.detector.box_head.mlp.layers[-1].weight.any()
    assert model.detector.class_head.bias.abs().max() < 32**-0.5
    assert model.detector.class_head.out_features == 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_matrices_of_the_transformer_start_xavier_uniform(variant: str) -> None:
    detector = build(tiny_cfg(variant), randomize=False).detector
    checked = 0
    for part in (detector.encoder, detector.decoder, getattr(detector, "top_left_decoder", nn.Identity())):
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                bound = (6 / sum(parameter.shape)) ** 0.5
                assert bound * 0.9 < parameter.abs().max() <= bound, name
                checked += 1
    assert checked > 20
    assert 0.8 < detector.query_embed.weight.std() < 1.2


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_of_predictions(variant: str) -> None:
    model = build(tiny_cfg(variant))
    columns = 4 if variant == "detr" else 3
    training = predict(model)
    assert training.logits.shape == (3, 2, 7, columns)
    assert training.boxes.shape == (3, 2, 7, 4)
    inference = predict(model.eval())
    assert inference.logits.shape == (1, 2, 7, columns)
    assert inference.top_left is None
    assert inference.pair_embeddings is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_deep_supervision_the_last_layer_is_predicted_alone(variant: str) -> None:
    deep, last = (build(tiny_cfg(variant, LOSS__DEEP_SUPERVISION=value)) for value in (True, False))
    deep, last = predict(deep), predict(last)
    torch.testing.assert_close(last.logits, deep.logits[-1:])
    torch.testing.assert_close(last.boxes, deep.boxes[-1:])


def decoder_calls(model: DetectionTransformer) -> list[str]:
    calls: list[str] = []
    detector = model.detector
    detector.decoder.register_forward_hook(lambda *_: calls.append("center"))
    detector.top_left_decoder.register_forward_hook(lambda *_: calls.append("top_left"))
    predict(model)
    return calls


@pytest.mark.parametrize(
    ("box_decoding", "training", "expected"),
    [
        ("center", False, ["center"]),
        ("center", True, ["center", "top_left"]),
        ("pair", False, ["center", "top_left"]),
        ("pair", True, ["center", "top_left"]),
    ],
)
def test_inference_runs_the_decoders_that_it_needs(box_decoding: str, training: bool, expected: list[str]) -> None:
    model = build(tiny_cfg(PAIR__BOX_DECODING=box_decoding)).train(training)
    assert decoder_calls(model) == expected


def test_center_decoding_is_conditional_detr() -> None:
    pair, conditional = build(tiny_cfg()).eval(), build(tiny_cfg("conditional_detr")).eval()
    missing, _ = conditional.load_state_dict(pair.state_dict(), strict=False)
    assert not missing
    ours, theirs = predict(pair), predict(conditional)
    torch.testing.assert_close(ours.boxes, theirs.boxes)
    torch.testing.assert_close(ours.logits, theirs.logits)


def test_pair_decoding_assembles_boxes_from_both_decoders() -> None:
    predictions = predict(build(tiny_cfg(PAIR__BOX_DECODING="pair", NUM_QUERIES=100)))
    x, y, w, h = predictions.boxes.unbind(-1)
    left, top = predictions.top_left.unbind(-1)
    inside = (left < x) & (top < y)
    assert inside.any()
    assert not inside.all()
    torch.testing.assert_close((x - w / 2)[inside], left[inside])
    torch.testing.assert_close((y - h / 2)[inside], top[inside])
    assert (w[left >= x] == 0).all()
    assert (h[top >= y] == 0).all()


def test_shared_decoder_shares_layers_but_not_reference_points() -> None:
    detector = build(tiny_cfg(PAIR__SHARED_DECODER=True)).detector
    for a, b in zip(detector.decoder.layers.parameters(), detector.top_left_decoder.layers.parameters(), strict=True):
        assert a is b
    assert detector.decoder.ref_point_head is not detector.top_left_decoder.ref_point_head
    separate = build(tiny_cfg()).detector
    own = {id(p) for p in separate.decoder.parameters()}
    assert not any(id(p) in own for p in separate.top_left_decoder.parameters())


@pytest.mark.parametrize(
    ("options", "layers", "width"),
    [
        ({}, 1, 32),
        ({"PAIR__CONTRASTIVE_LAYERS": "all"}, 3, 32),
        ({"PAIR__CONTRASTIVE_LAYERS": "all", "LOSS__DEEP_SUPERVISION": False}, 1, 32),
        ({"PAIR__PROJECTION_DIM": 12}, 1, 12),
        ({"PAIR__CONTRASTIVE_WEIGHT": 0.0, "PAIR__PROJECTION_DIM": 12}, 0, 32),
    ],
)
def test_embeddings_for_the_association(options: dict[str, object], layers: int, width: int) -> None:
    model = build(tiny_cfg(**options))
    states = {}
    detector = model.detector
    detector.decoder.register_forward_hook(lambda _, __, out: states.update(center=out[0]))
    detector.top_left_decoder.register_forward_hook(lambda _, __, out: states.update(top_left=out[0]))
    predictions = predict(model)
    for name, embeddings in zip(("center", "top_left"), predictions.pair_embeddings, strict=True):
        assert embeddings.shape == (layers, 2, 7, width)
        if width == 32:
            torch.testing.assert_close(embeddings, states[name][3 - layers :])
        else:
            projection = getattr(detector, f"{name}_projection")
            torch.testing.assert_close(embeddings, states[name][-1:] @ projection.weight.T + projection.bias)


def test_both_decoders_read_the_same_queries_and_memory() -> None:
    model = build(tiny_cfg())
    inputs = []
    for decoder in (model.detector.decoder, model.detector.top_left_decoder):
        decoder.register_forward_pre_hook(lambda _, args: inputs.append(args))
    predict(model)
    (memory, queries), (other_memory, other_queries) = inputs
    assert memory is other_memory
    assert queries == other_queries
    assert queries.position is other_queries.position is model.detector.query_embed.weight


def test_config_file_names_the_files_that_exist() -> None:
    assert Path(config_file("detr/r50.yaml")) == Path(config_file("detr/r50"))
    with pytest.raises(FileNotFoundError, match=r"no config file 'r51'.*detr/r50\.yaml"):
        config_file("r51")


def test_pair_detr_refuses_a_decoder_that_nothing_trains() -> None:
    cfg = tiny_cfg(PAIR__TOP_LEFT_WEIGHT=0.0, PAIR__CONTRASTIVE_WEIGHT=0.0)
    with pytest.raises(ValueError, match="TOP_LEFT_WEIGHT and CONTRASTIVE_WEIGHT are both 0"):
        build(cfg)
    cfg.MODEL.DETR.PAIR.BOX_DECODING = "pair"
    assert isinstance(build(cfg).detector, PairDETR)


def test_pairs_start_with_a_box_between_them() -> None:
    torch.manual_seed(0)
    detector = build(tiny_cfg(PAIR__BOX_DECODING="pair"), randomize=False).detector
    boxes = detector(as_batch(torch.rand(1, 3, 64, 64))).boxes
    assert boxes.shape == (3, 1, 7, 4)
    assert (boxes[..., 2:] > 0.1).all()
    corner = boxes[..., :2] - boxes[..., 2:] / 2
    torch.testing.assert_close(corner.logit(), boxes[..., :2].logit() - 0.5)


@pytest.mark.parametrize(("dilation", "stride"), [(1, 32), (2, 16)])
def test_the_last_stage_enters_the_encoder_in_whatever_order_they_are_named(dilation: int, stride: int) -> None:
    cfg = tiny_resnet_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5", "res4"]
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    detector = build(cfg).detector
    assert detector.in_feature == "res5"
    assert detector.backbone.output_shape()["res5"].stride == stride
