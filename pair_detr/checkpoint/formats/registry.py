"""Every layout of weights that is known, and how to tell which one a file has."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pair_detr.checkpoint.architecture import Architecture, LackingError, infer_architecture
from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.formats import detectors, resnets
from pair_detr.checkpoint.formats.detectors import with_masks
from pair_detr.checkpoint.formats.name_table import Names, NameTable, with_prefix
from pair_detr.utils.messages import join_some

TORCHVISION_PIXELS: dict[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
CAFFE2_PIXELS: dict[str, Any] = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
}
_COUNTERS = r".*\.num_batches_tracked"
_NAMED = 6


@dataclass(frozen=True)
class Layout:
    """How one code base lays out the weights of one model.

    Attributes:
        name: for messages.
        sources: the choices of ``--source`` that it belongs to.
        variant: MODEL.DETR.VARIANT; None for a backbone alone.
        names: its names for ours.
        ignored: keys that no model needs, say the counters of batch norms or an ImageNet classifier.
        pixels: config entries that the weights were trained with.
        folded_norm: the statistics of batch norms are part of their weight and bias.
    """

    name: str
    sources: tuple[str, ...]
    variant: str | None
    names: NameTable
    ignored: tuple[str, ...] = (_COUNTERS,)
    pixels: dict[str, Any] = field(default_factory=lambda: TORCHVISION_PIXELS)
    folded_norm: bool = False

    def is_ignored(self, key: str) -> bool:
        """Whether no model needs the key."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)

    def count_unknown(self, keys: Iterable[str]) -> int:
        """How many of the keys the layout does not have."""
        return sum(not self.is_ignored(key) and self.names.to_native(key) is None for key in keys)

    def rename(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The tensors under our names, and the keys that the layout does not have."""
        kept = {key: tensor for key, tensor in state.items() if not self.is_ignored(key)}
        renamed, unknown = self.names.rename_to_native(kept)
        if self.folded_norm:
            for key in [key for key in renamed if key.endswith(".norm.weight")]:
                prefix = key.removesuffix("weight")
                renamed[prefix + "running_mean"] = torch.zeros_like(renamed[key])
                # Together with the layer's epsilon the variance is 1.
                renamed[prefix + "running_var"] = torch.ones_like(renamed[key]) - 1e-5
        return renamed, unknown


def _detectors(name: str, sources: tuple[str, ...], names: tuple[Names, Names], **options: Any) -> list[Layout]:
    """DETR of the first source, and Conditional DETR of the last."""
    detr, conditional = map(NameTable, names)
    return [
        Layout(f"{name} DETR", sources[:1], "detr", detr, **options),
        Layout(f"{name} Conditional DETR", sources[-1:], "conditional_detr", conditional, **options),
    ]


def _backbone(name: str, sources: tuple[str, ...], names: Names, **options: Any) -> Layout:
    return Layout(name, sources, None, NameTable(with_prefix("", "backbone.", names)), **options)


def _d2_detr(name: str, names: Names) -> Layout:
    return Layout(f"DETR's wrapper for Detectron2{name}", ("d2_detr",), "detr", NameTable(names), _AND_CRITERION)


_AND_CRITERION = (_COUNTERS, r"criterion\.empty_weight")
_CAFFE2_IGNORED = (r"(fc1000|pred)_[wb]", "conv1_b", r".*_momentum")
# What Detectron's files call weight, bias, running_mean and running_var.
_CAFFE2_NORMS = {
    "folded batch norm": ("s", "b"),
    "folded batch norm, gamma and beta": ("gamma", "beta"),
    "batch norm": ("s", "b", "rm", "riv"),
    "batch norm, gamma and beta": ("gamma", "beta", "running_mean", "running_var"),
}

LAYOUTS: tuple[Layout, ...] = (
    *_detectors("official", ("detr", "conditional_detr"), detectors.OFFICIAL),
    _d2_detr("", detectors.D2_DETR),
    # Of no file of Conditional DETR's authors, but of models that are converted to their names.
    *_detectors("official (with masks)", ("detr",), tuple(map(with_masks, detectors.OFFICIAL))),
    _d2_detr(" (with masks)", detectors.D2_DETR_MASKS),
    *_detectors("mmdetection's", ("mmdet",), detectors.MMDET),
    *_detectors("detrex's", ("detrex",), detectors.DETREX, ignored=_AND_CRITERION),
    *(
        layout
        for masks in ("", ", with masks")
        for (release, kind), (detr, conditional) in detectors.TRANSFORMERS.items()
        for layout in _detectors(
            f"transformers {release}.x ({kind} backbone{masks})",
            ("transformers",),
            (with_masks(detr, "detr.", release), with_masks(conditional, "conditional_detr.", release))
            if masks
            else (detr, conditional),
        )
    ),
    _backbone("torchvision's ResNet", ("torchvision", "timm"), resnets.TORCHVISION, ignored=(_COUNTERS, r"fc\..*")),
    _backbone("Detectron2's ResNet", ("detectron2",), resnets.DETECTRON2, ignored=(_COUNTERS, r"(stem\.)?fc\..*")),
    *(
        _backbone(
            f"Detectron's ResNet ({kind})",
            ("detectron2",),
            resnets.caffe2(norm),
            ignored=_CAFFE2_IGNORED,
            pixels=CAFFE2_PIXELS,
            folded_norm=len(norm) == 2,
        )
        for kind, norm in _CAFFE2_NORMS.items()
    ),
)
SOURCES: tuple[str, ...] = tuple(dict.fromkeys(source for layout in LAYOUTS for source in layout.sources))


def layout_named(name: str) -> Layout:
    """The layout of that name."""
    return next(layout for layout in LAYOUTS if layout.name == name)


@dataclass(frozen=True)
class Match:
    """How well a state dict fits a layout.

    Attributes:
        renamed: the tensors that the layout knows, by our names.
        architecture: what they make up; None if it cannot be told.
        missing: keys of the layout that the state dict lacks.
        unexpected: keys of the state dict that the layout does not have.
        problem: why the architecture cannot be told, or which shapes do not agree with it.
    """

    layout: Layout
    renamed: dict[str, Tensor]
    architecture: Architecture | None
    missing: list[str]
    unexpected: list[str]
    problem: str = ""

    @property
    def is_exact(self) -> bool:
        """Nothing is missing or left over, and all shapes agree."""
        return not (self.missing or self.unexpected or self.problem)

    def describe(self) -> str:
        """One paragraph for an error message."""
        lines = [f"{self.layout.name}: {len(self.missing)} keys missing, {len(self.unexpected)} unexpected"]
        lists = ("missing", self.missing), ("unexpected", self.unexpected)
        lines += [f"  {name}: {join_some(keys, _NAMED)}" for name, keys in lists if keys]
        return "\n".join([*lines, *([f"  {self.problem}"] if self.problem else [])])


def match_layout(state: Mapping[str, Tensor], layout: Layout) -> Match:
    """Compares a state dict with a layout, key by key and shape by shape."""
    renamed, unexpected = layout.rename(state)
    shapes = {key: tensor.shape for key, tensor in renamed.items()}
    try:
        architecture = infer_architecture(shapes, layout.variant)
        expected = architecture.shapes()
    except LackingError as error:
        missing = [name for key in error.keys for name in layout.names.to_foreign(key) or []]
        return Match(layout, renamed, None, missing, unexpected)
    except (ValueError, AssertionError) as error:
        # Sizes that no model can have, say a width that is not divisible by 4.
        return Match(layout, renamed, None, [], unexpected, str(error))
    missing = [
        name
        for key in expected
        if key not in shapes
        for name in layout.names.to_foreign(key) or [f"(our {key})"]
        if name not in state
    ]
    # Renamed well, but of no use to the model: the projection of a positional query in a later layer, for instance.
    unexpected += [name for key in shapes if key not in expected for name in layout.names.to_foreign(key) or []]
    wrong = [
        f"{key} is {tuple(shape)}, expected {tuple(expected[key])}"
        for key, shape in shapes.items()
        if key in expected and shape != expected[key]
    ]
    problem = f"shapes that do not agree with the others: {join_some(wrong, _NAMED)}" if wrong else ""
    return Match(layout, renamed, architecture, missing, unexpected, problem)


def recognize(state: Mapping[str, Tensor], source: str = "auto") -> Match:
    """Finds the layout that a state dict has.

    Args:
        state: as it is in the file.
        source: one of :data:`SOURCES`, or "auto".

    Raises:
        ConversionError: it has none of them exactly; the message says which come closest and what keeps them apart.
    """
    if source != "auto" and source not in SOURCES:
        raise ConversionError(f"--source {source} is not known; choose auto, {', '.join(SOURCES)}.")
    layouts = [layout for layout in LAYOUTS if source == "auto" or source in layout.sources]
    # Names alone rule most layouts out.
    ranked = sorted(layouts, key=lambda layout: layout.count_unknown(state))
    matches = []
    for layout in ranked[:3]:
        match = match_layout(state, layout)
        if match.is_exact:
            return match
        matches.append(match)
    matches = [match for match in matches if match.renamed]
    if source != "auto" and (other := recognized_name(state)):
        raise ConversionError(f"The weights are not {source}'s. They are {other}'s: leave out --source {source}.")
    if not matches:
        whose = "of no known source" if source == "auto" else f"not of source {source}"
        raise ConversionError(
            f"The weights are {whose}: none of their {len(state)} keys belongs to it ({join_some(list(state), 4)}). "
            f"Known are {', '.join(SOURCES)}; for a timm model other than a ResNet there is MODEL.TIMM.WEIGHTS."
        )
    matches.sort(key=lambda match: len(match.missing) + len(match.unexpected))
    raise ConversionError(
        "The weights fit no known source exactly. The closest are\n" + "\n".join(match.describe() for match in matches)
    )


def recognized_name(state: Mapping[str, Tensor]) -> str:
    """The name of the layout that a state dict has exactly; "" if it has none."""
    try:
        return recognize(state).layout.name
    except ConversionError:
        return ""
