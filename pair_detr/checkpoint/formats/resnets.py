"""Names of a ResNet's parts in each code base; those of this package are Detectron2's."""

from collections.abc import Sequence

from pair_detr.checkpoint.formats.name_table import Names, with_prefix

_STAGES = range(2, 6)
_NORM = ("weight", "bias", "running_mean", "running_var")
_BRANCHES = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
# Of a block: this package's, torchvision's in the same order, and transformers'.
_BLOCK = ("conv{n}.weight", "conv{n}.norm.{s}", "shortcut.weight", "shortcut.norm.{s}")
_TORCHVISION_BLOCK = ("conv{n}.weight", "bn{n}.{s}", "downsample.0.weight", "downsample.1.{s}")
_TRANSFORMERS_BLOCK: Names = {
    "shortcut.convolution.weight": "shortcut.weight",
    "shortcut.normalization.{s}": "shortcut.norm.{s}",
    **{f"layer.{i}.convolution.weight": f"conv{i + 1}.weight" for i in range(3)},
    **{f"layer.{i}.normalization.{{s}}": f"conv{i + 1}.norm.{{s}}" for i in range(3)},
}

DETECTRON2: Names = {
    "stem.conv1.weight": "stem.conv1.weight",
    "stem.conv1.norm.{s}": "stem.conv1.norm.{s}",
}
# torchvision's names are also those of timm, of mmdetection and of the official files.
TORCHVISION: Names = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.{s}": "stem.conv1.norm.{s}",
}
TRANSFORMERS: Names = {
    "embedder.embedder.convolution.weight": "stem.conv1.weight",
    "embedder.embedder.normalization.{s}": "stem.conv1.norm.{s}",
}
for _stage in _STAGES:
    _prefix = f"res{_stage}.{{i}}."
    DETECTRON2 |= with_prefix(_prefix, _prefix, dict(zip(_BLOCK, _BLOCK, strict=True)))
    TORCHVISION |= with_prefix(f"layer{_stage - 1}.{{i}}.", _prefix, dict(zip(_TORCHVISION_BLOCK, _BLOCK, strict=True)))
    TRANSFORMERS |= with_prefix(f"encoder.stages.{_stage - 2}.layers.{{i}}.", _prefix, _TRANSFORMERS_BLOCK)


def caffe2(norm: Sequence[str]) -> Names:
    """Names in Detectron's files, for their names of a norm's tensors: two if its statistics are folded, else four."""
    names: Names = {"conv1_w": "stem.conv1.weight"}
    convolutions = {"res_conv1": "stem.conv1"}
    for stage in _STAGES:
        for theirs, ours in _BRANCHES.items():
            names[f"res{stage}_{{i}}_{theirs}_w"] = f"res{stage}.{{i}}.{ours}.weight"
            convolutions[f"res{stage}_{{i}}_{theirs}"] = f"res{stage}.{{i}}.{ours}"
    for theirs, ours in convolutions.items():
        names |= {f"{theirs}_bn_{suffix}": f"{ours}.norm.{name}" for name, suffix in zip(_NORM, norm, strict=False)}
    return names
