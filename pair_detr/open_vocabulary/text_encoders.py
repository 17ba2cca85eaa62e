"""Text encoders of CLIP and of its descendants, from local files alone."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.open_vocabulary.class_lists import ClassList
from pair_detr.open_vocabulary.vocabulary import Vocabulary
from pair_detr.tensor_files import TensorFileError, read_tensor_file

logger = logging.getLogger(__name__)

_BATCH_SIZE = 256
# In every archive of OpenAI's, and in no checkpoint of open_clip's.
_OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
# Where the package clip keeps what it downloads.
_CLIP_CACHE = Path("~/.cache/clip")
_STATE_DICT = "Where it comes from, save model.state_dict() alone."


class TextEncoder:
    """Maps texts to vectors, on the CPU: a model with ``encode_text``, and the tokenizer that belongs to it.

    Attributes:
        name: family and model, "clip:ViT-B/32".
    """

    def __init__(self, name: str, model: torch.nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        self.name = name
        self._model = model.float().eval()
        self._tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(N, length) token ids. Texts that are too long are cut; the end token stays."""
        return self._tokenizer(list(texts))

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) fp32 embeddings, of any length."""
        tokens = self.tokenize(texts)
        return torch.cat([self._model.encode_text(part).float() for part in tokens.split(_BATCH_SIZE)])


def build_text_encoder(name: str, checkpoint: str | os.PathLike = "") -> TextEncoder:
    """Loads a text encoder. Nothing is ever downloaded.

    Args:
        name: "clip:<model>", one of ``clip.available_models()``; "clip" alone takes the model in the checkpoint.
            "open_clip:<model>", one of ``open_clip.list_models()`` with CLIP's tokenizer.
        checkpoint: local file: a TorchScript archive as OpenAI publishes it, a state dict, or .safetensors. Code in it
            is not run. "" looks for the file that the package clip has once downloaded.

    Raises:
        FileNotFoundError: there is no such file; the message says how to come by text weights.
        ValueError: there is no such model, or the file holds another one.
        ImportError: the package is not installed.
    """
    family, _, model = name.partition(":")
    if family not in _FAMILIES:
        raise ValueError(f'There is no text encoder "{name}": choose clip:<model> or open_clip:<model>.')
    return _FAMILIES[family](name, model, checkpoint)


def encode_classes(
    encoder: TextEncoder, classes: ClassList, prompts: Sequence[str], use_synonyms: bool = True
) -> Vocabulary:
    """Text weights of classes, averaged over prompts and over synonyms.

    For each word its prompts are encoded, normalized, averaged and normalized; then the words of a class are averaged
    and normalized.

    Args:
        classes: names and synonyms. Underscores become spaces in the texts.
        prompts: texts with "{}" where the word goes.
        use_synonyms: average over them; otherwise the first one stands alone.

    Raises:
        ValueError: a prompt has no "{}", or there is none.
    """
    prompts = list(prompts)
    unusable = [prompt for prompt in prompts if prompt.count("{}") != 1]
    if unusable or not prompts:
        raise ValueError(f'Prompts need one "{{}}" where the class name goes, as "a {{}}"; found {unusable or "none"}.')
    words = [synonyms if use_synonyms else synonyms[:1] for synonyms in classes.values()]
    texts = [prompt.replace("{}", word.replace("_", " ")) for group in words for word in group for prompt in prompts]
    logger.info("Encoding %d texts for %d classes with %s.", len(texts), len(classes), encoder.name)
    by_prompt = F.normalize(encoder.encode(texts), dim=-1).unflatten(0, (-1, len(prompts)))
    by_word = F.normalize(by_prompt.mean(1), dim=-1)
    weights = torch.stack([part.mean(0) for part in by_word.split([len(group) for group in words])])
    metadata = {"synonyms": [list(group) for group in words], "prompts": prompts, "encoder": encoder.name}
    return Vocabulary(tuple(classes), weights, metadata, f"The vocabulary encoded by {encoder.name}")


def _build_clip(name: str, model: str, checkpoint: str | os.PathLike) -> TextEncoder:
    try:
        import clip
        from clip.model import build_model
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":
            remedy = 'it needs pkg_resources, run "pip install setuptools<81"'
        else:
            remedy = 'run "pip install clip-anytorch"'
        raise ImportError(f"{name} needs the package clip, which cannot be imported: {remedy}.") from error
    if model and model not in _CLIP_DIMS:
        raise ValueError(f'clip has no model "{model}"; choose one of {", ".join(_CLIP_DIMS)}.')
    # The file name that clip downloads to.
    cached = _CLIP_CACHE / f"{model.replace('/', '-').replace('@', '-')}.pt"
    command = f"python -c \"import clip; clip.load('{model or 'ViT-B/32'}', download_root='.')\""
    path = _find_checkpoint(name, checkpoint or cached, command)
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
    length = network.context_length
    return TextEncoder(name, network, lambda texts: clip.tokenize(texts, context_length=length, truncate=True))


def _build_open_clip(name: str, model: str, checkpoint: str | os.PathLike) -> TextEncoder:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ImportError(f'The text encoder {name} needs a package: run "pip install open_clip_torch".') from error
    if model not in open_clip.list_models():
        raise ValueError(f'open_clip has no model "{model}"; open_clip.list_models() lists them.')
    path = _find_checkpoint(
        name,
        checkpoint,
        'python -c "import open_clip, torch; '
        f"torch.save(open_clip.create_model('{model}', pretrained=TAG).state_dict(), 'model.pt')\"",
    )
    config = open_clip.get_model_config(model)
    if "siglip" in model.lower() or {"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys():
        raise ValueError(f"The tokenizer of {name} would have to be downloaded. Choose a model with CLIP's tokenizer.")
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
    return TextEncoder(name, network, open_clip.get_tokenizer(model))


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
_FAMILIES = {"clip": _build_clip, "open_clip": _build_open_clip}


def _find_checkpoint(name: str, checkpoint: str | os.PathLike, command: str) -> Path:
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    where = f"in {path}" if str(checkpoint) else "named"
    raise FileNotFoundError(
        f"The weights of {name} are not {where}, and nothing is downloaded. There are two ways out. Download them on a "
        f"machine with internet access ({command}), copy the file here, and give its path: --checkpoint, or "
        "MODEL.CLIP.CHECKPOINT in a config. Or use text weights that others have made, as MODEL.CLIP.TEXT_WEIGHTS: "
        "Detic's repository has those of COCO, LVIS, Objects365 and OpenImages in datasets/metadata."
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
