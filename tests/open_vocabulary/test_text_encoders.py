"""Text encoders, against the packages' own models with random weights, and the tool that uses them."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pair_detr.open_vocabulary import (
    TextEncoder,
    Vocabulary,
    build_text_encoder,
    class_list,
    clip_models,
    encode_classes,
)
from pair_detr.tools import text_weights

with warnings.catch_warnings():
    # Of pkg_resources, which it imports.
    warnings.simplefilter("ignore")
    clip = pytest.importorskip("clip", reason="needs the package clip")
from clip.model import CLIP
from open_vocabulary_helpers import TINY_CLIP

open_clip = pytest.importorskip("open_clip", reason="needs the package open_clip")

TEXTS = ["a cat", "a photo of a dog", "a traffic cone"]


@pytest.fixture(scope="module")
def model() -> CLIP:
    """CLIP's own model, with random weights that half precision can hold."""
    torch.manual_seed(0)
    network = CLIP(**TINY_CLIP).eval()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
        parameter.data = parameter.data.half().float()
    return network


def openai_state(network: CLIP) -> dict[str, torch.Tensor]:
    """As in OpenAI's archives: with the three sizes that the modules have as buffers there."""
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return {**network.state_dict(), **{key: torch.tensor(value) for key, value in sizes.items()}}


def save_archive(network: CLIP, path: Path) -> None:
    """A TorchScript archive, which is what OpenAI publishes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, (torch.zeros(1, 3, 32, 32), clip.tokenize(["a"])), check_trace=False).save(path)


@pytest.fixture(scope="module")
def checkpoints(model: CLIP, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clip")
    paths = {name: folder / f"{name}.pt" for name in ("archive", "state", "openai", "wrapped")}
    save_archive(model, paths["archive"])
    torch.save(model.state_dict(), paths["state"])
    torch.save(openai_state(model), paths["openai"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, paths["wrapped"])
    paths["damaged"] = folder / "damaged.pt"
    paths["damaged"].write_bytes(paths["archive"].read_bytes()[:5000])
    paths["list"] = folder / "list.pt"
    torch.save([1, 2], paths["list"])
    paths["other"] = folder / "other.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), paths["other"])
    return paths


@torch.no_grad()
def expected_features(model: CLIP, texts: list[str]) -> torch.Tensor:
    return model.encode_text(clip.tokenize(texts, truncate=True))


@pytest.mark.parametrize("form", ["archive", "state", "openai", "wrapped"])
def test_clip_is_loaded_as_clips_own_model(model: CLIP, checkpoints: dict[str, Path], form: str) -> None:
    encoder = build_text_encoder("clip", checkpoints[form])
    expected = expected_features(model, TEXTS)
    assert expected.std(0).max() > 0.01
    torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)


def test_weights_are_not_rounded_to_half_precision(model: CLIP, tmp_path: Path) -> None:
    """As clip's own loader would."""
    state = {k: v + 1e-4 * torch.randn_like(v) for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "fine.pt")
    network = CLIP(**TINY_CLIP).eval()
    network.load_state_dict(state)
    found = build_text_encoder("clip", tmp_path / "fine.pt").encode(TEXTS)
    torch.testing.assert_close(found, expected_features(network, TEXTS), atol=1e-6, rtol=1e-5)


def test_token_ids(checkpoints: dict[str, Path]) -> None:
    encoder = build_text_encoder("clip", checkpoints["archive"])
    short, long = encoder.tokenize(["a photo of a cat", "cat " * 200])
    assert short[:8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert short.shape == long.shape == (77,)
    # Cut, but the end token, where CLIP reads the embedding, is there.
    assert (long[0].item(), long[75].item(), long[76].item()) == (49406, 2368, 49407)


def add_open_clip_model(folder: Path, name: str, quick_gelu: bool, **text: object) -> None:
    config = {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2, **text},
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")


def test_open_clip(model: CLIP, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """With QuickGELU it is CLIP's model; without, another, as open_clip's own."""
    add_open_clip_model(tmp_path, "tiny-quickgelu", quick_gelu=True)
    add_open_clip_model(tmp_path, "tiny", quick_gelu=False)
    expected = expected_features(model, TEXTS)
    for form in ("archive", "state", "openai"):
        encoder = build_text_encoder("open_clip:tiny-quickgelu", checkpoints[form])
        torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)
    assert encoder.tokenize(["a photo of a cat"])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]

    own = open_clip.create_model("tiny", pretrained=str(checkpoints["state"])).eval()
    found = build_text_encoder("open_clip:tiny", checkpoints["state"]).encode(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(found, own.encode_text(open_clip.get_tokenizer("tiny")(TEXTS)))
    assert (found - expected).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"OpenAI's.*QuickGELU.*open_clip:tiny-quickgelu"):
        build_text_encoder("open_clip:tiny", checkpoints["openai"])


