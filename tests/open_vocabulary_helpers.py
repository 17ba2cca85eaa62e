"""Text weights, models and text encoders so small that tests can make them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from model_helpers import build, tiny_cfg
from torch import Tensor

from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.open_vocabulary import Vocabulary

TEXT_DIM = 12
NAMES = ("helmet", "forklift", "traffic cone")
# Arguments of clip's own model.
TINY_CLIP = {
    "embed_dim": 24,
    "image_resolution": 32,
    "vision_layers": 1,
    "vision_width": 64,
    "vision_patch_size": 16,
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 64,
    "transformer_heads": 1,
    "transformer_layers": 2,
}
PUBLISHED = {
    "coco": ("coco_clip_a+cname.npy", 80),
    "lvis": ("lvis_v1_clip_a+cname.npy", 1203),
    "objects365": ("o365_clip_a+cnamefix.npy", 365),
    "openimages": ("oid_clip_a+cname.npy", 500),
}


def make_texts(count: int, dim: int = TEXT_DIM, seed: int = 0) -> Tensor:
    """(count, dim) vectors that share most of their direction, as texts do, of lengths around 10."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, dim, generator=generator)
    return 3 * (shared + 0.7 * torch.randn(count, dim, generator=generator))


def make_vocabulary(names: Sequence[str] = NAMES, dim: int = TEXT_DIM, seed: int = 0) -> Vocabulary:
    return Vocabulary(tuple(names), make_texts(len(names), dim, seed), {"encoder": "test"})


def text_cfg(folder: Path, variant: str = "pair_detr", names: Sequence[str] = NAMES, **detr: Any) -> CfgNode:
    """:func:`model_helpers.tiny_cfg` with a text classifier for ``names``."""
    path = folder / "texts.npy"
    make_vocabulary(names).save(path)
    cfg = tiny_cfg(variant, **detr)
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(path)
    return cfg


def build_text_model(folder: Path, variant: str = "pair_detr", **detr: Any) -> DetectionTransformer:
    """The model of :func:`text_cfg`, its constants randomized but for the texts."""
    model = build(text_cfg(folder, variant, **detr))
    vocabulary = make_vocabulary()
    model.set_vocabulary(vocabulary.names, vocabulary.weights)
    return model
