"""Reads files of weights, whatever wrote them, without running code that they may hold."""

from pathlib import Path
from typing import Any

from torch import Tensor

from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.state_dicts import Checkpoint, checkpoint_of, unwrapped_checkpoint
from pair_detr.tensor_files import TensorFileError, read_tensor_file
from pair_detr.utils.json_files import read_json

_RGB = 3
# Weights in a folder of transformers, the kinds that cannot hold code first: the first one that is there is read.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_state_dict(path: str | Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The weights in a file; for arguments and errors see :func:`read_checkpoint`."""
    return read_checkpoint(path, allow_pickle).state


def read_checkpoint(path: str | Path, allow_pickle: bool = False, entry: str = "") -> Checkpoint:
    """Reads the weights in a file, and what it says about them.

    Args:
        path: a file of torch (.pth, .pt, .bin), of Detectron2 (.pkl) or of safetensors, or a folder of transformers.
        allow_pickle: also read files that hold more than tensors. Such a file can run any code.
        entry: key of the weights in the file, for one with several; "" takes the usual one. It may go on, after a dot,
            with a key below, or with what the names of the tensors begin with.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ConversionError: it cannot be read, or holds no weights.
    """
    path = Path(path)
    if not path.is_dir():
        return checkpoint_of(_read_file(path, allow_pickle), str(path), entry)
    config_path = path / "config.json"
    if not config_path.is_file():
        raise ConversionError(
            f"{path} is a folder without a config.json. Give a file of weights, or a folder that "
            "transformers' save_pretrained wrote."
        )
    config = _read_json(config_path)
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise ConversionError(f"{path} has a config.json but no weights: one of {', '.join(WEIGHT_FILES)} is needed.")
    state: dict[str, Tensor] = {}
    shards = sorted(set(_read_json(found).get("weight_map", {}).values())) if found.suffix == ".json" else [found.name]
    for shard in shards:
        state |= _read_file(path / shard, allow_pickle)
    hints = {"num_heads": config.get("decoder_attention_heads"), "dilation": config.get("dilation")}
    if labels := config.get("id2label"):
        hints["class_names"] = [labels[key] for key in sorted(labels, key=int)]
    processor_path = path / "preprocessor_config.json"
    if processor_path.is_file():
        hints |= _image_hints(_read_json(processor_path))
    backbone = config.get("backbone_config")
    if isinstance(backbone, dict) and backbone.get("downsample_in_bottleneck"):
        hints["pixels"] = hints.get("pixels", {}) | {"MODEL.RESNETS.STRIDE_IN_1X1": True}
    return unwrapped_checkpoint(state, str(found), hints={k: v for k, v in hints.items() if v is not None})


def _image_hints(processor: dict[str, Any]) -> dict[str, Any]:
    """What transformers' description of the images says in this package's terms, as far as it does."""
    pixels, sizes = {}, {}
    for key, name in (("MODEL.PIXEL_MEAN", "image_mean"), ("MODEL.PIXEL_STD", "image_std")):
        values = processor.get(name)
        if isinstance(values, list) and len(values) == _RGB and all(isinstance(x, (int, float)) for x in values):
            pixels[key] = [255 * x for x in values]
    size = processor.get("size")
    # Older files have two numbers.
    edges = size if isinstance(size, dict) else {"shortest_edge": size, "longest_edge": processor.get("max_size")}
    for key, name in (("INPUT.MIN_SIZE_TEST", "shortest_edge"), ("INPUT.MAX_SIZE_TEST", "longest_edge")):
        if isinstance(edges.get(name), int):
            sizes[key] = edges[name]
    return {"pixels": pixels, "input_config": sizes}


def _read_file(path: Path, allow_pickle: bool) -> Any:
    try:
        return read_tensor_file(path, allow_pickle)
    except TensorFileError as error:
        raise ConversionError(str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ConversionError(f"{error} Download it again.") from error
