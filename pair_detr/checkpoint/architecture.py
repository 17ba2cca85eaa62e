"""What model a state dict belongs to, read from its tensors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone

from pair_detr.checkpoint.errors import ConversionError
from pair_detr.config.defaults import add_pair_detr_config
from pair_detr.config.validation import flatten
from pair_detr.config.variants import VARIANTS, classification_of, variant_of
from pair_detr.losses.build import build_class_scoring
from pair_detr.modeling.mask_head import mask_head_factory
from pair_detr.modeling.text_classifier import classifier_factory

Shapes = Mapping[str, torch.Size]

# Blocks of each stage by depth; from 50 on they are bottlenecks.
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_DEPTHS = {(blocks, depth >= 50): depth for depth, blocks in RESNET_BLOCKS.items()}
# A key of each part that tells its size.
_STEM = "backbone.stem.conv1.weight"
_BLOCK = "backbone.res2.0.conv{}.weight"
_QUERIES, _CLASSES, _FFN = "query_embed.weight", "class_head.weight", "{}.layers.0.ffn.linear1.weight"
_MASKS = "mask_head.blocks.0.conv.weight"


class LackingError(ConversionError):
    """A state dict lacks keys without which its architecture cannot be told."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = list(keys)
        super().__init__(f"there is no {', '.join(self.keys)}")


@dataclass(frozen=True)
class ResNetShape:
    """Sizes of a ResNet, by the names of Detectron2's config."""

    DEPTH: int
    NUM_GROUPS: int
    WIDTH_PER_GROUP: int
    STEM_OUT_CHANNELS: int
    RES2_OUT_CHANNELS: int


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of a transformer, by the names under MODEL.DETR, and the rows of its classifier.

    The number of attention heads leaves no trace in the tensors, but in those of a mask head: ``mask_heads``, which is
    None without one.
    """

    VARIANT: str
    NUM_QUERIES: int
    HIDDEN_DIM: int
    ENC_LAYERS: int
    DEC_LAYERS: int
    FFN_DIM: int
    class_rows: int
    mask_heads: int | None = None

    @property
    def num_classes(self) -> int:
        """The classes that the rows stand for, under the variant's own classification loss."""
        return self.class_rows - (VARIANTS[self.VARIANT].published_classification == "softmax")


@dataclass(frozen=True)
class Architecture:
    """A detector, or a backbone alone."""

    resnet: ResNetShape
    transformer: TransformerShape | None

    def settings(self) -> dict[str, Any]:
        """The config entries that build it."""
        settings: dict[str, Any] = {"MODEL.BACKBONE.NAME": "build_detr_resnet_backbone"}
        settings |= {f"MODEL.RESNETS.{key}": value for key, value in asdict(self.resnet).items()}
        if self.transformer is not None:
            settings |= {f"MODEL.DETR.{key}": value for key, value in asdict(self.transformer).items() if key.isupper()}
            settings["MODEL.DETR.NUM_CLASSES"] = self.transformer.num_classes
            # Other code bases train each variant with the loss of its paper.
            settings["MODEL.DETR.LOSS.CLASSIFICATION"] = VARIANTS[self.transformer.VARIANT].published_classification
            if self.transformer.mask_heads is not None:
                settings |= {"MODEL.MASK_ON": True, "MODEL.DETR.NUM_HEADS": self.transformer.mask_heads}
        return settings

    def shapes(self) -> Shapes:
        """Names and shapes of the state dict of a model of this architecture."""
        return _shapes(self)


def infer_architecture(shapes: Shapes, variant: str | None) -> Architecture:
    """Reads sizes from a detector's state dict, which may be incomplete otherwise.

    Args:
        shapes: by the names of this package, without "detector.".
        variant: MODEL.DETR.VARIANT; None for a backbone alone.

    Raises:
        LackingError: a key that tells a size is missing.
        ConversionError: the backbone is no ResNet that Detectron2 can build.
    """
    needed = [_STEM, _BLOCK.format(1), _BLOCK.format(2)]
    if variant is not None:
        needed += [_QUERIES, _CLASSES, _FFN.format("encoder"), _FFN.format("decoder")]
    if lacking := [key for key in needed if key not in shapes]:
        raise LackingError(lacking)
    resnet = _infer_resnet(shapes)
    if variant is None:
        return Architecture(resnet, None)
    num_queries, dim = shapes[_QUERIES]
    transformer = TransformerShape(
        VARIANT=variant,
        NUM_QUERIES=num_queries,
        HIDDEN_DIM=dim,
        ENC_LAYERS=_count(shapes, r"encoder\.layers\.(\d+)\."),
        DEC_LAYERS=_count(shapes, r"decoder\.layers\.(\d+)\."),
        FFN_DIM=shapes[_FFN.format("encoder")][0],
        class_rows=shapes[_CLASSES][0],
        mask_heads=shapes[_MASKS][0] - dim if _MASKS in shapes else None,
    )
    return Architecture(resnet, transformer)


