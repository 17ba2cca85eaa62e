"""MODEL.WEIGHTS, from files of this package and of others."""

import argparse
import math
import pickle
from pathlib import Path

import pytest
import torch
from model_helpers import build, default_cfg, make_batch, tiny_cfg, tiny_resnet_cfg
from open_vocabulary_helpers import text_cfg
from torch import Tensor, nn

from pair_detr.checkpoint import export_official, required_config
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.checkpoint.warm_start import adapt_state_dict
from pair_detr.checkpoint.weights import CheckpointError, load_weights, read_weights, require_weights


def save(model: nn.Module, folder: Path) -> str:
    AtomicCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


def save_official(model: nn.Module, path: Path) -> str:
    """As DETR's authors save it, with the arguments of the training."""
    torch.save(
        {"model": export_official(model.state_dict()).state, "args": argparse.Namespace(nheads=4, dilation=False)}, path
    )
    return str(path)


def zoo_backbone(path: Path, state: dict[str, Tensor], author: str) -> str:
    """The format of Detectron2's ImageNetPretrained/torchvision/R-50.pkl."""
    backbone = {k.removeprefix("detector.backbone."): v.numpy() for k, v in state.items() if ".backbone." in k}
    content = {"model": {**backbone, "stem.fc.weight": torch.randn(1000, 8).numpy()}, "__author__": author}
    path.write_bytes(pickle.dumps({**content, "matching_heuristics": True}))
    return str(path)


def test_own_weights(tmp_path: Path) -> None:
    model = build(tiny_cfg())
    model.class_names = ["a", "b", "c"]
    weights = read_weights(save(model, tmp_path))
    assert weights.class_names == ["a", "b", "c"]
    other = build(tiny_cfg(), randomize=False)
    load_weights(other, weights, complete=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("variant", ["conditional_detr", "detr"])
def test_official_files_are_loaded_as_they_are(tmp_path: Path, variant: str) -> None:
    model = build(tiny_resnet_cfg(variant)).eval()
    path = save_official(model, tmp_path / "checkpoint.pth")
    cfg = tiny_resnet_cfg(variant)
    cfg.MODEL.WEIGHTS = path
    require_weights(cfg)
    other = build(cfg, randomize=False).eval()
    load_weights(other, read_weights(path), complete=True)
    batch = make_batch([(64, 96), (80, 64)], [1, 1])
    with torch.no_grad():
        expected, found = model(batch), other(batch)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is BGR, the weights need RGB"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], r"MODEL.PIXEL_STD is \[1.0, 1.0, 1.0\], the weights need \[58.395"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True, "MODEL.RESNETS.STRIDE_IN_1X1 is True, the weights need False"),
        ("MODEL.RESNETS.RES5_DILATION", 2, "MODEL.RESNETS.RES5_DILATION is 2, the weights need 1"),
        ("MODEL.DETR.NUM_HEADS", 8, "MODEL.DETR.NUM_HEADS is 8, the weights need 4"),
    ],
)
def test_differences_that_would_lower_ap_in_silence(tmp_path: Path, key: str, value: object, message: str) -> None:
    cfg = tiny_resnet_cfg("conditional_detr")
    cfg.MODEL.WEIGHTS = save_official(build(cfg), tmp_path / "checkpoint.pth")
    cfg.merge_from_list([key, value])
    with pytest.raises(CheckpointError, match=rf"checkpoint.pth do not fit the config: {message}"):
        require_weights(cfg)


def test_model_zoo_backbone(tmp_path: Path) -> None:
    cfg = tiny_resnet_cfg()
    zoo = build(cfg).state_dict()
    cfg.MODEL.WEIGHTS = zoo_backbone(tmp_path / "R-50.pkl", zoo, "torchvision")
    require_weights(cfg)
    model = build(cfg, randomize=False)
    encoder = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("detector.encoder.")}
    load_weights(model, read_weights(cfg.MODEL.WEIGHTS))
    state = model.state_dict()
    for name, value in state.items():
        if ".backbone." in name:
            assert torch.equal(value, zoo[name]), name
    assert all(torch.equal(state[name], value) for name, value in encoder.items())
    with pytest.raises(CheckpointError, match=r"(?s)cannot be evaluated.*detector\.encoder\.\*.*random start"):
        load_weights(model, read_weights(cfg.MODEL.WEIGHTS), complete=True)
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(CheckpointError, match=r"INPUT.FORMAT is BGR, the weights need RGB"):
        require_weights(cfg)


