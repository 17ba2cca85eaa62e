from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from hub_helpers import ask_at, running_hub
from model_helpers import build, tiny_cfg
from safetensors.torch import save

from pair_detr.checkpoint import hub
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.config_files import load_config
from pair_detr.recipes import starting_point
from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware
from pair_detr.recipes.starting_point import COCO_WEIGHTS, NO_WEIGHTS, find_start

DATA = DataSummary(205, 3, 13.7, 28, 480, 4 / 3, 0.186, 0.17, have_masks=False)
CPU = Hardware("cpu", "a CPU", 2)
GPU = Hardware("cuda", "a GPU", 16, memory=78.0, has_bf16=True)


@pytest.fixture(scope="module")
def backbone() -> dict[str, torch.Tensor]:
    return timm.create_model("mobilenetv2_100").state_dict()


@pytest.fixture(autouse=True)
def _nothing_is_fetched() -> None:
    hub._fetch.cache_clear()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[str]:
    """A checkpoint of this package."""
    cfg = tiny_cfg("conditional_detr")
    cfg.INPUT.MIN_SIZE_TRAIN = (72,)
    cfg.SOLVER.BASE_LR = 123.0
    model = build(cfg)
    model.class_names = ["cat", "dog", "owl"]
    AtomicCheckpointer(model, str(tmp_path), config_text=cfg.dump()).save("model_final")
    return str(tmp_path / "model_final.pth")


def test_a_backbone_is_that_of_the_small_network(tmp_path: Path, backbone: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "imagenet.pth"
    torch.save(backbone, file)
    for machine in (CPU, GPU):
        start = find_start(str(file), DATA, machine)
        assert str(file) == start.cfg.MODEL.TIMM.WEIGHTS
        assert start.cfg.MODEL.BACKBONE.NAME == "build_timm_backbone"
        assert not start.detects


def test_other_weights_are_refused(tmp_path: Path, backbone: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "half.pth"
    torch.save(dict(list(backbone.items())[:50]), file)
    with pytest.raises(CheckpointError, match=r"half\.pth"):
        find_start(str(file), DATA, CPU)


def test_on_a_cpu_imagenet_s_come_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: dict[str, torch.Tensor]
) -> None:
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        server.repos["timm/mobilenetv2_100.ra_in1k"] = {"model.safetensors": save(backbone)}
        start = find_start("", DATA, CPU)
    assert start.cfg.MODEL.TIMM.WEIGHTS.startswith("hub://timm/mobilenetv2_100")
    assert server.requests
    cfg = start.cfg
    cfg.MODEL.DEVICE, cfg.MODEL.DETR.NUM_CLASSES = "cpu", 3
    # From the cache, now that the hub is gone.
    stem = build(cfg).detector.backbone.model.conv_stem.weight
    torch.testing.assert_close(stem, backbone["conv_stem.weight"])


@pytest.mark.parametrize(("machine", "named"), [(CPU, "hub://timm/mobilenetv2"), (GPU, COCO_WEIGHTS)])
def test_without_a_network_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Hardware, named: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ask_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"(?s){named}.*--weights.*--weights none"):
        find_start("", DATA, machine)


def test_a_file_that_does_not_exist_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such\.pth.*no such file.*--weights"):
        find_start("no_such.pth", DATA, CPU)


def test_an_own_checkpoint_keeps_its_network_and_image_sizes_alone(own: str) -> None:
    start = find_start(own, DATA, CPU)
    cfg = start.cfg
    assert (start.detects, start.fixes_sizes) == (True, True)
    assert own == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.BACKBONE.NAME == "build_convnet_backbone"
    assert cfg.MODEL.DETR.VARIANT == "conditional_detr"
    assert cfg.INPUT.MIN_SIZE_TRAIN == (72,)
    # The classes are those of the new data, and so is the schedule.
    assert cfg.MODEL.DETR.NUM_CLASSES == 0
    assert load_config("finetune/r50").SOLVER.BASE_LR == cfg.SOLVER.BASE_LR


def test_masks_are_learned_where_the_data_have_them(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    original = starting_point.config_of
    monkeypatch.setattr(starting_point, "config_of", lambda weights: original(weights, ["MODEL.MASK_ON", "True"]))
    assert not find_start(own, DATA, CPU).cfg.MODEL.MASK_ON
    with_masks = DataSummary(205, 3, 13.7, 28, 480, 4 / 3, 0.186, 0.17, have_masks=True)
    assert find_start(own, with_masks, CPU).cfg.MODEL.MASK_ON


def test_a_classifier_of_texts_needs_texts(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    original = starting_point.config_of
    monkeypatch.setattr(
        starting_point, "config_of", lambda weights: original(weights, ["MODEL.CLIP.TEXT_WEIGHTS", "texts.npy"])
    )
    with pytest.raises(ValueError, match="texts of your classes"):
        find_start(own, DATA, CPU)


@pytest.mark.parametrize(
    ("config", "variant"),
    [("conditional_detr/r50", "pair_detr"), ("conditional_detr/r101", "conditional_detr"), ("detr/dc5_r50", "detr")],
)
def test_coco_s_detectors(monkeypatch: pytest.MonkeyPatch, own: str, config: str, variant: str) -> None:
    """Pair DETR starts from Conditional DETR with ResNet-50; the others are trained as what they are."""
    monkeypatch.setattr(starting_point, "config_of", lambda weights: load_config(config))
    monkeypatch.setattr(starting_point, "fetch_weights", lambda weights: own)
    monkeypatch.setattr(starting_point, "CONFIG_TEXT", "absent")
    cfg = find_start(own, DATA, GPU).cfg
    assert variant == cfg.MODEL.DETR.VARIANT
    assert load_config(config).MODEL.RESNETS == cfg.MODEL.RESNETS
    assert cfg.MODEL.DETR.NUM_CLASSES == 0


def test_random_weights_train_their_norms() -> None:
    start = find_start(NO_WEIGHTS, DATA, GPU)
    assert (start.cfg.MODEL.TIMM.WEIGHTS, start.cfg.MODEL.TIMM.NORM) == ("", "BN")
