"""Names of a ResNet's parts in each code base; those of this package are Detectron2's."""

from collections.abc import Sequence

from pair_detr.checkpoint.formats.name_table import Names

_STAGES = range(2, 6)
_NORM = ("weight", "bias", "running_mean", "running_var")
_BRANCHES = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}

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
    _block = f"res{_stage}.{{i}}"
    DETECTRON2 |= {
        f"{_block}.conv{{n}}.weight": f"{_block}.conv{{n}}.weight",
        f"{_block}.conv{{n}}.norm.{{s}}": f"{_block}.conv{{n}}.norm.{{s}}",
        f"{_block}.shortcut.weight": f"{_block}.shortcut.weight",
        f"{_block}.shortcut.norm.{{s}}": f"{_block}.shortcut.norm.{{s}}",
    }
    _layer = f"layer{_stage - 1}.{{i}}"
    TORCHVISION |= {
        f"{_layer}.conv{{n}}.weight": f"{_block}.conv{{n}}.weight",
        f"{_layer}.bn{{n}}.{{s}}": f"{_block}.conv{{n}}.norm.{{s}}",
        f"{_layer}.downsample.0.weight": f"{_block}.shortcut.weight",
        f"{_layer}.downsample.1.{{s}}": f"{_block}.shortcut.norm.{{s}}",
    }
    _layer = f"encoder.stages.{_stage - 2}.layers.{{i}}"
    TRANSFORMERS |= {
        f"{_layer}.shortcut.convolution.weight": f"{_block}.shortcut.weight",
        f"{_layer}.shortcut.normalization.{{s}}": f"{_block}.shortcut.norm.{{s}}",
    }
    for _conv in (1, 2, 3):
        TRANSFORMERS |= {
            f"{_layer}.layer.{_conv - 1}.convolution.weight": f"{_block}.conv{_conv}.weight",
            f"{_layer}.layer.{_conv - 1}.normalization.{{s}}": f"{_block}.conv{_conv}.norm.{{s}}",
        }


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
