"""Files of transformers against its own loading and computing, small and in the published sizes."""

from pathlib import Path

import pytest
import torch
from conversion_helpers import VARIANTS
from detectron2.config import CfgNode
from model_helpers import build, default_cfg, make_batch, tiny_resnet_cfg
from torch import nn
from transformers_helpers import their_inputs, their_losses, their_state_dict

from pair_detr.checkpoint import METADATA, ConversionError, Exported, config_mismatches, export_transformers
from pair_detr.checkpoint.coco_ids import COCO_IDS, COCO_NAMES
from pair_detr.config_files import config_file
from pair_detr.modeling import DETR
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.tools.convert_weights import main

transformers = pytest.importorskip("transformers")
MODELS = {
    "detr": transformers.DetrForObjectDetection,
    "conditional_detr": transformers.ConditionalDetrForObjectDetection,
}
# A padded batch of two sizes, and single images.
BATCHES = [[(96, 128), (64, 160)], [(75, 90)], [(128, 96)]]


@pytest.fixture(autouse=True)
def _no_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's would keep the log of later tests from caplog."""
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)


def their_model(exported: Exported) -> nn.Module:
    """What the exported config describes, freshly initialized and without dropout."""
    model_class = MODELS[exported.variant]
    return model_class(model_class.config_class(**exported.files["config.json"] | {"dropout": 0.0}))


def assert_equal_outputs(ours: DetectionTransformer, theirs: nn.Module, rows: list[int] | slice = slice(None)) -> None:
    """Compares on a padded batch and on single images; ``rows`` are those of their classifier that ours has."""
    ours.eval(), theirs.eval()
    for sizes in BATCHES:
        batch = make_batch(sizes, [1] * len(sizes))
        with torch.no_grad():
            found, expected = ours.detector(ours.preprocess(batch)), theirs(**their_inputs(batch))
        torch.testing.assert_close(found.logits[0], expected.logits[..., rows], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.boxes[0], expected.pred_boxes, atol=1e-5, rtol=0)
        # The comparison means nothing if all queries predict the same.
        assert expected.pred_boxes.std(1).mean() > 1e-4


def assert_equal_losses(ours: DetectionTransformer, theirs: nn.Module) -> None:
    batch = make_batch([(96, 128), (64, 160), (80, 80)], [3, 0, 2])
    ours.train(), theirs.eval()
    found, expected = ours(batch), their_losses(theirs, batch)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=0, rtol=1e-4)


def tiny(variant: str, num_classes: int = 3) -> CfgNode:
    return tiny_resnet_cfg(variant, NUM_QUERIES=20, NUM_CLASSES=num_classes)


def write_checkpoint(path: Path, cfg: CfgNode) -> tuple[DetectionTransformer, list[str]]:
    """A checkpoint of this package, its model, and the arguments of the tool that name it and its config."""
    model = build(cfg)
    torch.save({"model": model.state_dict()}, path)
    config = path.with_suffix(".yaml")
    config.write_text(cfg.dump())
    return model, [str(path), "--config-file", str(config)]


@pytest.fixture(scope="module", params=VARIANTS)
def theirs(request: pytest.FixtureRequest) -> nn.Module:
    """A small model of transformers with random weights."""
    ours = build(tiny(request.param))
    model = their_model(export_transformers(ours.state_dict(), num_heads=4))
    model.load_state_dict(their_state_dict(ours, request.param))
    return model.eval()