def test_open_clip_needs_no_network_for_its_tokenizer(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    add_open_clip_model(tmp_path, "tiny-hf", quick_gelu=False, hf_tokenizer_name="somebody/something")
    with pytest.raises(ValueError, match="tokenizer of open_clip:tiny-hf would have to be downloaded"):
        build_text_encoder("open_clip:tiny-hf", checkpoints["state"])
    with pytest.raises(ValueError, match=r'open_clip has no model "hf-hub:a/b"'):
        build_text_encoder("open_clip:hf-hub:a/b", checkpoints["state"])


@pytest.mark.parametrize("name", ["clip:ViT-B/32", "clip:ViT-L/14@336px", "clip", "open_clip:ViT-B-32-quickgelu"])
def test_missing_weights_name_both_ways_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_models, "_CLIP_CACHE", tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was used"))
    for checkpoint in ("", tmp_path / "nowhere.pt"):
        with pytest.raises(FileNotFoundError, match=r"(?s)nothing is downloaded.*--checkpoint.*TEXT_WEIGHTS") as error:
            build_text_encoder(name, checkpoint)
        assert name in str(error.value)
    assert "nowhere.pt" in str(error.value)


def test_weights_that_clip_has_downloaded_are_found(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_models, "_CLIP_CACHE", tmp_path)
    monkeypatch.setitem(clip_models._CLIP_DIMS, "ViT-L/14@336px", TINY_CLIP["embed_dim"])
    (tmp_path / "ViT-L-14-336px.pt").write_bytes(checkpoints["archive"].read_bytes())
    assert build_text_encoder("clip:ViT-L/14@336px").encode(["a"]).shape == (1, 24)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("clip:ViT-B/32", "state", "embeddings of width 24, but those of clip:ViT-B/32 have 512"),
        ("clip:ViT-B32", "state", r'clip has no model "ViT-B32"; choose one of RN50'),
        ("bert:base", "state", r'no model "bert:base" of CLIP: choose clip:<model> or open_clip'),
        ("clip", "damaged", r"damaged\.pt cannot be read"),
        ("clip", "list", r"list\.pt does not hold a state dict"),
        ("clip", "other", r"other\.pt does not hold a model of CLIP's"),
        ("open_clip:ViT-B-32-quickgelu", "other", r"other\.pt does not hold the weights of open_clip:ViT-B-32"),
    ],
)
def test_bad_encoders(checkpoints: dict[str, Path], name: str, form: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_text_encoder(name, checkpoints[form])


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name, remedy in (
        ("clip", "clip:RN50", "pip install clip-anytorch"),
        ("open_clip", "open_clip:RN50", "pip install open_clip_torch"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=remedy):
            build_text_encoder(name)


class TableEncoder(TextEncoder):
    """Random vectors: those of a class have little in common, so that each normalization makes a difference."""

    name = "table"

    def __init__(self) -> None:
        self.vectors: dict[str, np.ndarray] = {}

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        for text in texts:
            self.vectors.setdefault(text, np.random.randn(6) * np.random.uniform(1, 9))
        return torch.tensor(np.stack([self.vectors[text] for text in texts]), dtype=torch.float32)


def test_prompts_and_synonyms_are_averaged() -> None:
    encoder = TableEncoder()
    classes = class_list(["traffic_cone", "sofa"], [["traffic_cone"], ["sofa", "couch"]])
    prompts = ["a {}", "a photo of a {}."]

    def unit(text: str) -> np.ndarray:
        encoder.encode([text])
        return encoder.vectors[text] / np.linalg.norm(encoder.vectors[text])

    def word(text: str) -> np.ndarray:
        mean = (unit(f"a {text}") + unit(f"a photo of a {text}.")) / 2
        return mean / np.linalg.norm(mean)

    sofa = (word("sofa") + word("couch")) / 2
    expected = np.stack([word("traffic cone"), sofa / np.linalg.norm(sofa)])
    vocabulary = encode_classes(encoder, classes, prompts)
    assert vocabulary.names == ("traffic_cone", "sofa")
    np.testing.assert_allclose(vocabulary.weights.numpy(), expected, atol=1e-5)
    alone = encode_classes(encoder, classes, prompts, use_synonyms=False)
    np.testing.assert_allclose(alone.weights[1].numpy(), word("sofa"), atol=1e-5)
    for bad in ([], ["a cat"], ["a {} {}"]):
        with pytest.raises(ValueError, match=r'Prompts need one "\{\}"'):
            encode_classes(encoder, classes, bad)


def test_tool_writes_weights_and_description(model: CLIP, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "x.npy"
    arguments = ["--vocabulary", "cat,sofa|couch", "--encoder", "clip", "--checkpoint", str(checkpoints["archive"])]
    text_weights.main([*arguments, "--prompt", "a {}", "the {}", "--output", str(output)])
    described = json.loads(output.with_suffix(".json").read_text())
    assert described["names"] == ["cat", "sofa"]
    assert described["synonyms"] == [["cat"], ["sofa", "couch"]]
    assert described["prompts"] == ["a {}", "the {}"]
    assert (described["encoder"], described["dimension"]) == ("clip", 24)
    features = F.normalize(expected_features(model, ["a cat", "the cat"]), dim=-1).mean(0)
    torch.testing.assert_close(Vocabulary.load(output).weights[0], F.normalize(features, dim=0), atol=1e-5, rtol=1e-4)


def test_tool_without_weights_ends_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for options, message in (
        (["--vocabulary", "coco", "--checkpoint", str(tmp_path / "nowhere.pt")], "two ways out"),
        (["--vocabulary", "objects365"], "DETECTRON2_DATASETS"),
        (["--vocabulary", "coco", "--encoder", "bert"], "no model .* of CLIP"),
    ):
        with pytest.raises((OSError, ValueError, ImportError), match=message):
            text_weights.main([*options, "--output", str(tmp_path / "x.npy")])
    with pytest.raises(SystemExit):
        text_weights.main(["--vocabulary", "coco", "--output", str(tmp_path / "x.pt")])
    assert "must end with .npy" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tool_looks_at_the_output_first(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"images": []}')
    with pytest.raises((OSError, ValueError), match=r"x\.json would be overwritten"):
        text_weights.main(["--vocabulary", "coco", "--output", str(tmp_path / "x.npy")])
