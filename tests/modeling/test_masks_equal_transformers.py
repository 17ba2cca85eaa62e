"""Masks against DetrForSegmentation of transformers with the same weights, and checkpoints with masks both ways."""

import json
from pathlib import Path

import pytest
import torch
from conversion_helpers import VARIANTS, assert_same, laid_out, layout_of, official_state
from model_helpers import build
from segmentation_helpers import build_sharp, make_mask_batch, mask_cfg
from test_equals_transformers import their_model
from torch import Tensor, nn
from transformers_helpers import their_inputs

from pair_detr.checkpoint import Checkpoint, convert, export_official, export_transformers
from pair_detr.checkpoint.coco_ids import COCO_IDS, PANOPTIC
from pair_detr.checkpoint.formats.registry import layout_named, recognize
from pair_detr.checkpoint.weights import Weights, load_weights

transformers = pytest.importorskip("transformers")

# Padded, and of odd sizes.
SIZES = [(97, 131), (64, 160), (75, 90)]
OPTIONS = {"NUM_QUERIES": 7, "HIDDEN_DIM": 64, "NUM_HEADS": 8}


def mask_head_of_authors(dim: int = 256, heads: int = 8) -> dict[str, Tensor]:
    """Names and shapes of the official mask head, from its constructor in the paper's code."""
    width, inner = dim + heads, [dim // 2, dim // 4, dim // 8, dim // 16]
    modules: dict[str, nn.Module] = {
        "bbox_attention.q_linear": nn.Linear(dim, dim),
        "bbox_attention.k_linear": nn.Linear(dim, dim),
        "mask_head.out_lay": nn.Conv2d(inner[3], 1, 3),
    }
    for i, (a, b) in enumerate(zip([width, width, *inner[:3]], [width, *inner], strict=True), 1):
        modules |= {f"mask_head.lay{i}": nn.Conv2d(a, b, 3), f"mask_head.gn{i}": nn.GroupNorm(8, b)}
    for i, (a, b) in enumerate(zip([1024, 512, 256], inner, strict=False), 1):
        modules[f"mask_head.adapter{i}"] = nn.Conv2d(a, b, 1)
    return {f"{name}.{key}": x for name, module in modules.items() for key, x in module.state_dict().items()}


def official_masks(num_classes: int, device: str = "meta") -> dict[str, Tensor]:
    """State dict of an official DETR-R50 with masks."""
    with torch.device(device):
        state = {f"detr.{key}": tensor for key, tensor in official_state("detr", 50, device).items()}
        state["detr.class_embed.weight"] = torch.empty(num_classes + 1, 256)
        state["detr.class_embed.bias"] = torch.empty(num_classes + 1)
        return state | mask_head_of_authors()


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """Our model and theirs with the same weights."""
    ours = build_sharp(mask_cfg(request.param, resnet=True, **OPTIONS)).eval()
    config = their_model(request.param).config
    config.d_model, config.encoder_attention_heads, config.decoder_attention_heads = 64, 8, 8
    config.backbone_config.out_features = ["stage1", "stage2", "stage3", "stage4"]
    name = "Detr" if request.param == "detr" else "ConditionalDetr"
    theirs = getattr(transformers, f"{name}ForSegmentation")(config)
    layout = f"transformers 5.x (resnet backbone, with masks) {'DETR' if name == 'Detr' else 'Conditional DETR'}"
    state = laid_out(ours.state_dict(), layout_named(layout))
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in key for key in missing)
    return ours, theirs.eval()


@torch.no_grad()
def test_masks_equal_transformers(pair: tuple[nn.Module, nn.Module]) -> None:
    ours, theirs = pair
    batch = make_mask_batch(SIZES, [0, 0, 0])
    expected = theirs(**their_inputs(batch)).pred_masks
    asked = ours.detector(ours.preprocess(batch)).mask_queries
    found = ours.detector.mask_head(asked, torch.arange(7).repeat(3), [7] * 3).unflatten(0, (3, 7))
    assert expected.shape == found.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-4
    # Queries of a random model have nearly the same mask: their differences must also agree.
    found, expected = (x - x.mean(1, keepdim=True) for x in (found, expected))
    assert (found - expected).abs().max() / expected.abs().max() < 0.02