@pytest.mark.parametrize("release", [4, 5])
def test_what_transformers_writes(tmp_path: Path, theirs: nn.Module, release: int) -> None:
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=release == 4)
    main([str(tmp_path / "theirs"), str(tmp_path / "ours.pth"), "--source", "transformers"])
    checkpoint = torch.load(tmp_path / "ours.pth")
    metadata = checkpoint[METADATA]
    assert metadata["layout"].startswith(f"transformers {release}.x (resnet backbone)")
    cfg = tiny(metadata["variant"])
    assert config_mismatches(metadata["config"], cfg) == []
    ours = build(cfg)
    ours.load_state_dict(checkpoint["model"])
    assert_equal_outputs(ours, theirs)
    assert_equal_losses(ours, theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_reads(tmp_path: Path, variant: str) -> None:
    ours, arguments = write_checkpoint(tmp_path / "ours.pth", tiny(variant))
    names = tmp_path / "names.txt"
    names.write_bytes("red cell\r\nzelle ä \r\nplatelet\r\n\r\n".encode("utf-8-sig"))
    folder = tmp_path / "theirs"
    main([*arguments[:1], str(folder), *arguments[1:], "--reverse", "transformers", "--class-names", str(names)])
    theirs, info = MODELS[variant].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert theirs.config.id2label == {0: "red cell", 1: "zelle ä", 2: "platelet"}
    assert_equal_outputs(ours, theirs)
    assert_equal_losses(ours, theirs)
    theirs.save_pretrained(tmp_path / "again")
    main([str(tmp_path / "again"), str(tmp_path / "again.pth")])
    returned = torch.load(tmp_path / "again.pth")["model"]
    assert returned.keys() == ours.state_dict().keys()
    assert all(torch.equal(returned[key], tensor) for key, tensor in ours.state_dict().items())
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert processor.size["shortest_edge"] == 800


@pytest.mark.parametrize("variant", VARIANTS)
def test_coco_classes_become_raw_ids(tmp_path: Path, variant: str) -> None:
    ours, arguments = write_checkpoint(tmp_path / "ours.pth", tiny(variant, num_classes=80))
    main([*arguments[:1], str(tmp_path / "theirs"), *arguments[1:], "--reverse", "transformers"])
    theirs = MODELS[variant].from_pretrained(tmp_path / "theirs")
    assert [theirs.config.id2label[i] for i in COCO_IDS] == COCO_NAMES
    no_object = [91] if variant == "detr" else []
    assert_equal_outputs(ours, theirs, [*COCO_IDS, *no_object])
    with torch.no_grad():
        logits = theirs(**their_inputs(make_batch([(96, 128)], [1]))).logits
    scores = logits.softmax(-1) if variant == "detr" else logits.sigmoid()
    unused = sorted(set(range(91)) - set(COCO_IDS))
    assert scores[..., unused].max() == 0
    assert scores[..., COCO_IDS].max() > 0
    main([*arguments[:1], str(tmp_path / "80"), *arguments[1:], "--reverse", "transformers", "--keep-classes"])
    assert len(MODELS[variant].from_pretrained(tmp_path / "80").config.id2label) == 80


def test_pair_detr_becomes_conditional_detr(tmp_path: Path) -> None:
    ours, arguments = write_checkpoint(tmp_path / "ours.pth", tiny("pair_detr"))
    main([*arguments[:1], str(tmp_path / "theirs"), *arguments[1:], "--reverse", "transformers"])
    assert_equal_outputs(ours, MODELS["conditional_detr"].from_pretrained(tmp_path / "theirs"))


def test_what_cannot_be_exported() -> None:
    cfg = tiny_resnet_cfg("pair_detr", PAIR__BOX_DECODING="pair")
    with pytest.raises(ConversionError, match="decodes boxes from pairs"):
        export_transformers(build(cfg).state_dict())
    state = build(tiny("detr")).state_dict()
    with pytest.raises(ConversionError, match="no ResNet of this width"):
        export_transformers(state, dilation=True)
    with pytest.raises(ConversionError, match="The model has 3 classes, but the names are 2"):
        export_transformers(state, class_names=["a", "b"])
    with pytest.raises(ConversionError, match=r"no whole detr: see decoder\.norm\.bias"):
        export_transformers({key: x for key, x in state.items() if key != "detector.decoder.norm.bias"})
    with pytest.raises(ConversionError, match="lacks backbone"):
        export_transformers({key: x for key, x in state.items() if "backbone" not in key})
    with pytest.raises(ConversionError, match="not this package's"):
        export_transformers({"a": torch.zeros(1)})


def published(name: str, variant: str) -> CfgNode:
    cfg = default_cfg()
    cfg.merge_from_file(str(config_file(f"{variant}/{name}")))
    cfg.MODEL.DEVICE = "cpu"
    # The rows of the published files; COCO's datasets have only 80 classes.
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.DETR.NUM_CLASSES = 91
    cfg.MODEL.DETR.DROPOUT = 0.0
    return cfg


@torch.no_grad()
def enliven(model: DetectionTransformer) -> None:
    """Makes a large model with random weights tell positions and queries apart, as a trained one does.

    Its activations would grow block by block. In DETR, whose queries differ in nothing but what they attend to, the
    memory would be much the same everywhere and attention even.
    """
    for name, buffer in model.named_buffers():
        if name.endswith("conv3.norm.weight"):
            buffer.mul_(0.2)
    detector = model.detector
    if not isinstance(detector, DETR):
        return
    tokens = detector.input_proj(detector.backbone(model.preprocess(make_batch([(64, 96)], [1])).images)["res5"])
    mean, std = tokens.mean((0, 2, 3)), tokens.std((0, 2, 3))
    detector.input_proj.weight.div_(std[:, None, None, None])
    detector.input_proj.bias.sub_(mean).div_(std)
    for name, parameter in detector.decoder.named_parameters():
        if name.endswith("in_proj_weight"):
            queries_and_keys = parameter[: 2 * len(parameter) // 3]
            queries_and_keys.mul_(2)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["r50", "r101", "dc5_r50"])
def test_published_sizes(tmp_path: Path, name: str, variant: str) -> None:
    is_dc5 = name.startswith("dc5")
    if is_dc5:
        pytest.importorskip("timm")
    cfg, exported_folder = published(name, variant), tmp_path / "exported"
    ours = build(cfg)
    enliven(ours)
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    config = str(config_file(f"{variant}/{name}"))
    main([str(tmp_path / "ours.pth"), str(exported_folder), "--reverse", "transformers", "--config-file", config])
    theirs, info = MODELS[variant].from_pretrained(exported_folder, output_loading_info=True)
    assert not any(info.values())
    assert_equal_outputs(ours, theirs)
    assert_equal_losses(ours, theirs)

    theirs.save_pretrained(tmp_path / "theirs")
    main([str(tmp_path / "theirs"), str(tmp_path / "back.pth"), "--keep-91"])
    back = torch.load(tmp_path / "back.pth")
    kind = "timm" if is_dc5 else "resnet"
    assert back[METADATA]["layout"].startswith(f"transformers 4.x ({kind} backbone)")
    assert back[METADATA]["config"]["MODEL.RESNETS.RES5_DILATION"] == 1 + is_dc5
    assert config_mismatches(back[METADATA]["config"], cfg) == []
    assert back["model"].keys() == ours.state_dict().keys()
    assert all(torch.equal(back["model"][key], tensor) for key, tensor in ours.state_dict().items())
