"""Recomputed attention, against what the model computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_helpers import write_image
from matplotlib.text import Text
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from PIL import Image
from tool_helpers import assert_nothing_is_cut_off, save_model
from torch import Tensor

import pair_detr
from pair_detr.structures import Queries
from pair_detr.tools import visualize_attention
from pair_detr.visualization.attention import AttentionRecorder
from pair_detr.visualization.attention_figure import draw_attention
from pair_detr.visualization.attention_report import report_attention

CASES = [*((variant, {}) for variant in VARIANTS), ("pair_detr", {"PAIR__SHARED_DECODER": True})]


@pytest.mark.parametrize(("variant", "options"), CASES)
@torch.no_grad()
def test_values_weighted_by_the_maps_are_the_modules_output(variant: str, options: dict) -> None:
    """Of every layer, in a batch with padding; and recording changes nothing."""
    model = build(tiny_cfg(variant, PAIR__BOX_DECODING="pair", **options)).eval()
    batch = model.preprocess(make_batch([(40, 56), (32, 24)], [1, 1]))
    detector = model.detector
    outputs: list[Tensor] = []
    for name, module in detector.named_modules():
        if name.endswith("out_proj"):
            module.register_forward_hook(lambda module, inputs, output: outputs.append((module, output)))
    expected = detector(batch)
    plain = [output for _, output in outputs]
    outputs.clear()
    with AttentionRecorder(detector) as recorder:
        recorded = detector(batch)
    assert torch.equal(recorded.boxes, expected.boxes)
    assert torch.equal(recorded.logits, expected.logits)

    observed = list(outputs)

    decoders = ["decoder", "top_left_decoder"] if variant == "pair_detr" else ["decoder"]
    keys = [("encoder", layer, "self_attn") for layer in range(2)]
    keys += [(name, layer, kind) for name in decoders for layer in range(3) for kind in ("self_attn", "cross_attn")]
    assert list(recorder.calls) == keys
    key_mask = ~F.interpolate(batch.padding_mask[None].float(), size=(5, 7))[0].bool().flatten(1)
    assert not key_mask.all()
    for key, (module, output), unrecorded in zip(keys, observed, plain, strict=True):
        call = recorder.calls[key]
        weights = call.weights()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        mixed = (weights @ call.value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(module(mixed), output)
        assert torch.equal(output, unrecorded)
        if key[0] == "encoder" or key[2] == "cross_attn":
            assert weights.shape[-1] == 35
            unseen = ~key_mask[:, None, None].expand_as(weights)
            for maps in (weights, *((call.spatial, call.content) if variant != "detr" else ())):
                assert (maps[unseen] == 0).all()
                assert (maps[~unseen] > 0).all()
    assert all(not m._forward_pre_hooks for m in detector.modules())


@torch.no_grad()
def test_spatial_and_content_maps_are_those_of_their_halves() -> None:
    """Against the paper's formula, from the projections of the module: c_q^T c_k and p_q^T p_k over sqrt(2 d)."""
    model = build(tiny_cfg("conditional_detr")).eval()
    detector = model.detector
    attention = detector.decoder.layers[1].cross_attn
    captured: list[tuple] = []
    attention.register_forward_pre_hook(lambda module, inputs: captured.append(inputs))
    batch = model.preprocess(make_batch([(40, 56)], [1]))
    with AttentionRecorder(detector) as recorder:
        detector(batch)
    state, _, spatial_query, key_content, key_position, _, mask = captured[0]
    assert mask is None
    call = recorder.calls["decoder", 1, "cross_attn"]

    def expected(query: Tensor, key: Tensor) -> Tensor:
        query, key = (x.expand(1, -1, -1).unflatten(-1, (4, 8)) for x in (query, key))
        return (torch.einsum("bqhd,bkhd->bhqk", query, key) / 4).softmax(-1)  # sqrt(2 * 8) = 4

    content = expected(attention.qcontent_proj(state), key_content)
    spatial = expected(attention.qpos_sine_proj(spatial_query), key_position)
    torch.testing.assert_close(call.content, content)
    torch.testing.assert_close(call.spatial, spatial)
    product = content * spatial
    torch.testing.assert_close(call.weights(), product / product.sum(-1, keepdim=True))


