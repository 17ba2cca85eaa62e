"""From this package's weights to files that the official code and transformers read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pair_detr.checkpoint.architecture import RESNET_BLOCKS, Architecture, LackingError, infer_architecture
from pair_detr.checkpoint.coco_ids import PANOPTIC, THINGS
from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.exportable import unsupported_tensors
from pair_detr.checkpoint.formats.native import PREFIX, is_native
from pair_detr.checkpoint.formats.registry import TORCHVISION_PIXELS, layout_named
from pair_detr.checkpoint.warm_start import extra_parts_of
from pair_detr.config.variants import VARIANTS
from pair_detr.utils.messages import counted, join_some


@dataclass(frozen=True)
class Exported:
    """Weights for another code base.

    Attributes:
        state: the state dict, contiguous.
        variant: "detr" or "conditional_detr".
        num_classes: after the conversion.
        files: JSON files by name that belong next to it.
    """

    state: dict[str, Tensor]
    variant: str
    num_classes: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Own:
    state: dict[str, Tensor]
    architecture: Architecture
    class_names: list[str]

    @property
    def has_masks(self) -> bool:
        return self.architecture.transformer.mask_heads is not None


def export_official(
    state: Mapping[str, Tensor], *, class_names: list[str] | None = None, keep_classes: bool = False
) -> Exported:
    """Converts to the names of DETR's or Conditional DETR's authors.

    Args:
        state: of a :class:`pair_detr.modeling.meta_arch.DetectionTransformer`.
        class_names: of the classes; with 80 classes and no names they are taken for COCO's, with 133 and masks for
            those of its panoptic data.
        keep_classes: do not spread COCO's 80 classes over its 91 raw ids, nor the 133 over 250.

    Raises:
        ConversionError: the state dict is no whole model with a ResNet, a Pair DETR that decodes boxes from pairs, or
            a model that selects queries.
    """
    own = _prepare(state, class_names, keep_classes)
    variant = own.architecture.transformer.VARIANT
    masks = " (with masks)" if own.has_masks else ""
    layout = f"official{masks} {VARIANTS[variant].published_name}"
    return Exported(_renamed(own, layout), variant, len(own.class_names))


def export_transformers(
    state: Mapping[str, Tensor],
    *,
    num_heads: int = 8,
    dilation: bool = False,
    class_names: list[str] | None = None,
    keep_classes: bool = False,
    images: Mapping[str, Any] | None = None,
) -> Exported:
    """Converts to what ``from_pretrained`` of transformers 4 and 5 reads.

    Args:
        state: see :func:`export_official`, also for ``class_names`` and ``keep_classes``.
        num_heads: MODEL.DETR.NUM_HEADS.
        dilation: the model is a DC5 (MODEL.RESNETS.RES5_DILATION 2). transformers dilates timm's backbones alone, so
            that loading it needs timm.
        images: config entries of its images and its ResNet's stride, where they are not the usual: MODEL.PIXEL_MEAN,
            MODEL.PIXEL_STD, INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST and MODEL.RESNETS.STRIDE_IN_1X1.

    Raises:
        ConversionError: see :func:`export_official`; or transformers has no such backbone.
    """
    images = TORCHVISION_PIXELS | {"INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333} | dict(images or {})
    own = _prepare(state, class_names, keep_classes)
    shape = own.architecture.transformer
    kind = "timm" if dilation else "resnet"
    name = VARIANTS[shape.VARIANT].transformers_name
    config = {
        "architectures": [f"{name}For{'Segmentation' if own.has_masks else 'ObjectDetection'}"],
        "model_type": shape.VARIANT,
        "d_model": shape.HIDDEN_DIM,
        "num_queries": shape.NUM_QUERIES,
        "encoder_layers": shape.ENC_LAYERS,
        "decoder_layers": shape.DEC_LAYERS,
        "encoder_ffn_dim": shape.FFN_DIM,
        "decoder_ffn_dim": shape.FFN_DIM,
        "encoder_attention_heads": num_heads,
        "decoder_attention_heads": num_heads,
        "position_embedding_type": "sine",
        "activation_function": "relu",
        "auxiliary_loss": False,
        "id2label": {str(i): label for i, label in enumerate(own.class_names)},
        "label2id": {label: i for i, label in enumerate(own.class_names)},
        **_backbone_config(own.architecture, dilation, own.has_masks, images["MODEL.RESNETS.STRIDE_IN_1X1"]),
    }
    processor = {
        "image_processor_type": f"{name}ImageProcessor",
        "format": "coco_panoptic" if len(own.class_names) == PANOPTIC.count else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": images["INPUT.MIN_SIZE_TEST"], "longest_edge": images["INPUT.MAX_SIZE_TEST"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(x / 255, 6) for x in images["MODEL.PIXEL_MEAN"]],
        "image_std": [round(x / 255, 6) for x in images["MODEL.PIXEL_STD"]],
        "do_pad": True,
    }
    # Both releases read the names of release 4.
    masks = ", with masks" if own.has_masks else ""
    renamed = _renamed(own, f"transformers 4.x ({kind} backbone{masks}) {VARIANTS[shape.VARIANT].published_name}")
    files = {"config.json": config, "preprocessor_config.json": processor}
    return Exported(renamed, shape.VARIANT, len(own.class_names), files)


def _prepare(state: Mapping[str, Tensor], class_names: list[str] | None, keep_classes: bool) -> _Own:
    if not is_native(state):
        raise ConversionError(
            "The weights are not this package's: none of their keys starts with 'detector.'. Convert them first."
        )
    own = {
        key.removeprefix(PREFIX): tensor
        for key, tensor in state.items()
        if key.startswith(PREFIX) and not key.endswith("num_batches_tracked")
    }
    if parts := unsupported_tensors({key: tensor.shape for key, tensor in own.items()}):
        raise ConversionError(f"No other code base here can hold the model: {'; '.join(parts)}.")
    # What is left without these predicts the same boxes: they belong to the training, or to a second decoder.
    extra = frozenset().union(*map(extra_parts_of, VARIANTS.values()))
    own = {key: tensor for key, tensor in own.items() if key.partition(".")[0] not in extra}
    variant = "detr" if "decoder.layers.0.self_attn.in_proj_weight" in own else "conditional_detr"
    shapes = {key: tensor.shape for key, tensor in own.items()}
    try:
        architecture = infer_architecture(shapes, variant)
    except LackingError as error:
        raise ConversionError(
            f"The state dict lacks {', '.join(error.keys)}. Only whole models with a ResNet and a linear classifier "
            "can be converted."
        ) from error
    expected = architecture.shapes()
    if wrong := [key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key)]:
        raise ConversionError(f"The state dict is no whole {variant}: see {join_some(sorted(wrong), 6)}.")
    count = architecture.transformer.num_classes
    # Without names 133 classes may be anything, but for those of a segmentation model.
    kinds = (THINGS, PANOPTIC) if architecture.transformer.mask_heads is not None or class_names else (THINGS,)
    raw = next((kind for kind in kinds if count == len(kind.names) and class_names in (None, kind.names)), None)
    if raw is not None and not keep_classes:
        return _Own(raw.restore(own), architecture, raw.all_names())
    if class_names is None:
        class_names = raw.names if raw is not None else [f"LABEL_{i}" for i in range(count)]
    if len(class_names) != count:
        raise ConversionError(
            f"The model has {counted(count, 'class', 'classes')}, but the names are {len(class_names)}."
        )
    return _Own(own, architecture, class_names)


def _renamed(own: _Own, layout: str) -> dict[str, Tensor]:
    renamed, unknown = layout_named(layout).names.rename_to_foreign(own.state)
    # Every key of a whole model is in every table.
    assert not unknown, unknown
    # The parts of a joined tensor share its memory, and convolutions may be in another memory format.
    return {key: tensor.clone().contiguous() for key, tensor in renamed.items()}


def _backbone_config(
    architecture: Architecture, dilation: bool, all_stages: bool, stride_in_1x1: bool
) -> dict[str, Any]:
    resnet = architecture.resnet
    is_basic = resnet.DEPTH < 50
    is_standard = resnet.STEM_OUT_CHANNELS == 64 and (64 if is_basic else 256) == resnet.RES2_OUT_CHANNELS
    if resnet.NUM_GROUPS > 1 or not (is_basic or resnet.RES2_OUT_CHANNELS == 4 * resnet.WIDTH_PER_GROUP):
        raise ConversionError("transformers has no ResNeXt and no wide ResNet.")
    if dilation:
        if not is_standard:
            raise ConversionError("timm, which transformers needs for DC5, has no ResNet of this width.")
        if stride_in_1x1:
            raise ConversionError(
                "timm, which transformers needs for DC5, has no ResNet with MODEL.RESNETS.STRIDE_IN_1X1 True."
            )
        return {
            "dilation": True,
            "use_timm_backbone": True,
            "backbone": f"resnet{resnet.DEPTH}",
            "backbone_config": None,
        }
    backbone = {
        "model_type": "resnet",
        "layer_type": "basic" if is_basic else "bottleneck",
        "embedding_size": resnet.STEM_OUT_CHANNELS,
        "hidden_sizes": [resnet.RES2_OUT_CHANNELS * 2**stage for stage in range(4)],
        "depths": list(RESNET_BLOCKS[resnet.DEPTH]),
        "downsample_in_bottleneck": stride_in_1x1,
        "out_features": [f"stage{i}" for i in range(1 if all_stages else 4, 5)],
    }
    return {"dilation": False, "use_timm_backbone": False, "backbone": None, "backbone_config": backbone}
