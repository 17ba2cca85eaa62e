"""What all variants share: backbone, position encoding and encoder."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone, build_backbone
from torch import Tensor, nn

from pair_detr.layers import sine_position_encoding
from pair_detr.modeling.encoder import TransformerEncoder
from pair_detr.modeling.features import Memory, Predictions


class Detector(nn.Module, ABC):
    """Backbone, encoder and queries; a variant adds its decoder and heads."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str,
        num_queries: int,
        num_layers: int,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        deep_supervision: bool,
    ) -> None:
        """
        Args:
            backbone: maps (B, 3, H, W) images to feature maps.
            in_feature: the feature map that enters the encoder.
            num_queries: Q, the number of object queries.
            num_layers: of the encoder.
            dim: D, the width of the transformer.
            num_heads: of every attention.
            ffn_dim: hidden units of the feed-forward blocks.
            dropout: probability.
            deep_supervision: predict from every decoder layer in training, not from the last alone.
        """
        super().__init__()
        # The fastest layout for convolutions on CPUs and tensor cores; it leaves parameters and results as they are.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.in_feature = in_feature
        self.deep_supervision = deep_supervision
        self.input_proj = nn.Conv2d(backbone.output_shape()[in_feature].channels, dim, kernel_size=1)
        self.encoder = TransformerEncoder(num_layers, dim, num_heads, ffn_dim, dropout)
        self.query_embed = nn.Embedding(num_queries, dim)
        initialize_transformer(self.encoder)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the backbone and reads the sizes under MODEL.DETR."""
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        for key in ("NUM_QUERIES", "NUM_HEADS", "ENC_LAYERS", "DEC_LAYERS", "FFN_DIM"):
            if cfg.MODEL.DETR[key] < (0 if key == "ENC_LAYERS" else 1):
                raise ValueError(f"MODEL.DETR.{key} is {cfg.MODEL.DETR[key]}; it must be positive.")
        if not 0 <= cfg.MODEL.DETR.DROPOUT < 1:
            raise ValueError(f"MODEL.DETR.DROPOUT is {cfg.MODEL.DETR.DROPOUT}; it must be from 0 to below 1.")
        dim, num_heads = cfg.MODEL.DETR.HIDDEN_DIM, cfg.MODEL.DETR.NUM_HEADS
        if dim % 4 or dim % num_heads:
            raise ValueError(
                f"MODEL.DETR.HIDDEN_DIM is {dim}; it must be divisible by 4 and by MODEL.DETR.NUM_HEADS ({num_heads})."
            )
        return {
            "backbone": backbone,
            # The last stage. With a dilated one (DC5) the stage before it has the same stride.
            "in_feature": max(shapes, key=lambda name: (shapes[name].stride, shapes[name].channels)),
            "num_queries": cfg.MODEL.DETR.NUM_QUERIES,
            "num_layers": cfg.MODEL.DETR.ENC_LAYERS,
            "dim": dim,
            "num_heads": num_heads,
            "ffn_dim": cfg.MODEL.DETR.FFN_DIM,
            "dropout": cfg.MODEL.DETR.DROPOUT,
            "deep_supervision": cfg.MODEL.DETR.LOSS.DEEP_SUPERVISION,
        }

    def forward(self, images: Tensor, padding_mask: Tensor | None) -> Predictions:
        """Detects objects.

        Args:
            images: (B, 3, H, W), normalised, zero in the padding.
            padding_mask: (B, H, W) bool, true in the padding; None if no image is padded.
        """
        return self.decode(self.encode(images, padding_mask))

    def encode(self, images: Tensor, padding_mask: Tensor | None) -> Memory:
        """Arguments as of :meth:`forward`."""
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.input_proj(self.backbone(images)[self.in_feature])
        dim, height, width = features.shape[1:]
        key_mask = None
        if padding_mask is not None:
            padding_mask = F.interpolate(padding_mask[None].float(), size=(height, width))[0].bool()
            key_mask = ~padding_mask.flatten(1)[:, None, None]
        position = sine_position_encoding(height, width, dim, padding_mask, features.device)
        return self.encoder(Memory(features.flatten(2).transpose(1, 2), position, key_mask))

    @abstractmethod
    def decode(self, memory: Memory) -> Predictions:
        """Predicts objects from the encoder's output."""

    def supervised(self, states: Tensor) -> Tensor:
        """The layers to predict from, of (L, ...) states of all decoder layers: in inference the last alone."""
        return states if self.training and self.deep_supervision else states[-1:]


def initialize_transformer(module: nn.Module) -> None:
    """Xavier-uniform initialisation of all matrices, as DETR and Conditional DETR initialise their transformer."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
