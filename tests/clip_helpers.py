"""Random models of CLIP's structure, with a ResNet so small that tests can run it."""

from pathlib import Path
from typing import Any

import torch
from clip.model import CLIP
from detectron2.config import CfgNode
from model_helpers import tiny_cfg
from open_vocabulary_helpers import make_texts
from torch import nn

from pair_detr.open_vocabulary import Vocabulary

EMBED_DIM = 24
# Of the attention pool, in cells of 32 pixels.
GRID = 2
# Arguments of clip's own model.
TINY_RESNET_CLIP = {
    "embed_dim": EMBED_DIM,
    "image_resolution": 32 * GRID,
    "vision_layers": (1, 2, 1, 1),
    "vision_width": 8,
    "vision_patch_size": None,
    "context_length": 77,
    "vocab_size": 100,
    "transformer_width": 64,
    "transformer_heads": 1,
    "transformer_layers": 1,
}
NAMES = ("cat", "dog", "traffic cone", "helmet")


def randomize(encoder: nn.Module) -> None:
    """Gives batch norms statistics, which are 0 and 1 in a fresh model, and weights, which are 0 at the end of blocks.

    Convolutions keep the size of their inputs: otherwise all images would have the same embedding.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.3)


def make_clip(**options: Any) -> CLIP:
    """clip's own model, with random weights that half precision can hold, in fp32."""
    torch.manual_seed(0)
    network = CLIP(**TINY_RESNET_CLIP | options).eval()
    randomize(network.visual)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    return network


def clip_cfg(folder: Path, network: CLIP, variant: str = "conditional_detr", **region: Any) -> CfgNode:
    """A tiny detector on the image encoder of ``network``, with texts for :data:`NAMES` and region scores.

    Args:
        folder: for checkpoint and text weights.
        network: of clip.
        variant: MODEL.DETR.VARIANT.
        region: keys of MODEL.CLIP.REGION.
    """
    torch.save(network.state_dict(), folder / "clip.pt")
    Vocabulary(NAMES, make_texts(len(NAMES), EMBED_DIM)).save(folder / "clip_texts.npy")
    cfg = tiny_cfg(variant)
    cfg.MODEL.BACKBONE.NAME = "build_clip_backbone"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [122.7709, 116.7460, 104.0937], [68.5005, 66.6322, 70.3232]
    cfg.MODEL.CLIP.ENCODER, cfg.MODEL.CLIP.CHECKPOINT = "clip", str(folder / "clip.pt")
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(folder / "clip_texts.npy")
    cfg.MODEL.CLIP.REGION.ENABLED = True
    # Novel is the last one.
    cfg.MODEL.CLIP.REGION.BASE_CLASSES = NAMES[:-1]
    for key, value in region.items():
        cfg.MODEL.CLIP.REGION[key] = value
    return cfg