def test_coco_weights_evaluate_and_start_a_training_on_other_classes(tmp_path: Path) -> None:
    """Ninety-one rows become COCO's eighty classes, from which those of the same name are taken."""
    coco = build(tiny_resnet_cfg("conditional_detr", NUM_CLASSES=80))
    weights = read_weights(save_official(coco, tmp_path / "coco.pth"))
    assert len(weights.class_names) == 80
    model = build(tiny_resnet_cfg("conditional_detr"))
    model.class_names = ["zebra", "person", "cat"]
    load_weights(model, weights, complete=True)
    rows = [weights.class_names.index(name) for name in model.class_names]
    assert torch.equal(model.detector.class_head.weight, coco.detector.class_head.weight[rows])
    model.class_names = ["zebra", "helmet", "cat"]
    load_weights(model, weights)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be evaluated.*rows of 2 classes"):
        load_weights(model, weights, complete=True)


def test_other_queries_can_be_trained_but_not_evaluated(tmp_path: Path) -> None:
    weights = read_weights(save(build(tiny_cfg()), tmp_path))
    model = build(tiny_cfg(NUM_QUERIES=5))
    load_weights(model, weights)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be evaluated.*query_embed.*7 x 32 *\| 5 x 32.*NUM_QUERIES"):
        load_weights(model, weights, complete=True)


def test_weights_of_another_model(tmp_path: Path) -> None:
    weights = read_weights(save(build(tiny_cfg("detr")), tmp_path))
    with pytest.raises(CheckpointError, match=r"(?s)model.pth: The weights are of another model.*MODEL.DETR.VARIANT"):
        load_weights(build(tiny_cfg()), weights)


