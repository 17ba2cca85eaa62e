"""One of CLIP's ResNets, frozen, as a backbone whose last map its own attention pool can read region by region."""

import logging
from collections import OrderedDict

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from pair_detr.config.choices import CLIP_BACKBONE
from pair_detr.layers import FullPrecision
from pair_detr.open_vocabulary.image_encoders import (
    NOT_A_RESNET,
    build_image_encoder,
    clip_resnet_shape,
    is_clip_resnet,
    random_clip_resnet,
)

logger = logging.getLogger(__name__)

_STAGES = ("res2", "res3", "res4", "res5")
# Of all of CLIP's image encoders, in 0..255.
_PIXEL_MEAN, _PIXEL_STD = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)


class AttentionPool(FullPrecision, nn.Module):
    """CLIP's attention pool: the mean of the cells of a map looks at them, and becomes an embedding.

    As there is a single query, it is taken through the keys' matrix and the weighted mean of the cells through the
    values': the same result as from keys and values of all cells, from a twentieth of the operations for 7 x 7 of them.

    Attributes:
        grid: height and width of the map, in cells, that it has positions for.
        stride: pixels of the image that a cell is wide and high.
    """

    stride = 32

    def __init__(self, pool: nn.Module) -> None:
        """``pool``: the ``AttentionPool2d`` of clip or open_clip, whose parameters it takes."""
        super().__init__()
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj
        self.num_heads = pool.num_heads
        self.grid = round((len(pool.positional_embedding) - 1) ** 0.5)

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        return self.c_proj.out_features

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, grid, grid) -> (N, D) embeddings, fp32 and of any length; also under autocast."""
        with torch.autocast(maps.device.type, enabled=False):
            cells = maps.to(self.positional_embedding.dtype).flatten(2).transpose(1, 2)
            tokens = torch.cat((cells.mean(1, keepdim=True), cells), dim=1) + self.positional_embedding
            query = self.q_proj(tokens[:, 0]).unflatten(-1, (self.num_heads, -1))
            head_dim = query.shape[-1]
            keys, values = (x.weight.unflatten(0, (self.num_heads, -1)) for x in (self.k_proj, self.v_proj))
            # The bias of the keys adds the same to all cells, which the softmax takes away.
            looked_for = torch.einsum("nhd,hdc->nhc", query * head_dim**-0.5, keys)
            weights = (looked_for @ tokens.transpose(1, 2)).softmax(-1)
            seen = torch.einsum("nhc,hdc->nhd", weights @ tokens, values).flatten(1) + self.v_proj.bias
            return self.c_proj(seen)


class ClipResNet(Backbone):
    """Feature maps "res2" to "res5" of CLIP's ResNet, at strides 4 to 32. Nothing of it is ever trained.

    Maps cover all of the image: it is padded with zeros, at the right and at the bottom, to a multiple of 32 pixels.

    Attributes:
        attnpool: reads maps of the last stage.
    """

    def __init__(self, visual: nn.Module) -> None:
        """``visual``: the image encoder of clip or open_clip, whose parameters it takes; a ValueError if no ResNet."""
        super().__init__()
        if not is_clip_resnet(visual):
            raise ValueError(f"The image encoder in MODEL.CLIP.CHECKPOINT is {NOT_A_RESNET}")
        children = list(visual.named_children())
        first = [name for name, _ in children].index("layer1")
        self.stem = nn.Sequential(OrderedDict(children[:first]))
        layers = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        self.stages = nn.ModuleDict(dict(zip(_STAGES, layers, strict=True)))
        self.attnpool = AttentionPool(visual.attnpool)
        self._spec = {
            name: ShapeSpec(channels=layer[-1].conv3.out_channels, stride=stride)
            for name, layer, stride in zip(_STAGES, layers, (4, 8, 16, 32), strict=True)
        }
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> feature maps by name, (B, channels, ceil(H / 32) * 32 / stride, the same of W)."""
        height, width = image.shape[-2:]
        stride = AttentionPool.stride
        features = self.stem(F.pad(image, (0, -width % stride, 0, -height % stride)))
        maps = {}
        for name, stage in self.stages.items():
            features = maps[name] = stage(features)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the feature maps."""
        return self._spec


@BACKBONE_REGISTRY.register()
def build_clip_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ClipResNet:
    """Builds the image encoder of MODEL.CLIP.ENCODER with the weights in MODEL.CLIP.CHECKPOINT.

    Where that file is missing, but MODEL.WEIGHTS is to be loaded, the weights are left to it: a trained detector brings
    along those of its backbone.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the image encoder is no ResNet, the file holds another model, or images are not RGB.
        ImportError: the package of the model is not installed.
    """
    clip = cfg.MODEL.CLIP
    clip_resnet_shape(clip.ENCODER)
    if cfg.INPUT.FORMAT != "RGB":
        raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, but CLIP's image encoders take RGB: set it to that.")
    _warn_of_other_pixels(cfg)
    try:
        visual = build_image_encoder(clip.ENCODER, clip.CHECKPOINT)
    except FileNotFoundError as error:
        if not cfg.MODEL.WEIGHTS:
            raise FileNotFoundError(f"MODEL.BACKBONE.NAME is {CLIP_BACKBONE}. {error}") from error
        logger.info("The image encoder %s has its weights from MODEL.WEIGHTS %s.", clip.ENCODER, cfg.MODEL.WEIGHTS)
        visual = random_clip_resnet(clip.ENCODER)
    return ClipResNet(visual)


def _warn_of_other_pixels(cfg: CfgNode) -> None:
    means, stds = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    other = [abs(a - b) > 1 for a, b in zip((*means, *stds), (*_PIXEL_MEAN, *_PIXEL_STD), strict=False)]
    if any(other):
        logger.warning(
            "MODEL.PIXEL_MEAN %s and PIXEL_STD %s are not those of CLIP's image encoders, which see images in other "
            "colors then: set %s and %s.",
            *(list(map(float, x)) for x in (means, stds, _PIXEL_MEAN, _PIXEL_STD)),
        )
