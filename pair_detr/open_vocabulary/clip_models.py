"""Whole models of CLIP and of its descendants, from local files alone."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pair_detr.tensor_files import TensorFileError, read_tensor_file

# In every archive of OpenAI's, and in no checkpoint of open_clip's.
_OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
# Where the package clip keeps what it downloads.
_CLIP_CACHE = Path("~/.cache/clip")
_STATE_DICT = "Where it comes from, save model.state_dict() alone."
# Width of the embeddings of the models that the package clip has.
_CLIP_DIMS = {
    "RN50": 1024,
    "RN101": 512,
    "RN50x4": 640,
    "RN50x16": 768,
    "RN50x64": 1024,
    "ViT-B/32": 512,
    "ViT-B/16": 512,
    "ViT-L/14": 768,
    "ViT-L/14@336px": 768,
}


def load_clip_model(name: str, checkpoint: str | os.PathLike = "", remedy: str = "") -> nn.Module:
    """Loads a model with ``encode_image`` and ``encode_text``, in fp32 and in evaluation mode. Nothing is downloaded.

    Args:
        name: "clip:<model>", one of ``clip.available_models()``; "clip" alone takes the model in the checkpoint.
            "open_clip:<model>", one of ``open_clip.list_models()``.
        checkpoint: local file: a TorchScript archive as OpenAI publishes it, a state dict, or .safetensors. Code in it
            is not run. "" looks for the file that the package clip has once downloaded.
        remedy: what to do where there is no file, beside downloading it.

    Raises:
        FileNotFoundError: there is no such file; the message says how to come by it.
        ValueError: there is no such model, or the file holds another one.
        ImportError: the package is not installed.
    """
    family, model = split_name(name)
    return _LOADERS[family](name, model, checkpoint, remedy)


def split_name(name: str) -> tuple[str, str]:
    """The family, "clip" or "open_clip", and the model, "" for that in the checkpoint; a ValueError for others."""
    family, _, model = name.partition(":")
    if family not in _LOADERS:
        raise ValueError(f'There is no model "{name}" of CLIP: choose clip:<model> or open_clip:<model>.')
    return family, model


def import_clip(name: str) -> ModuleType:
    """The package clip, for the model ``name``; an ImportError that says what to install."""
    try:
        import clip
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":
            remedy = 'it needs pkg_resources, run "pip install setuptools<81"'
        else:
            remedy = 'run "pip install clip-anytorch"'
        raise ImportError(f"{name} needs the package clip, which cannot be imported: {remedy}.") from error
    return clip


def import_open_clip(name: str) -> tuple[ModuleType, dict[str, Any]]:
    """The package open_clip, and its config of the model ``name``.

    Raises:
        ImportError: it is not installed.
        ValueError: it has no such model.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ImportError(f'{name} needs the package open_clip: run "pip install open_clip_torch".') from error
    model = split_name(name)[1]
    if model not in open_clip.list_models():
        raise ValueError(f'open_clip has no model "{model}"; open_clip.list_models() lists them.')
    return open_clip, open_clip.get_model_config(model)


def require_clip_model(model: str) -> None:
    """A ValueError if the package clip has no model of this name; "" is that of a checkpoint."""
    if model and model not in _CLIP_DIMS:
        raise ValueError(f'clip has no model "{model}"; choose one of {", ".join(_CLIP_DIMS)}.')


def _load_clip(name: str, model: str, checkpoint: str | os.PathLike, remedy: str) -> nn.Module:
    import_clip(name)
    from clip.model import build_model

    require_clip_model(model)
    # The file name that clip downloads to.
    cached = _CLIP_CACHE / f"{model.replace('/', '-').replace('@', '-')}.pt"
    command = f"python -c \"import clip; clip.load('{model or 'ViT-B/32'}', download_root='.')\""
    path = _find_checkpoint(name, checkpoint or cached, command, remedy)
    state = _read_state(path)
    try:
        dim = state["text_projection"].shape[1]
        # It takes the last entries away, and rounds all weights to half precision.
        network = build_model(dict(state)).float()
        network.load_state_dict({key: value for key, value in state.items() if key not in _OPENAI_KEYS})
    except (KeyError, AttributeError, IndexError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path} does not hold a model of CLIP's ({type(error).__name__}: {error}).") from error
    if model and dim != _CLIP_DIMS[model]:
        raise ValueError(
            f"{path} holds a model with embeddings of width {dim}, but those of {name} have {_CLIP_DIMS[model]}: give "
            "the file of that model, or the name of this one."
        )
    return network.eval()


def _load_open_clip(name: str, model: str, checkpoint: str | os.PathLike, remedy: str) -> nn.Module:
    open_clip, config = import_open_clip(name)
    path = _find_checkpoint(
        name,
        checkpoint,
        'python -c "import open_clip, torch; '
        f"torch.save(open_clip.create_model('{model}', pretrained=TAG).state_dict(), 'model.pt')\"",
        remedy,
    )
    state = _read_state(path)
    if any(key in state for key in _OPENAI_KEYS) and not config.get("quick_gelu"):
        raise ValueError(
            f"{path} holds a model of OpenAI's, which has QuickGELU activations; open_clip's {model} has others, and "
            f'would give wrong embeddings without an error. Take "open_clip:{model}-quickgelu", or "clip".'
        )
    network = open_clip.create_model(model)
    try:
        network.load_state_dict({key: value for key, value in state.items() if key not in _OPENAI_KEYS})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of {name}. {error}") from error
    return network.float().eval()


_LOADERS: dict[str, Callable[[str, str, str | os.PathLike, str], nn.Module]] = {
    "clip": _load_clip,
    "open_clip": _load_open_clip,
}


def _find_checkpoint(name: str, checkpoint: str | os.PathLike, command: str, remedy: str) -> Path:
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    where = f"in {path}" if str(checkpoint) else "named"
    raise FileNotFoundError(
        f"The weights of {name} are not {where}, and nothing is downloaded. There are two ways out. Download them on a "
        f"machine with internet access ({command}), copy the file here, and give its path: --checkpoint, or "
        f"MODEL.CLIP.CHECKPOINT in a config. Or {remedy}"
    )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        # The code in a TorchScript archive, which torch.jit.load might run, is left out.
        state = read_tensor_file(path, remedy=_STATE_DICT)
    except TensorFileError as error:
        raise ValueError(f"{error} It must be a TorchScript archive or a state dict.") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} does not hold a state dict: save model.state_dict().")
    return {key.removeprefix("module."): value for key, value in state.items()}
