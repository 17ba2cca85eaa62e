"""Maps of classes from the patches of a CLIP vision transformer, which was trained for whole images."""

import os
from math import isqrt

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor

from pair_detr.open_vocabulary import TextEncoder, build_text_encoder
from pair_detr.open_vocabulary.image_encoders import build_image_encoder

# How the last block mixes patches: as trained, or each with those that are like it.
PLAIN, CORRELATIVE = "plain", "correlative"

# Of OpenAI's preprocessing, which most of open_clip's models have kept.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PARTS = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")


def load_encoders(name: str, checkpoint: str | os.PathLike) -> tuple[nn.Module, TextEncoder]:
    """The vision transformer of a checkpoint and its text encoder; for arguments and errors see ``build_text_encoder``.

    Raises:
        ValueError: also if the image encoder is another network.
    """
    text_encoder, encoder = build_text_encoder(name, checkpoint), build_image_encoder(name, checkpoint)
    if not is_vision_transformer(encoder):
        raise ValueError(
            f"The image encoder of {name} is no vision transformer as CLIP's: dense maps need one, such as "
            "clip:ViT-B/16 or open_clip:ViT-B-16."
        )
    return encoder, text_encoder


def is_vision_transformer(encoder: nn.Module) -> bool:
    """Whether an image encoder has the parts of CLIP's own, and takes its class token for the image."""
    if any(getattr(encoder, part, None) is None for part in _PARTS):
        return False
    if getattr(encoder, "attn_pool", None) is not None or getattr(encoder, "pool_type", "tok") != "tok":
        return False
    attention = getattr(encoder.transformer.resblocks[-1], "attn", None)
    return isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None


def resolution_of(encoder: nn.Module) -> int:
    """Side of the square images that a vision transformer was trained with, in pixels."""
    return isqrt(len(encoder.positional_embedding) - 1) * encoder.conv1.kernel_size[0]


def crop(encoder: nn.Module, image: Image.Image, box: tuple[float, float, float, float]) -> Tensor:
    """(3, R, R) what is in a box of an RGB image, xyxy in pixels, resized and normalized as the encoder takes it."""
    left, top, right, bottom = box
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    side = resolution_of(encoder)
    resized = image.resize((side, side), Image.Resampling.BICUBIC, box=inside)
    own = getattr(encoder, "preprocess_cfg", {})
    return normalize(pil_to_tensor(resized) / 255, own.get("mean", _MEAN), own.get("std", _STD))


@torch.no_grad()
def encode_tokens(encoder: nn.Module, images: Tensor, attention: str = CORRELATIVE) -> Tensor:
    """Embeddings of the class token and of all patches, in the space of the texts.

    With correlative attention, the last block mixes each patch with those that have like queries and with those that
    have like keys: softmax(q q^T) + softmax(k k^T), in place of softmax(q k^T), each divided by the root of the width.
    All else is as trained. Source: SCLIP (arXiv 2312.01597), as its code has it.

    Args:
        images: (B, 3, R, R), see :func:`crop`.
        attention: :data:`PLAIN` or :data:`CORRELATIVE`.

    Returns:
        (B, 1 + N, D), the class token first; with plain attention, that is the embedding of the image.
    """
    x = encoder.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([encoder.class_embedding.expand(len(x), 1, -1), x], dim=1) + encoder.positional_embedding
    x = encoder.ln_pre(x)
    *blocks, last = encoder.transformer.resblocks
    # The packages order axes differently.
    batch_first = last.attn.batch_first
    x = x if batch_first else x.transpose(0, 1)
    for block in blocks:
        x = block(x)
    x = x if batch_first else x.transpose(0, 1)
    # The learned scales that some of open_clip's models have.
    scale_1, scale_2 = (getattr(last, name, nn.Identity()) for name in ("ls_1", "ls_2"))
    x = x + scale_1(attend(last.attn, last.ln_1(x), attention))
    x = x + scale_2(last.mlp(last.ln_2(x)))
    return encoder.ln_post(x) @ encoder.proj


def attend(layer: nn.MultiheadAttention, x: Tensor, attention: str) -> Tensor:
    """Self-attention of (B, N, W) tokens with the weights of a layer, see :func:`encode_tokens`."""
    projected = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    query, key, value = projected.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if attention == PLAIN:
        mixed = F.scaled_dot_product_attention(query, key, value)
    else:
        mixed = sum(F.scaled_dot_product_attention(own, own, value) for own in (query, key))
    return layer.out_proj(mixed.transpose(1, 2).flatten(2))


def class_maps(encoder: nn.Module, images: Tensor, rows: Tensor, attention: str = CORRELATIVE) -> Tensor:
    """(B, C, h, w) cosines of the patches of images with (C, D) text rows, a map for each class."""
    patches = F.normalize(encode_tokens(encoder, images, attention)[:, 1:], dim=-1)
    cosines = patches @ F.normalize(rows, dim=-1).T
    return cosines.transpose(1, 2).unflatten(2, (isqrt(patches.shape[1]), -1))
