"""Dense maps of vision transformers with random weights, against the packages' own and written-out sums."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_vocabulary_helpers import TINY_CLIP
from PIL import Image
from torch import nn

from pair_detr.studies.dense_maps import (
    CORRELATIVE,
    PLAIN,
    attend,
    class_maps,
    crop,
    encode_tokens,
    is_vision_transformer,
    load_encoders,
    resolution_of,
)

with warnings.catch_warnings():
    # Of pkg_resources, which it imports.
    warnings.simplefilter("ignore")
    clip = pytest.importorskip("clip", reason="needs the package clip")
from clip.model import CLIP

open_clip = pytest.importorskip("open_clip", reason="needs the package open_clip")

# Three by three patches, two heads.
SIZES = TINY_CLIP | {"vision_layers": 3, "vision_width": 128, "image_resolution": 48}


def make_encoder(family: str) -> nn.Module:
    torch.manual_seed(0)
    if family == "clip":
        encoder = CLIP(**SIZES).visual
    else:
        encoder = open_clip.transformer.VisionTransformer(48, 16, 128, 3, 2, 4.0, ls_init_value=0.3, output_dim=24)
    for parameter in encoder.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return encoder.eval()


@pytest.mark.parametrize("family", ["clip", "open_clip"])
def test_plain_attention_gives_the_embedding_of_the_package(family: str) -> None:
    encoder = make_encoder(family)
    assert is_vision_transformer(encoder)
    images = torch.randn(2, 3, 48, 48)
    tokens = encode_tokens(encoder, images, PLAIN)
    assert tokens.shape == (2, 10, 24)
    with torch.no_grad():
        torch.testing.assert_close(tokens[:, 0], encoder(images))
    assert not torch.allclose(tokens, encode_tokens(encoder, images, CORRELATIVE), atol=1e-2)


def test_plain_attention_is_that_of_the_layer() -> None:
    layer, x = nn.MultiheadAttention(32, 4, batch_first=True), torch.randn(2, 5, 32)
    nn.init.normal_(layer.in_proj_bias)
    torch.testing.assert_close(attend(layer, x, PLAIN), layer(x, x, x, need_weights=False)[0])


def test_correlative_attention_written_out() -> None:
    """A head at a time: each token takes the values of those with like queries, and of those with like keys."""
    layer, x = nn.MultiheadAttention(12, 3, batch_first=True), torch.randn(1, 5, 12)
    nn.init.normal_(layer.in_proj_bias)
    query, key, value = (x[0] @ layer.in_proj_weight.T + layer.in_proj_bias).split(12, dim=1)
    heads = []
    for start in (0, 4, 8):
        own_query, own_key, own_value = (part[:, start : start + 4] for part in (query, key, value))
        weights = (own_query @ own_query.T / 2).softmax(1) + (own_key @ own_key.T / 2).softmax(1)
        heads.append(weights @ own_value)
    expected = layer.out_proj(torch.cat(heads, dim=1))
    torch.testing.assert_close(attend(layer, x, CORRELATIVE)[0], expected)


def test_queries_that_are_the_keys_make_it_plain_attention_twice() -> None:
    layer, x = nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(1, 6, 16)
    with torch.no_grad():
        layer.in_proj_weight[16:32] = layer.in_proj_weight[:16]
        layer.out_proj.bias.zero_()
    torch.testing.assert_close(attend(layer, x, CORRELATIVE), 2 * attend(layer, x, PLAIN))


@pytest.mark.parametrize("family", ["clip", "open_clip"])
def test_maps_are_cosines_in_the_order_of_patches(family: str) -> None:
    encoder, rows = make_encoder(family), torch.randn(4, 24)
    images = torch.randn(2, 3, 48, 48)
    maps = class_maps(encoder, images, rows)
    assert maps.shape == (2, 4, 3, 3)
    tokens = encode_tokens(encoder, images)
    expected = F.cosine_similarity(tokens[1, 1 + 3 * 2 + 1], rows)
    torch.testing.assert_close(maps[1, :, 2, 1], expected)


def test_crops_are_as_the_package_prepares_images() -> None:
    encoder = make_encoder("clip")
    assert resolution_of(encoder) == 48
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    expected, prepared = clip.clip._transform(48)(image.crop((10, 5, 50, 45))), crop(encoder, image, (10, 5, 50, 45))
    # At the edges, the pixels next to the box also count.
    torch.testing.assert_close(prepared[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4])
    square = image.crop((0, 0, 60, 60))
    torch.testing.assert_close(crop(encoder, square, (0, 0, 60, 60)), clip.clip._transform(48)(square))
    # What is outside of the image is left out.
    torch.testing.assert_close(crop(encoder, image, (-5, -5, 90, 70)), crop(encoder, image, (0, 0, 90, 60)))


def test_checkpoints_are_loaded(tmp_path: Path) -> None:
    torch.save(CLIP(**SIZES).state_dict(), tmp_path / "vit.pt")
    encoder, text_encoder = load_encoders("clip", tmp_path / "vit.pt")
    assert resolution_of(encoder) == 48
    assert text_encoder.encode(["a cat"]).shape == (1, 24)
    resnet = SIZES | {"vision_layers": (1, 1, 1, 1), "vision_width": 64, "image_resolution": 64}
    torch.save(CLIP(**resnet).state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(ValueError, match="no vision transformer as CLIP's"):
        load_encoders("clip", tmp_path / "resnet.pt")


def test_other_transformers_are_told_apart() -> None:
    pooled = open_clip.transformer.VisionTransformer(48, 16, 128, 1, 2, 4.0, output_dim=24, pool_type="avg")
    assert not is_vision_transformer(pooled)
    assert not is_vision_transformer(nn.Linear(2, 2))
