"""What all variants share: backbone, position encoding and encoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from torch import Tensor, nn

from pair_detr.layers import sine_position_encoding
from pair_detr.losses.criterion import SetCriterion
from pair_detr.modeling.encoder import TransformerEncoder
from pair_detr.structures import FeatureMaps, MaskQueries, Memory, Predictions

# Stages before the encoder's that masks are refined with: DETR's.
_FINER_STAGES = 3


class Detector(nn.Module, ABC):
    """Backbone, encoder and queries; a variant adds its decoder and heads.

    Attributes:
        criterion_class: supervises the variant's predictions.
        published_classification: "focal" or "softmax", what its paper trains with.
        has_reference_points: whether each query is at a known place.
    """

    criterion_class: ClassVar[type[SetCriterion]] = SetCriterion
    published_classification: ClassVar[str] = "focal"
    has_reference_points: ClassVar[bool] = True

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        features: Sequence[str],
        num_queries: int,
        num_layers: int,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        deep_supervision: bool,
        mask_head: Callable[[int, int, list[int]], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            backbone: maps (B, 3, H, W) images to feature maps.
            features: names of the feature maps, the one that enters the encoder first, then those that masks are
                refined with, from coarse to fine.
            num_queries: Q, the number of object queries.
            num_layers: of the encoder.
            dim: D, the width of the transformer.
            num_heads: of every attention.
            ffn_dim: hidden units of the feed-forward blocks.
            dropout: probability.
            deep_supervision: predict from every decoder layer in training, not from the last alone.
            mask_head: makes the mask head, given D, the number of heads and the channels of the finer feature maps;
                None for a model without masks.
        """
        super().__init__()
        # The fastest layout for convolutions on CPUs and tensor cores; it leaves parameters and results as they are.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.in_feature, *finer = features
        self.finer_features = finer if mask_head else []
        self.deep_supervision = deep_supervision
        shapes = backbone.output_shape()
        self.input_proj = nn.Conv2d(shapes[self.in_feature].channels, dim, kernel_size=1)
        self.encoder = TransformerEncoder(num_layers, dim, num_heads, ffn_dim, dropout)
        self.query_embed = nn.Embedding(num_queries, dim)
        initialize_transformer(self.encoder)
        channels = [shapes[name].channels for name in self.finer_features]
        self.mask_head = mask_head(dim, num_heads, channels) if mask_head else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the backbone and reads the sizes under MODEL.DETR."""
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "features": _coarse_to_fine(shapes)[: 1 + _FINER_STAGES],
            "num_queries": cfg.MODEL.DETR.NUM_QUERIES,
            "num_layers": cfg.MODEL.DETR.ENC_LAYERS,
            "dim": cfg.MODEL.DETR.HIDDEN_DIM,
            "num_heads": cfg.MODEL.DETR.NUM_HEADS,
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
        maps = self.backbone(images)
        features = self.input_proj(maps[self.in_feature])
        dim, height, width = features.shape[1:]
        key_mask = None
        if padding_mask is not None:
            padding_mask = F.interpolate(padding_mask[None].float(), size=(height, width))[0].bool()
            key_mask = ~padding_mask.flatten(1)[:, None, None]
        position = sine_position_encoding(height, width, dim, padding_mask, features.device)
        # That of the parameters, also where autocast computes the features in another.
        position = position.to(self.input_proj.weight.dtype)
        kept = FeatureMaps(features, [maps[name] for name in self.finer_features]) if self.mask_head else None
        return self.encoder(Memory(features.flatten(2).transpose(1, 2), position, key_mask, kept))

    @abstractmethod
    def decode(self, memory: Memory) -> Predictions:
        """Predicts objects from the encoder's output."""

    def supervised(self, states: Tensor) -> Tensor:
        """The layers to predict from, of (L, ...) states of all decoder layers: in inference the last alone."""
        return states if self.training and self.deep_supervision else states[-1:]

    def mask_queries(self, states: Tensor, memory: Memory, reference: Tensor | None = None) -> MaskQueries | None:
        """For :attr:`Predictions.mask_queries`, from (L, B, Q, D) states of decoder layers; None without masks."""
        return None if self.mask_head is None else MaskQueries(states[-1], memory, reference)


def _coarse_to_fine(shapes: dict[str, ShapeSpec]) -> list[str]:
    """Names of feature maps from the last stage to the first.

    With a dilated last stage (DC5) the one before it has the same stride, in transformers for images all have.
    """
    order = list(shapes)
    return sorted(order, key=lambda name: (shapes[name].stride, shapes[name].channels, order.index(name)), reverse=True)


def initialize_transformer(module: nn.Module) -> None:
    """Xavier-uniform initialisation of all matrices, as DETR and Conditional DETR initialise their transformer."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
