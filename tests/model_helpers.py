"""Small models and batches that the tests of the model share."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from pair_detr import add_pair_detr_config
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import Batch, Predictions, Targets

VARIANTS = ("pair_detr", "conditional_detr", "detr")


class PatchBackbone(Backbone):
    """Sees each 8 x 8 patch by itself, so that nothing but the detector can mix image and padding.

    The features of any stack of overlapping convolutions change next to the padding: the first one zero-pads at the
    border of an image, the second finds there what the first made of it. The official code has the same effect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, kernel_size=8, stride=8)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"patches": self.patches(image)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"patches": ShapeSpec(channels=16, stride=8)}


@BACKBONE_REGISTRY.register()
def build_patch_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PatchBackbone:
    return PatchBackbone()


def as_batch(images: Tensor) -> Batch:
    """Images without padding."""
    sizes = [(images.shape[-2], images.shape[-1])] * len(images)
    return Batch(images, None, sizes, sizes)


def default_cfg() -> CfgNode:
    """Detectron2's defaults and the project's, on the CPU, for three classes."""
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 3
    return cfg


def tiny_cfg(variant: str = "pair_detr", **detr: Any) -> CfgNode:
    """A model of a few thousand parameters at stride 8.

    Args:
        variant: MODEL.DETR.VARIANT.
        detr: keys under MODEL.DETR with "__" for ".", for example ``PAIR__BOX_DECODING="pair"``.
    """
    cfg = default_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_convnet_backbone"
    cfg.MODEL.CONVNET.CHANNELS = [4, 8, 8]
    options = {
        "VARIANT": variant,
        "NUM_QUERIES": 7,
        "HIDDEN_DIM": 32,
        "NUM_HEADS": 4,
        "ENC_LAYERS": 2,
        "DEC_LAYERS": 3,
        "FFN_DIM": 64,
        "DROPOUT": 0.0,
        **detr,
    }
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.DETR.{key.replace('__', '.')}", value])
    return cfg


def tiny_resnet_cfg(variant: str = "pair_detr", **detr: Any) -> CfgNode:
    """The same on a ResNet-50 with an eighth of the channels or less, at stride 32."""
    cfg = tiny_cfg(variant, **detr)
    cfg.MODEL.BACKBONE.NAME = "build_detr_resnet_backbone"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    return cfg


def build(cfg: CfgNode, randomize: bool = True) -> DetectionTransformer:
    """Builds the model; ``randomize`` moves whatever starts at zero or identity, so that a test can see it."""
    torch.manual_seed(0)
    model = build_model(cfg)
    if randomize:
        randomize_constants(model)
    return model


@torch.no_grad()
def randomize_constants(model: nn.Module) -> None:
    """Gives random values to constant parameters and to the statistics of batch norms, and doubles matrices.

    Queries of a fresh model predict almost the same: differences between them would drown in the tolerance.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 2:
            tensor.mul_(2)
        if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.min() != tensor.max():
            continue
        if name.endswith(("running_var", "norm.weight", "bn.weight")):
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.add_(torch.randn_like(tensor) * 0.2)


def make_instances(size: tuple[int, int], count: int, num_classes: int = 3) -> Instances:
    """``count`` random boxes, of at least 2 pixels per side, in an image of ``size`` (height, width)."""
    height, width = size
    scale = torch.tensor([width, height])
    corner = torch.rand(count, 2) * 0.6 * scale
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat((corner, corner + 2 + torch.rand(count, 2) * 0.3 * scale), dim=1))
    instances.gt_classes = torch.randint(num_classes, (count,))
    return instances


def make_batch(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Random images of (height, width) with so many objects each, as the mapper makes them."""
    return [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
            "instances": make_instances(size, count),
            "height": size[0],
            "width": size[1],
            "file_name": f"image{i}.png",
        }
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]


def make_boxes(*shape: int) -> Tensor:
    """(*shape, 4) random normalized cxcywh boxes inside the image."""
    size = torch.rand(*shape, 2) * 0.5 + 0.02
    center = size / 2 + torch.rand(*shape, 2) * (1 - size)
    return torch.cat((center, size), dim=-1)


def make_targets(counts: Sequence[int], num_classes: int = 3) -> Targets:
    """Random ground truth of images with so many objects each."""
    return Targets.pack(
        [make_boxes(count) for count in counts], [torch.randint(num_classes, (count,)) for count in counts]
    )


def make_predictions(layers: int, images: int, queries: int, logits: int, requires_grad: bool = False) -> Predictions:
    """Random predictions; the boxes lie inside the image."""
    return Predictions(
        logits=torch.randn(layers, images, queries, logits).requires_grad_(requires_grad),
        boxes=make_boxes(layers, images, queries).requires_grad_(requires_grad),
    )