def test_report_has_the_maps_of_the_best_queries(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", 80, 64)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path)[1::2])
    item = predictor.prepare(tmp_path / "x.png")
    assert item["image"].shape == (3, 48, 60)
    report = report_attention(predictor.model, item, 3, layer=1, points=[(0, 0), (79, 63), (12, 11)])
    found = predictor(tmp_path / "x.png")["instances"]
    best = list(dict.fromkeys(map(tuple, found.pred_boxes.tensor.round(decimals=2).tolist())))[:3]
    np.testing.assert_allclose(report.boxes, best, atol=0.01)
    assert report.scores[0] == pytest.approx(found.scores[0].item())
    assert len(set(report.queries.tolist())) == 3

    detector = predictor.model.detector
    with torch.no_grad(), AttentionRecorder(detector) as recorder:
        memory = detector.encode(predictor.model.preprocess([item]))
        _, reference = detector.decoder(memory, Queries(detector.query_embed.weight))
        detector.top_left_decoder(memory, Queries(detector.query_embed.weight))
    # 60 pixels at stride 8 are 8 cells, the last of which is half outside of the image.
    assert report.extent == pytest.approx((64 * 80 / 60, 48 * 64 / 48))
    for stage, name in (("decoder", "center"), ("top_left_decoder", "top_left")):
        call = recorder.calls[stage, 1, "cross_attn"]
        for kind, weights in (("combined", call.weights()), ("spatial", call.spatial), ("content", call.content)):
            expected = weights[0, :, report.queries].transpose(0, 1).reshape(3, 4, 6, 8)
            np.testing.assert_allclose(report.cross[name][kind], expected, atol=1e-6)
    expected = reference[report.queries] * torch.tensor([80, 64])
    np.testing.assert_allclose(report.reference["center"], expected, atol=1e-3)
    # Cells are 10.67 pixels a side: the third point is in the second cell of the second row.
    encoder = recorder.calls["encoder", 1, "self_attn"].weights()[0]
    for maps, cell in zip(report.encoder, (0, 47, 9), strict=True):
        np.testing.assert_allclose(maps, encoder[:, cell].reshape(4, 6, 8), atol=1e-6)
    with pytest.raises(ValueError, match="3 layers: choose one from 0 to 2, not 3"):
        report_attention(predictor.model, item, 1, layer=3)
    with pytest.raises(ValueError, match=r"Point 80,0 lies outside .* 80 x 64"):
        report_attention(predictor.model, item, 1, points=[(80, 0)])


def test_report_of_a_fixed_size_is_in_pixels_of_the_image(tmp_path: Path) -> None:
    """Boxes and reference points are relative to the padded image there."""
    write_image(tmp_path / "x.png", 80, 40)
    cfg = tiny_cfg()
    cfg.INPUT.FIXED_SIZE = (64, 64)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path, cfg)[1::2])
    item = predictor.prepare(tmp_path / "x.png")
    assert item["image"].shape == (3, 32, 64)
    report = report_attention(predictor.model, item, 2)
    found = predictor(tmp_path / "x.png")["instances"].pred_boxes.tensor
    best = list(dict.fromkeys(map(tuple, found.round(decimals=2).tolist())))[:2]
    np.testing.assert_allclose(report.boxes, best, atol=0.01)
    assert report.extent == (80, 80)
    centers = (report.boxes[:, :2] + report.boxes[:, 2:]) / 2
    np.testing.assert_allclose(report.encoder_points, centers.clip(0, [79, 39]), rtol=1e-5)
    detector = predictor.model.detector
    reference = detector.decoder.ref_point_head(detector.query_embed.weight[report.queries]).sigmoid().detach()
    np.testing.assert_allclose(report.reference["center"], reference * 80, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "options"), [("pair_detr", {}), ("detr", {}), ("conditional_detr", {"ENC_LAYERS": 0})]
)
def test_tool_writes_a_picture_and_the_maps(variant: str, options: dict, tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", 80, 64)
    arguments = [*save_model(tmp_path, variant=variant, **options), "--image", str(tmp_path / "x.png"), "--output"]
    visualize_attention.main([*arguments, str(tmp_path / "out" / "maps.png"), "--opts", "MODEL.DEVICE", "cpu"])
    assert min(Image.open(tmp_path / "out" / "maps.png").size) > 500
    maps = np.load(tmp_path / "out" / "maps.npz")
    kinds = {"combined"} if variant == "detr" else {"combined", "spatial", "content"}
    decoders = {"center", "top_left"} if variant == "pair_detr" else {"center"}
    assert {f"{d}_{k}" for d in decoders for k in kinds} <= set(maps)
    assert maps["center_combined"].shape == (2, 4, 6, 8)
    np.testing.assert_allclose(maps["center_combined"].sum((2, 3)), 1, rtol=1e-5)
    assert ("encoder" in maps) == ("ENC_LAYERS" not in options)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["maps.npz", "maps.png"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(300, 60), (80, 64), (60, 300)])
