"""Image encoders of CLIP and of its descendants, from local files alone."""

import os
from dataclasses import dataclass
from typing import Any

from torch import nn

from pair_detr.open_vocabulary.clip_models import (
    import_clip,
    import_open_clip,
    load_clip_model,
    require_clip_model,
    split_name,
)

NOT_A_RESNET = (
    "no ResNet, and cannot be a backbone of one scale: MODEL.CLIP.ENCODER must be one of clip:RN50, RN101, RN50x4, "
    "RN50x16 and RN50x64, or a ResNet of open_clip, such as open_clip:RN50."
)
_REMEDY = "do without the image encoder: with text weights, every backbone classifies by text."
# Channels of the last stage for each of the first convolution's, and of an attention head.
_EXPANSION, _HEAD_DIM = 32, 64
# Of the ResNets that the package clip has: blocks, width, embedding, side of the images (its model cards).
_CLIP_RESNETS = {
    "RN50": ((3, 4, 6, 3), 64, 1024, 224),
    "RN101": ((3, 4, 23, 3), 64, 512, 224),
    "RN50x4": ((4, 6, 10, 6), 80, 640, 288),
    "RN50x16": ((6, 8, 18, 8), 96, 768, 384),
    "RN50x64": ((3, 15, 36, 10), 128, 1024, 448),
}


@dataclass(frozen=True)
class ClipResNetShape:
    """Sizes of one of CLIP's ResNets.

    Attributes:
        blocks: of each stage.
        width: channels of the stem.
        embed_dim: width of the embeddings.
        resolution: side of the square images that it was trained with, in pixels.
        num_heads: of the attention pool.
    """

    blocks: tuple[int, ...]
    width: int
    embed_dim: int
    resolution: int
    num_heads: int


def build_image_encoder(name: str, checkpoint: str | os.PathLike = "") -> nn.Module:
    """Loads the image encoder of a model, a ResNet or a transformer, in fp32 and in evaluation mode.

    It maps (B, 3, H, W) images at the resolution of its training, in the package's normalization, to (B, D) embeddings,
    and is the package's own module: ``ModifiedResNet`` or ``VisionTransformer``. For arguments and errors see
    :func:`load_clip_model`.
    """
    return load_clip_model(name, checkpoint, _REMEDY).visual


def is_clip_resnet(encoder: nn.Module) -> bool:
    """Whether an image encoder is one of CLIP's ResNets with an attention pool."""
    parts = ("conv1", "layer1", "layer2", "layer3", "layer4", "attnpool")
    return all(isinstance(getattr(encoder, part, None), nn.Module) for part in parts)


def clip_resnet_shape(name: str) -> ClipResNetShape | None:
    """What the name of a model says of its image encoder; None for "clip" alone, which is about any checkpoint.

    Raises:
        ValueError: there is no such model, or its image encoder is no ResNet.
        ImportError: the package open_clip is not installed.
    """
    family, model = split_name(name)
    if family == "clip":
        require_clip_model(model)
        if not model:
            return None
        if model in _CLIP_RESNETS:
            blocks, width, embed_dim, resolution = _CLIP_RESNETS[model]
            return ClipResNetShape(blocks, width, embed_dim, resolution, width * _EXPANSION // _HEAD_DIM)
    else:
        config = import_open_clip(name)[1]
        vision: dict[str, Any] = config["vision_cfg"]
        if isinstance(vision.get("layers"), list) and not vision.get("timm_model_name"):
            heads = vision["width"] * _EXPANSION // vision.get("head_width", _HEAD_DIM)
            size = vision["image_size"]
            return ClipResNetShape(tuple(vision["layers"]), vision["width"], config["embed_dim"], size, heads)
    raise ValueError(f"The image encoder of {name} is {NOT_A_RESNET}")


def random_clip_resnet(name: str) -> nn.Module:
    """A ResNet of a model's sizes with random weights, to be replaced by those of a trained detector.

    Raises:
        ValueError, ImportError: see :func:`clip_resnet_shape`; or "clip" alone, which says no sizes.
    """
    shape = clip_resnet_shape(name)
    if shape is None:
        raise ValueError(f'"{name}" does not say which model it is: name it, as clip:RN50.')
    if split_name(name)[0] == "clip":
        import_clip(name)
        from clip.model import ModifiedResNet
    else:
        from open_clip.modified_resnet import ModifiedResNet
    # Positional, as both packages name the fourth in their own way.
    return ModifiedResNet(shape.blocks, shape.embed_dim, shape.num_heads, shape.resolution, shape.width).eval()
