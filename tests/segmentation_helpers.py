"""Models, batches and a plain mask head that the tests of masks share."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks
from model_helpers import build, make_batch, tiny_cfg, tiny_resnet_cfg
from torch import Tensor

from pair_detr.modeling.mask_head import MaskHead
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import MaskQueries


def mask_cfg(variant: str = "pair_detr", resnet: bool = False, **detr: Any) -> CfgNode:
    """A tiny model with masks; arguments as for :func:`model_helpers.tiny_cfg`."""
    cfg = (tiny_resnet_cfg if resnet else tiny_cfg)(variant, **detr)
    cfg.MODEL.MASK_ON = True
    return cfg


def panoptic_cfg(variant: str, name: str) -> CfgNode:
    """A tiny panoptic model of a dataset with two things and two stuffs, which is made up here."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        metadata.set(
            thing_classes=["cat", "dog", "sky", "sea"],
            stuff_classes=["cat", "dog", "sky", "sea"],
            thing_dataset_id_to_contiguous_id={1: 0, 2: 1},
            stuff_dataset_id_to_contiguous_id={5: 2, 6: 3},
        )
    cfg = mask_cfg(variant, NUM_CLASSES=4, PANOPTIC__ENABLED=True, PANOPTIC__SCORE_THRESHOLD=0.2)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    return cfg


@torch.no_grad()
def build_sharp(cfg: CfgNode) -> DetectionTransformer:
    """A model whose queries have masks of their own; in a fresh one they differ less than the tolerance of a test."""
    model = build(cfg)
    head = model.detector.mask_head
    model.detector.query_embed.weight.mul_(10)
    head.attention.query_proj.weight.mul_(10)
    head.blocks[0].conv.weight[:, head.dim :] *= 50
    if "res5" in model.detector.backbone.output_shape():
        # Its features are far larger than those of a trained one.
        head.blocks[0].conv.weight[:, : head.dim] *= 1e-3
    return model


def make_mask_batch(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Random images whose objects fill their boxes but for a corner."""
    batch = make_batch(sizes, counts)
    for item in batch:
        instances = item["instances"]
        masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, instances.gt_boxes.tensor.round().int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
            mask[y0 : (y0 + y1) // 2, x0 : (x0 + x1) // 2] = False
        instances.gt_masks = BitMasks(masks)
    return batch


def naive_attention(head: MaskHead, asked: MaskQueries) -> Tensor:
    """(B, Q, heads, h, w) of all queries, as section 4.4 of the paper has it."""
    attention, memory = head.attention, asked.memory
    batch, dim, height, width = memory.maps.projected.shape
    heads = attention.num_heads
    q = (asked.states @ attention.query_proj.weight.T + attention.query_proj.bias).view(batch, -1, heads, dim // heads)
    encoded = memory.tokens.transpose(1, 2).reshape(batch, dim, height, width)
    k = F.conv2d(encoded, attention.key_proj.weight[:, :, None, None], attention.key_proj.bias)
    k = k.view(batch, heads, dim // heads, height, width)
    weights = torch.einsum("bqnc,bnchw->bqnhw", q / (dim / heads) ** 0.5, k)
    if memory.key_mask is not None:
        padding = ~memory.key_mask.view(batch, 1, 1, height, width)
        weights = weights.masked_fill(padding, float("-inf"))
    return weights.flatten(2).softmax(-1).view(weights.shape)


def naive_masks(head: MaskHead, asked: MaskQueries) -> Tensor:
    """(B, Q, H, W) of all queries, each with copies of its own of all feature maps, as in the official code."""
    maps, attention = asked.memory.maps, naive_attention(head, asked)
    batch, queries = attention.shape[:2]

    def copies(x: Tensor) -> Tensor:
        return x[:, None].repeat(1, queries, 1, 1, 1).flatten(0, 1)

    x = torch.cat((copies(maps.projected), attention.flatten(0, 1)), dim=1)
    for i, block in enumerate(head.blocks):
        if i >= 2:
            adapted = head.adapters[i - 2](copies(maps.finer[i - 2]))
            x = adapted + F.interpolate(x, size=adapted.shape[-2:])
        groups = block.norm.num_groups
        x = F.group_norm(F.conv2d(x, block.conv.weight, block.conv.bias, padding=1), groups, *block.norm.parameters())
        x = x.relu()
    return F.conv2d(x, head.predictor.weight, head.predictor.bias, padding=1).unflatten(0, (batch, queries))[:, :, 0]