def test_texts_of_the_figure_are_not_cut_off(variant: str, size: tuple[int, int], tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", *size)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path, variant=variant)[1::2])
    report = report_attention(predictor.model, predictor.prepare(tmp_path / "x.png"), 2, layer=0)
    figure = draw_attention(np.zeros((size[1], size[0], 3), np.uint8), report, predictor.metadata.thing_classes)
    assert_nothing_is_cut_off(figure)
    texts = [text.get_text().replace("\n", " ") for text in figure.findobj(Text)]
    # As --layer and the arrays count.
    assert sum("decoder layer 0 " in text for text in texts) == 2
    assert any("In the first layer" in text for text in texts) == (variant != "detr")


def test_panels_show_the_maps_of_their_titles_where_they_belong(tmp_path: Path) -> None:
    """Decoder by decoder and kind by kind, the heads side by side."""
    write_image(tmp_path / "x.png", 80, 64)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path)[1::2])
    report = report_attention(predictor.model, predictor.prepare(tmp_path / "x.png"), 1)
    figure = draw_attention(np.zeros((64, 80, 3), np.uint8), report, predictor.metadata.thing_classes)
    panels = iter(figure.axes[2:])
    for decoder, title in (("center", "Center decoder"), ("top_left", "Top-left decoder")):
        for kind in ("spatial", "content", "combined"):
            for head in range(4):
                axis = next(panels)
                _, shown = axis.images
                weights = report.cross[decoder][kind][0, head]
                np.testing.assert_allclose(shown.get_array(), weights / weights.max(), rtol=1e-5)
                # The last of the 8 columns is half outside of the image.
                assert shown.get_extent() == pytest.approx([-0.5, 64 * 80 / 60 - 0.5, 63.5, -0.5])
                assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 79.5), (63.5, -0.5))
                assert axis.lines[0].get_xydata()[0] == pytest.approx(report.reference[decoder][0])
                if kind == "spatial":
                    assert axis.get_title("left") == (f"{title}\nhead 1" if head == 0 else f"head {head + 1}")
                if (decoder, head) == ("center", 0):
                    assert axis.get_ylabel().startswith(kind)
    assert next(panels, None) is None


def test_points_are_not_hidden_by_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", 80, 64)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path)[1::2])
    report = report_attention(predictor.model, predictor.prepare(tmp_path / "x.png"), 1, points=[(3, 3)])
    figure = draw_attention(np.zeros((64, 80, 3), np.uint8), report, predictor.metadata.thing_classes)
    overview = figure.axes[0]
    (label,) = [text for text in overview.texts if "%" in text.get_text()]
    (point,) = overview.lines
    (letter,) = [text for text in overview.texts if text.get_text() == "a"]
    assert label.zorder < point.zorder < letter.zorder


def test_bad_arguments(tmp_path: Path) -> None:
    arguments = ["--config-file", "quickstart", "--image"]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        visualize_attention.main([*arguments, "nowhere.png"])
    for options in (["--output", "x.gif"], ["--detections", "0"], ["--points", "12"]):
        with pytest.raises(SystemExit):
            visualize_attention.main([*arguments, "nowhere.png", *options])
