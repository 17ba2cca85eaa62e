"""Image encoders, against the packages' own models with random weights."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from pair_detr.open_vocabulary import build_image_encoder, clip_models
from pair_detr.open_vocabulary.image_encoders import clip_resnet_shape, is_clip_resnet, random_clip_resnet

with warnings.catch_warnings():
    # Of pkg_resources, which it imports.
    warnings.simplefilter("ignore")
    clip = pytest.importorskip("clip", reason="needs the package clip")
from clip.model import CLIP
from clip_helpers import EMBED_DIM, TINY_RESNET_CLIP, make_clip, randomize
from open_vocabulary_helpers import TINY_CLIP

open_clip = pytest.importorskip("open_clip", reason="needs the package open_clip")


def openai_state(network: CLIP) -> dict[str, torch.Tensor]:
    """As in OpenAI's archives: matrices and convolutions in half precision, and three sizes."""
    state = {key: x.half() if x.dim() > 1 and x.is_floating_point() else x for key, x in network.state_dict().items()}
    return state | {key: torch.tensor(64) for key in ("input_resolution", "context_length", "vocab_size")}


def save(network: CLIP, path: Path, form: str) -> Path:
    if form == "archive":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.long)
            torch.jit.trace(network, inputs, check_trace=False).save(path)
    else:
        torch.save(openai_state(network) if form == "openai" else network.state_dict(), path)
    return path


@pytest.mark.parametrize("form", ["archive", "openai", "state"])
def test_clip_s_resnet_encodes_as_clip_does(tmp_path: Path, form: str) -> None:
    network = make_clip()
    encoder = build_image_encoder("clip", save(network, tmp_path / "clip.pt", form))
    assert is_clip_resnet(encoder) and not encoder.training
    assert {x.dtype for x in encoder.parameters()} == {torch.float32}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.encode_image(images)
        assert expected.std(0).max() > 0.01
        torch.testing.assert_close(encoder(images), expected)


def test_transformers_are_built_for_other_uses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CLIP(**TINY_CLIP).eval()
    torch.save(network.state_dict(), tmp_path / "vit.pt")
    encoder = build_image_encoder("clip", tmp_path / "vit.pt")
    assert not is_clip_resnet(encoder)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), network.encode_image(images))


def add_open_clip_resnet(folder: Path) -> nn.Module:
    """Registers "tiny-rn" with open_clip and saves one with random weights."""
    config = {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 128, "patch_size": None},
        "text_cfg": {"context_length": 77, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1},
    }
    (folder / "tiny-rn.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-rn.json")
    torch.manual_seed(0)
    network = open_clip.create_model("tiny-rn").eval()
    randomize(network.visual)
    torch.save(network.state_dict(), folder / "tiny-rn.pt")
    return network


def test_open_clip_s_resnet(tmp_path: Path) -> None:
    network = add_open_clip_resnet(tmp_path)
    encoder = build_image_encoder("open_clip:tiny-rn", tmp_path / "tiny-rn.pt")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), network.encode_image(images))
    shape = clip_resnet_shape("open_clip:tiny-rn")
    assert (shape.blocks, shape.embed_dim, shape.num_heads) == ((1, 2, 1, 1), EMBED_DIM, 2)
    random = random_clip_resnet("open_clip:tiny-rn")
    assert random.attnpool.num_heads == encoder.attnpool.num_heads == 2
    random.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(random(images), encoder(images))


@pytest.mark.parametrize("model", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"])
def test_sizes_are_those_that_open_clip_knows(model: str) -> None:
    """Its configs are an independent source."""
    assert clip_resnet_shape(f"clip:{model}") == clip_resnet_shape(f"open_clip:{model}")


def test_random_resnet_has_the_names_of_clip_s() -> None:
    with torch.device("meta"):
        encoder, other = random_clip_resnet("clip:RN50x4"), random_clip_resnet("open_clip:RN50x4")
    shapes, others = ({key: x.shape for key, x in network.state_dict().items()} for network in (encoder, other))
    assert shapes == others
    assert shapes["attnpool.positional_embedding"] == (82, 2560)
    with pytest.raises(ValueError, match='"clip" does not say which model it is: name it, as clip:RN50'):
        random_clip_resnet("clip")


@pytest.mark.parametrize("name", ["clip:ViT-B/32", "open_clip:ViT-B-32", "open_clip:convnext_base"])
def test_other_image_encoders_are_no_backbones(name: str) -> None:
    with pytest.raises(ValueError, match=rf"image encoder of {name} is no ResNet.*MODEL\.CLIP\.ENCODER .* clip:RN50"):
        clip_resnet_shape(name)


def test_names_without_a_model() -> None:
    assert clip_resnet_shape("clip") is None
    for name, message in (
        ("clip:RN51", r'clip has no model "RN51"; choose one of RN50'),
        ("open_clip:RN51", r'open_clip has no model "RN51"'),
        ("timm:resnet50", r'no model "timm:resnet50" of CLIP: choose clip:<model>'),
    ):
        with pytest.raises(ValueError, match=message):
            clip_resnet_shape(name)


def test_missing_weights_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_models, "_CLIP_CACHE", tmp_path)
    for name in ("clip:RN50", "open_clip:RN50"):
        with pytest.raises(FileNotFoundError, match=r"nothing is downloaded.*MODEL\.CLIP\.CHECKPOINT.*image encoder"):
            build_image_encoder(name, tmp_path / "nowhere.pt")
    torch.save(make_clip().state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=r"embeddings of width 24, but those of clip:RN50 have 1024"):
        build_image_encoder("clip:RN50", tmp_path / "tiny.pt")
    for package, name, remedy in (
        ("clip", "clip:RN50", "pip install clip-anytorch"),
        ("open_clip", "open_clip:RN50", "pip install open_clip_torch"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=remedy):
            build_image_encoder(name)


def test_the_tiny_model_is_a_resnet() -> None:
    """What the tests of the backbone stand on."""
    assert isinstance(CLIP(**TINY_RESNET_CLIP).visual, clip.model.ModifiedResNet)
