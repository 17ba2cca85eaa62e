"""Backbones for MODEL.BACKBONE.NAME; importing the package registers them with Detectron2."""

from pair_detr.modeling.backbone.clip import ClipResNet, build_clip_backbone
from pair_detr.modeling.backbone.convnet import ConvNet, build_convnet_backbone
from pair_detr.modeling.backbone.resnet import build_detr_resnet_backbone
from pair_detr.modeling.backbone.timm import TimmBackbone, build_timm_backbone

__all__ = [
    "ClipResNet",
    "ConvNet",
    "TimmBackbone",
    "build_clip_backbone",
    "build_convnet_backbone",
    "build_detr_resnet_backbone",
    "build_timm_backbone",
]