@pytest.mark.parametrize(("num_classes", "ids"), [(91, COCO_IDS), (250, PANOPTIC.ids)])
def test_official_files_are_filled_exactly(num_classes: int, ids: list[int]) -> None:
    state = official_masks(num_classes)
    match = recognize(state)
    assert match.layout.name == "official (with masks) DETR"
    assert len(match.renamed) == len(state)
    settings = match.architecture.settings()
    assert settings["MODEL.MASK_ON"]
    assert (settings["MODEL.DETR.NUM_HEADS"], settings["MODEL.DETR.NUM_CLASSES"]) == (8, num_classes)
    # Inside of the wrapper for Detectron2 there is one more level.
    wrapped = laid_out(match.renamed, layout_named("DETR's wrapper for Detectron2 (with masks)"))
    assert {"detr.mask_head.lay1.weight", "detr.detr.query_embed.weight"} <= wrapped.keys()
    assert recognize(wrapped).layout.name == "DETR's wrapper for Detectron2 (with masks)"
    assert len(ids) == {91: 80, 250: 133}[num_classes]


def test_panoptic_ids_are_those_of_detectron2() -> None:
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    ids = metadata.thing_dataset_id_to_contiguous_id | metadata.stuff_dataset_id_to_contiguous_id
    assert ids == {raw: i for i, raw in enumerate(PANOPTIC.ids)}
    assert metadata.thing_classes == PANOPTIC.names
    state = {"class_head.weight": torch.arange(251.0)[:, None], "class_head.bias": torch.arange(251.0)}
    kept = PANOPTIC.keep_used(state)
    assert kept["class_head.bias"].tolist() == [*PANOPTIC.ids, 250]
    assert PANOPTIC.keep_used(PANOPTIC.restore(kept))["class_head.weight"].equal(kept["class_head.weight"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_classes", [3, 133])
def test_round_trips(variant: str, num_classes: int) -> None:
    state = build(mask_cfg(variant, resnet=True, NUM_CLASSES=num_classes)).state_dict()
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    official = export_official(state)
    assert "mask_head.lay5.weight" in official.state
    assert official.num_classes == {3: 3, 133: 250}[num_classes]
    assert_same(convert(Checkpoint(official.state)).model, state)
    exported = export_transformers(state, num_heads=4)
    converted = convert(Checkpoint(exported.state))
    assert_same(converted.model, state)
    assert converted.metadata["config"]["MODEL.MASK_ON"]
    prefix = "detr" if variant == "detr" else "conditional_detr"
    assert all(key.startswith((f"{prefix}.", "mask_head.", "bbox_attention.")) for key in exported.state)


def test_from_pretrained_reads_an_export(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    ours = build_sharp(mask_cfg("detr", resnet=True, **OPTIONS)).eval()
    exported = export_transformers(ours.state_dict(), num_heads=8)
    save_file(exported.state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = exported.files["config.json"]
    assert config["architectures"] == ["DetrForSegmentation"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.DetrForSegmentation.from_pretrained(tmp_path).eval()
    batch = make_mask_batch([(64, 96)], [0])
    with torch.no_grad():
        asked = ours.detector(ours.preprocess(batch)).mask_queries
        found = ours.detector.mask_head(asked, torch.arange(7), [7])
        expected = theirs(**their_inputs(batch)).pred_masks[0]
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4


def test_weights_without_masks_start_a_model_with_them_and_the_reverse(caplog: pytest.LogCaptureFixture) -> None:
    cfg = mask_cfg("detr")
    with_masks = build(cfg)
    cfg.MODEL.MASK_ON = False
    without = build(cfg)
    for source, model, action in ((without, with_masks, "random start"), (with_masks, without, "left out")):
        start = {key: tensor + 1 for key, tensor in source.state_dict().items()}
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        caplog.clear()
        load_weights(model, Weights("some.pth", "this package's", start, None, {}))
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[key] if "mask_head" in key else start[key])
        assert any("detector.mask_head.*" in r.getMessage() and action in r.getMessage() for r in caplog.records)
    assert layout_of("detr", "detr").name == "official DETR"
