"""DETR's mask head (its section 4.4 and figure 8), for any variant and any backbone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pair_detr.config.variants import variant_of
from pair_detr.layers import point_encoding
from pair_detr.structures import MaskQueries, Memory
from pair_detr.utils.device import to_device_async


class ConvBlock(nn.Module):
    """3x3 convolution, group norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _convolution(in_channels, out_channels, kernel_size=3)
        # Eight groups as in DETR, fewer in narrow models.
        self.norm = nn.GroupNorm(math.gcd(8, out_channels), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        return self.finish(self.conv(x))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the convolution."""
        return F.relu(self.norm(x), inplace=True)


@dataclass
class ImageParts:
    """Outputs of those parts of the head that see nothing but the image.

    Attributes:
        keys: (B, M, D) of the attention, before their projection.
        key_mask: (B, 1, 1, M) bool, false in the padding; None if nothing is padded.
        first: (B, D + num_heads, h, w), the part of the features in the first convolution.
        adapted: of the finer feature maps, the coarsest first.
    """

    keys: Tensor
    key_mask: Tensor | None
    first: Tensor
    adapted: list[Tensor]


class MaskHead(nn.Module):
    """Masks of chosen queries: their attention to the image, refined from the encoder's stride to the finest one.

    The official code copies all feature maps for every query. Here the parts that see nothing but the image run once
    for an image, and their outputs are added to those of its queries; the first convolution, whose input is a
    concatenation, is a sum of two. The results are the same.
    """

    def __init__(self, dim: int, num_heads: int, channels: list[int], spatial: bool = False) -> None:
        """
        Args:
            dim: D, the width of the transformer.
            num_heads: of the attention.
            channels: of the finer feature maps, the coarsest first; DETR has three.
            spatial: add positions to queries and keys.

        Raises:
            ValueError: the transformer is too narrow.
        """
        super().__init__()
        widths = [dim + num_heads, dim + num_heads, *(dim // 2**i for i in range(1, len(channels) + 2))]
        if widths[-1] == 0:
            raise ValueError(
                f"MODEL.DETR.HIDDEN_DIM is {dim}; with MODEL.MASK_ON and {len(channels)} feature maps beside the last "
                f"it must be {2 ** (len(channels) + 1)} at least."
            )
        self.dim = dim
        self.spatial = spatial
        self.attention = MaskAttention(dim, num_heads)
        self.blocks = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise(widths))
        self.adapters = nn.ModuleList(
            _convolution(a, b, kernel_size=1) for a, b in zip(channels, widths[2:], strict=False)
        )
        self.predictor = _convolution(widths[-1], 1, kernel_size=3)

    def image_parts(self, memory: Memory) -> ImageParts:
        """What all masks of a batch have in common."""
        conv, maps = self.blocks[0].conv, memory.maps
        return ImageParts(
            keys=memory.tokens + memory.position if self.spatial else memory.tokens,
            key_mask=memory.key_mask,
            first=F.conv2d(maps.projected, conv.weight[:, : self.dim], conv.bias, padding=conv.padding),
            adapted=[adapter(finer) for adapter, finer in zip(self.adapters, maps.finer, strict=True)],
        )

    def forward(
        self, mask_queries: MaskQueries, query: Tensor, counts: list[int] | None, parts: ImageParts | None = None
    ) -> Tensor:
        """Predicts masks.

        Args:
            mask_queries: the queries of a batch, and the images.
            query: (N,) int64, the chosen queries, image after image.
            counts: how many of them each image has; no image and all images may have none. None if ``query`` is
                (B, K), as many for each image: a graph of that has no numbers of images in it.
            parts: of the batch, where they are at hand.

        Returns:
            (N, H, W) logits at the stride of the finest feature map, N = B K without counts.
        """
        if counts is None:
            image = torch.arange(query.shape[0], device=query.device)[:, None].expand_as(query).flatten()
            query = query.flatten()
        else:
            image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
            image = to_device_async(image, query.device)
        states = mask_queries.states[image, query]
        if self.spatial:
            points = mask_queries.reference[..., :2]
            points = points[query] if points.dim() == 2 else points[image, query]
            states = states + point_encoding(points, self.dim).to(self.predictor.weight.dtype)
        parts = parts or self.image_parts(mask_queries.memory)
        attention = self.attention(states, parts.keys, parts.key_mask, counts)
        first, second, *others = self.blocks
        x = F.conv2d(
            attention.unflatten(-1, parts.first.shape[-2:]),
            first.conv.weight[:, self.dim :],
            padding=first.conv.padding,
        )
        x = second(first.finish(x + parts.first.index_select(0, image)))
        for block, adapted in zip(others, parts.adapted, strict=True):
            x = F.interpolate(x, size=adapted.shape[-2:], mode="nearest")
            x = block(x + adapted.index_select(0, image))
        return self.predictor(x).squeeze(1)


def _convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    # DETR's initialization.
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)
    return conv


class MaskAttention(nn.Module):
    """Multi-head attention of queries to the cells of a feature map, without values: the weights are the result."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim)
        for linear in (self.query_proj, self.key_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None, counts: list[int] | None) -> Tensor:
        """Computes attention maps of the queries over the features.

        Args:
            queries: (N, D), image after image.
            keys: (B, M, D).
            key_mask: (B, 1, 1, M) bool, false in the padding; None if nothing is padded.
            counts: queries of each image; None for as many of each.

        Returns:
            (N, num_heads, M), which sum to 1 over heads and cells together.
        """
        queries, keys = self.query_proj(queries), self.key_proj(keys)
        queries = queries * (queries.shape[-1] // self.num_heads) ** -0.5
        queries, keys = (x.unflatten(-1, (self.num_heads, -1)) for x in (queries, keys))
        if counts is None:
            weights = torch.einsum("bkhd,bmhd->bkhm", queries.unflatten(0, (keys.shape[0], -1)), keys)
            if key_mask is not None:
                weights = weights.masked_fill(~key_mask, float("-inf"))
            return weights.flatten(2).softmax(-1).view_as(weights).flatten(0, 1)
        # Image by image: to give every query the keys of its image would take N copies of them.
        logits = [torch.einsum("nhd,mhd->nhm", q, k) for q, k in zip(queries.split(counts), keys, strict=True)]
        if key_mask is not None:
            logits = [x.masked_fill(~valid, float("-inf")) for x, valid in zip(logits, key_mask, strict=True)]
        weights = torch.cat(logits)
        return weights.flatten(1).softmax(-1).view_as(weights)


def mask_head_factory(cfg: CfgNode) -> Callable[[int, int, list[int]], MaskHead] | None:
    """What makes the mask head, see :class:`pair_detr.modeling.Detector`; None without MODEL.MASK_ON.

    Raises:
        ValueError: MODEL.DETR.MASK.SPATIAL_QUERY is set for DETR, or a key needs MODEL.MASK_ON.
    """
    detr = cfg.MODEL.DETR
    if not cfg.MODEL.MASK_ON:
        for group, key in ((detr.MASK, "MASK.FREEZE_DETECTOR"), (detr.PANOPTIC, "PANOPTIC.ENABLED")):
            if group[key.split(".")[1]]:
                raise ValueError(f"MODEL.DETR.{key} is True, but MODEL.MASK_ON is False: set MODEL.MASK_ON True.")
        return None
    if detr.MASK.SPATIAL_QUERY and not variant_of(cfg).has_reference_points:
        raise ValueError(
            "MODEL.DETR.MASK.SPATIAL_QUERY is True, but the queries of MODEL.DETR.VARIANT "
            f"{detr.VARIANT} have no reference points: set it to False, or choose another variant."
        )
    return partial(MaskHead, spatial=detr.MASK.SPATIAL_QUERY)