def test_weights_that_do_not_exist() -> None:
    cfg = default_cfg()
    require_weights(cfg)
    cfg.MODEL.WEIGHTS = "/no/such.pth"
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS /no/such.pth does not exist.*MODEL.WEIGHTS \"\""):
        require_weights(cfg)


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    path = Path(save(build(tiny_cfg()), tmp_path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=rf"MODEL.WEIGHTS {path}: .* cannot be read"):
        read_weights(str(path))
    torch.save({"model": nn.Linear(2, 2).state_dict()}, path)
    with pytest.raises(CheckpointError, match="no known source"):
        read_weights(str(path))


def spoil(path: str, key: str, bad: float) -> None:
    content = torch.load(path, weights_only=False)
    content["model"][key].view(-1)[1] = bad
    torch.save(content, path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    """Own ones, and others under the names that they get here."""
    cfg = tiny_resnet_cfg("conditional_detr")
    for path, key in (
        (save(build(cfg), tmp_path), "detector.encoder.layers.0.norm1.bias"),
        (save_official(build(cfg), tmp_path / "official.pth"), "transformer.encoder.layers.0.norm1.bias"),
    ):
        spoil(path, key, bad)
        cfg.MODEL.WEIGHTS = path
        with pytest.raises(
            CheckpointError, match=rf"MODEL\.WEIGHTS {path}: detector\.encoder\.layers\.0\.norm1\.bias holds NaN or inf"
        ):
            require_weights(cfg)


@pytest.mark.parametrize("weights", ["detectron2://ImageNetPretrained/R-50.pkl", "http://127.0.0.1:9/R-50.pkl"])
def test_weights_that_cannot_be_reached(weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(FileNotFoundError, match=rf"MODEL.WEIGHTS {weights} cannot be fetched .*Download the file"):
        read_weights(weights)


def test_own_weights_say_what_they_need(tmp_path: Path) -> None:
    cfg = tiny_resnet_cfg("conditional_detr")
    AtomicCheckpointer(build(cfg), str(tmp_path), required_config=required_config(cfg)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    require_weights(cfg)
    for key, value in {"MODEL.DETR.LOSS.CLASSIFICATION": "softmax", "INPUT.FORMAT": "BGR"}.items():
        other = cfg.clone()
        other.merge_from_list([key, value])
        with pytest.raises(CheckpointError, match=f"{key} is {value}, the weights need"):
            require_weights(other)
    cfg.MODEL.DETR.VARIANT = "detr"
    with pytest.raises(CheckpointError, match=r"VARIANT is detr, the weights need conditional_detr"):
        require_weights(cfg)
    cfg.MODEL.DETR.VARIANT = "pair_detr"
    require_weights(cfg)


def test_own_weights_of_text_classifiers_say_what_they_need(tmp_path: Path) -> None:
    cfg = text_cfg(tmp_path, PAIR__CLASS_DECODER="top_left")
    AtomicCheckpointer(build(cfg), str(tmp_path), required_config=required_config(cfg)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    require_weights(cfg)
    for key, value in {"MODEL.CLIP.LOGIT_SCALE": 10.0, "MODEL.DETR.PAIR.CLASS_DECODER": "center"}.items():
        other = cfg.clone()
        other.merge_from_list([key, value])
        with pytest.raises(CheckpointError, match=f"{key} is {value}, the weights need"):
            require_weights(other)
    # Neither says anything about other models.
    assert not {"MODEL.CLIP.LOGIT_SCALE", "MODEL.DETR.PAIR.CLASS_DECODER"} & required_config(tiny_cfg("detr")).keys()


@pytest.mark.parametrize(("key", "value"), [("QUERIES", "content"), ("QUERIES", "position"), ("OBJECTNESS", True)])
def test_what_texts_are_used_for_is_part_of_the_weights(tmp_path: Path, key: str, value: object) -> None:
    """With more than the weights know a training can start, but nothing be evaluated; with less, neither."""
    plain = text_cfg(tmp_path)
    cfg = plain.clone()
    cfg.MODEL.CLIP[key] = value
    for own, name in ((plain, "plain"), (cfg, "own")):
        AtomicCheckpointer(build(own), str(tmp_path), required_config=required_config(own)).save(name)
    less = plain.clone()
    less.MODEL.WEIGHTS = str(tmp_path / "own.pth")
    with pytest.raises(CheckpointError, match=rf"MODEL\.CLIP\.{key} is .*, the weights need {value}"):
        require_weights(less)
    cfg.MODEL.WEIGHTS = str(tmp_path / "plain.pth")
    require_weights(cfg)
    weights = read_weights(cfg.MODEL.WEIGHTS)
    load_weights(build(cfg), weights)
    with pytest.raises(CheckpointError, match="cannot be evaluated"):
        load_weights(build(cfg), weights, complete=True)


def test_objectness_starts_with_a_bias_of_its_own(tmp_path: Path) -> None:
    """That of a classifier without would make each class of an object as rare as an object."""
    cfg = text_cfg(tmp_path)
    plain = build(cfg)
    cfg.MODEL.CLIP.OBJECTNESS = True
    model = build(cfg, randomize=False)
    result = adapt_state_dict(plain.state_dict(), model.state_dict())
    model.load_state_dict(result.state, strict=False)
    assert model.detector.class_head.object_bias == 0
    assert torch.equal(model.detector.class_head.projection.weight, plain.detector.class_head.projection.weight)


def test_ninety_one_own_classes(tmp_path: Path) -> None:
    cfg = tiny_resnet_cfg("conditional_detr", NUM_CLASSES=91)
    model = build(cfg)
    torch.save({"model": export_official(model.state_dict()).state}, tmp_path / "a.pth")
    other = build(cfg)
    load_weights(other, read_weights(str(tmp_path / "a.pth"), 91), complete=True)
    assert torch.equal(other.detector.class_head.weight, model.detector.class_head.weight)
    assert len(read_weights(str(tmp_path / "a.pth")).class_names) == 80
