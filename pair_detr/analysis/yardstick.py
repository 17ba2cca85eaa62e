"""The yardstick of the speed: the same architecture as transformers has it, with random weights."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from pair_detr.checkpoint.architecture import RESNET_BLOCKS
from pair_detr.config.variants import variant_of
from pair_detr.modeling.batching import batch_images, pack_boxes
from pair_detr.utils.device import to_device_async


def transformers_config(cfg: CfgNode) -> Any:
    """The config of transformers' model of the architecture that a config describes; nothing is downloaded.

    Of a Pair DETR it is that of the Conditional DETR that is left without what Pair DETR adds.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers has no such architecture.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError('transformers is not installed; run "pip install transformers".') from error
    detr = cfg.MODEL.DETR
    if cfg.MODEL.MASK_ON:
        raise ValueError("MODEL.MASK_ON: transformers' model is a yardstick for boxes alone. Set it to False.")
    attention_dropout = detr.ATTENTION_DROPOUT
    return getattr(transformers, f"{variant_of(cfg).transformers_name}Config")(
        num_channels=len(cfg.MODEL.PIXEL_MEAN),
        num_queries=detr.NUM_QUERIES,
        d_model=detr.HIDDEN_DIM,
        encoder_layers=detr.ENC_LAYERS,
        decoder_layers=detr.DEC_LAYERS,
        encoder_ffn_dim=detr.FFN_DIM,
        decoder_ffn_dim=detr.FFN_DIM,
        encoder_attention_heads=detr.NUM_HEADS,
        decoder_attention_heads=detr.NUM_HEADS,
        # Where this package's models have them.
        dropout=detr.DROPOUT,
        activation_dropout=detr.DROPOUT,
        attention_dropout=detr.DROPOUT if attention_dropout < 0 else attention_dropout,
        num_labels=detr.NUM_CLASSES,
        **_backbone(cfg),
    )


def _backbone(cfg: CfgNode) -> dict[str, Any]:
    import transformers

    resnet = cfg.MODEL.RESNETS
    is_basic = resnet.DEPTH < 50
    is_standard = resnet.STEM_OUT_CHANNELS == 64 and (64 if is_basic else 256) == resnet.RES2_OUT_CHANNELS
    widths_follow = is_basic or resnet.RES2_OUT_CHANNELS == 4 * resnet.WIDTH_PER_GROUP
    if "resnet" not in cfg.MODEL.BACKBONE.NAME or resnet.NUM_GROUPS > 1 or not widths_follow:
        raise ValueError(
            f"transformers has no backbone like MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} with these "
            "MODEL.RESNETS: it is a yardstick for plain ResNets alone. Leave it out."
        )
    if resnet.RES5_DILATION == 1:
        backbone = transformers.ResNetConfig(
            num_channels=len(cfg.MODEL.PIXEL_MEAN),
            embedding_size=resnet.STEM_OUT_CHANNELS,
            hidden_sizes=[resnet.RES2_OUT_CHANNELS * 2**stage for stage in range(4)],
            depths=list(RESNET_BLOCKS[resnet.DEPTH]),
            layer_type="basic" if is_basic else "bottleneck",
            out_features=["stage4"],
        )
        return {"use_timm_backbone": False, "backbone_config": backbone}
    if not is_standard:
        raise ValueError("transformers dilates timm's ResNets alone, which have other widths than MODEL.RESNETS.")
    return {"use_timm_backbone": True, "backbone": f"resnet{resnet.DEPTH}", "dilation": True}


class TransformersDetector(nn.Module):
    """transformers' model, called as :class:`pair_detr.modeling.meta_arch.DetectionTransformer` is.

    It trains with its own losses, and detects with its own post-processing. Images are normalized, and objects packed,
    by this package, on both sides of a comparison.

    Attributes:
        model: of transformers.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: see :func:`transformers_config`.
        """
        super().__init__()
        config = transformers_config(cfg)
        import transformers

        name = variant_of(cfg).transformers_name
        self.model = getattr(transformers, f"{name}ForObjectDetection")(config)
        self._postprocess = getattr(transformers, f"{name}ImageProcessor")().post_process_object_detection
        # Conditional DETR's takes the best of all queries and classes, DETR's the best class of every query.
        self._options = {"top_k": cfg.TEST.DETECTIONS_PER_IMAGE} if name == "ConditionalDetr" else {}
        self._num_queries = config.num_queries
        self._deep_supervision = cfg.MODEL.DETR.LOSS.DEEP_SUPERVISION
        self._fixed_size = tuple(cfg.INPUT.FIXED_SIZE) or None
        self._freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
        self.register_buffer("pixel_mean", torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1), persistent=False)

    def _freeze(self, freeze_at: int) -> None:
        # transformers 5 freezes all of its own ResNet and nothing of timm's, as it looks for names that neither has.
        for name, parameter in self.model.model.backbone.named_parameters():
            parameter.requires_grad_(_stage(name) > freeze_at)

    def train(self, mode: bool = True) -> "TransformersDetector":
        """Sets the mode of all modules; losses of all decoder layers are for training alone."""
        # With them transformers feeds a layer the normed states of the one before, also in inference.
        self.model.config.auxiliary_loss = mode and self._deep_supervision
        return super().train(mode)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """The loss in training, detections otherwise; inputs as of Detectron2's meta-architectures."""
        device = self.pixel_mean.device

        def normalize(image: Tensor) -> Tensor:
            return (to_device_async(image, device) - self.pixel_mean) / self.pixel_std

        batch = batch_images(batched_inputs, normalize, self._fixed_size)
        images, padding = batch.images, batch.padding_mask
        shape = len(images), *batch.padded_size
        mask = torch.ones(shape, dtype=torch.long, device=device) if padding is None else (~padding).long()
        if self.training:
            targets = pack_boxes(batched_inputs, batch.frame_sizes, self._num_queries, False).to(device)
            objects = zip(targets.boxes.split(targets.counts), targets.labels.split(targets.counts), strict=True)
            labels = [{"boxes": boxes, "class_labels": classes} for boxes, classes in objects]
            return {"loss": self.model(pixel_values=images, pixel_mask=mask, labels=labels).loss}
        outputs = self.model(pixel_values=images, pixel_mask=mask)
        sizes = batch.output_frames()[:, :2].flip(-1)
        detections = self._postprocess(outputs, threshold=0.0, target_sizes=sizes, **self._options)
        return [
            {"instances": Instances(size, pred_boxes=Boxes(d["boxes"]), scores=d["scores"], pred_classes=d["labels"])}
            for size, d in zip(batch.output_sizes, detections, strict=True)
        ]


def _stage(name: str) -> int:
    """The stage of a ResNet that a parameter belongs to, the stem being 1, as MODEL.BACKBONE.FREEZE_AT counts."""
    for number in range(4):
        # Of transformers' own, and of timm's.
        if f".stages.{number}." in name or f".layer{number + 1}." in name:
            return number + 2
    return 1
