"""Detectron2's ResNet, dilated as torchvision dilates it."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone import build_resnet_backbone

from pair_detr.modeling.backbone.frozen_norm import scale_weights

_STAGES = ("stem", "res2", "res3", "res4", "res5")


@BACKBONE_REGISTRY.register()
def build_detr_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds the ResNet that MODEL.RESNETS describes.

    With RES5_DILATION 2 (DC5), Detectron2 dilates all three blocks of res5. torchvision, and so the official DC5
    models, keep dilation 1 in the first: it only drops its stride.

    It emits the last of OUT_FEATURES and all stages before it: the detector takes those that it needs.
    """
    if cfg.MODEL.RESNETS.RES5_DILATION > 1 and "res5" not in cfg.MODEL.RESNETS.OUT_FEATURES:
        raise ValueError(
            f"MODEL.RESNETS.RES5_DILATION is {cfg.MODEL.RESNETS.RES5_DILATION}, but MODEL.RESNETS.OUT_FEATURES "
            f"{cfg.MODEL.RESNETS.OUT_FEATURES} leaves out res5. Add it, or set RES5_DILATION 1."
        )
    cfg = cfg.clone()
    cfg.defrost()
    last = max(map(_STAGES.index, cfg.MODEL.RESNETS.OUT_FEATURES))
    cfg.MODEL.RESNETS.OUT_FEATURES = list(_STAGES[1 : last + 1] or _STAGES[:1])
    backbone = build_resnet_backbone(cfg, input_shape)
    if cfg.MODEL.RESNETS.RES5_DILATION > 1:
        first = backbone.res5[0].conv2
        first.dilation = first.padding = (1, 1)
    scale_weights(backbone)
    return backbone