def _infer_resnet(shapes: Shapes) -> ResNetShape:
    blocks = tuple(_count(shapes, rf"backbone\.res{stage}\.(\d+)\.") for stage in range(2, 6))
    has_bottlenecks = _BLOCK.format(3) in shapes
    if (blocks, has_bottlenecks) not in _DEPTHS:
        raise ConversionError(
            f"The backbone is a ResNet of {blocks} {'bottlenecks' if has_bottlenecks else 'basic blocks'}; "
            "only ResNet-18, 34, 50, 101 and 152 can be built."
        )
    middle = shapes[_BLOCK.format(2)]
    # A grouped convolution sees only its own group of the channels.
    groups = middle[0] // middle[1] if has_bottlenecks else 1
    return ResNetShape(
        DEPTH=_DEPTHS[blocks, has_bottlenecks],
        NUM_GROUPS=groups,
        WIDTH_PER_GROUP=middle[0] // groups,
        STEM_OUT_CHANNELS=shapes[_STEM][0],
        RES2_OUT_CHANNELS=shapes[_BLOCK.format(3 if has_bottlenecks else 2)][0],
    )


def _count(shapes: Shapes, pattern: str) -> int:
    numbers = {int(match[1]) for key in shapes if (match := re.match(pattern, key))}
    return max(numbers, default=-1) + 1


@lru_cache(maxsize=32)
def _shapes(architecture: Architecture) -> Shapes:
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([part for entry in architecture.settings().items() for part in entry])
    if not cfg.MODEL.MASK_ON:
        # The shapes do not depend on it; the real number need not be known.
        cfg.MODEL.DETR.NUM_HEADS = 1
    # Nothing is allocated or initialized.
    with torch.device("meta"):
        if architecture.transformer is None:
            backbone = build_backbone(cfg)
            return {f"backbone.{key}": tensor.shape for key, tensor in backbone.state_dict().items()}
        variant = VARIANTS[architecture.transformer.VARIANT]
        class_scoring = build_class_scoring(cfg, default=variant.published_classification)
        num_classes = architecture.transformer.num_classes
        classifier = classifier_factory(cfg, class_scoring, num_classes, None)
        detector = variant(cfg, classifier=classifier, mask_head=mask_head_factory(cfg))
    return {key: tensor.shape for key, tensor in detector.state_dict().items()}


def required_config(cfg: CfgNode) -> dict[str, Any]:
    """The entries of a config that weights trained with it need, and that their tensors do not show."""
    required = {
        "INPUT.FORMAT": cfg.INPUT.FORMAT,
        "MODEL.PIXEL_MEAN": list(cfg.MODEL.PIXEL_MEAN),
        "MODEL.PIXEL_STD": list(cfg.MODEL.PIXEL_STD),
        "MODEL.DETR.VARIANT": cfg.MODEL.DETR.VARIANT,
        "MODEL.DETR.NUM_HEADS": cfg.MODEL.DETR.NUM_HEADS,
        "MODEL.DETR.LOSS.CLASSIFICATION": _scores(cfg),
    }
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        for key in ("STRIDE_IN_1X1", "RES5_DILATION"):
            required[f"MODEL.RESNETS.{key}"] = cfg.MODEL.RESNETS[key]
    required |= variant_of(cfg).required_config(cfg)
    if cfg.MODEL.CLIP.TEXT_WEIGHTS:
        required["MODEL.CLIP.LOGIT_SCALE"] = cfg.MODEL.CLIP.LOGIT_SCALE
        # Models without start those with them, as with the selection of queries.
        own = {"QUERIES": cfg.MODEL.CLIP.QUERIES != "none", "OBJECTNESS": cfg.MODEL.CLIP.OBJECTNESS}
        required |= {f"MODEL.CLIP.{key}": cfg.MODEL.CLIP[key] for key, is_set in own.items() if is_set}
    if cfg.MODEL.MASK_ON:
        required |= {f"MODEL.DETR.MASK.{key}": cfg.MODEL.DETR.MASK[key] for key in ("QUERY_DECODER", "SPATIAL_QUERY")}
    return required


def config_mismatches(settings: Mapping[str, Any], cfg: CfgNode) -> list[str]:
    """Says which entries of ``cfg`` differ from those that weights need, one sentence per entry.

    A class count of 0, which is taken from the data, fits any.
    """
    values = flatten(cfg, keep_tuples=True) | {"MODEL.DETR.LOSS.CLASSIFICATION": _scores(cfg)}
    found = []
    for key, required in settings.items():
        value = values[key]
        if (key == "MODEL.DETR.NUM_CLASSES" and value == 0) or _equal(value, required):
            continue
        found.append(f"{key} is {value}, the weights need {required}")
    return found


def _scores(cfg: CfgNode) -> str:
    """How logits become scores, "focal" for all sigmoids: the targets that they were trained with do not matter."""
    return "softmax" if classification_of(cfg) == "softmax" else "focal"


def _equal(value: Any, required: Any) -> bool:
    if isinstance(required, (list, tuple)):
        return len(value) == len(required) and all(abs(a - b) < 0.01 for a, b in zip(value, required, strict=True))
    return value == required
