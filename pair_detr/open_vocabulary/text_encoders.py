"""Text encoders of CLIP and of its descendants, from local files alone."""

import logging
import os
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.open_vocabulary.class_lists import ClassList
from pair_detr.open_vocabulary.clip_models import import_clip, import_open_clip, load_clip_model, split_name
from pair_detr.open_vocabulary.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_BATCH_SIZE = 256
_REMEDY = (
    "use text weights that others have made, as MODEL.CLIP.TEXT_WEIGHTS: Detic's repository has those of COCO, LVIS, "
    "Objects365 and OpenImages in datasets/metadata."
)


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
    """Loads a text encoder; for name, checkpoint and errors see :func:`load_clip_model`.

    Raises:
        ValueError: also if the tokenizer of the model is not CLIP's, and would have to be downloaded.
    """
    family, model = split_name(name)
    if family == "clip":
        network = load_clip_model(name, checkpoint, _REMEDY)
        clip, length = import_clip(name), network.context_length
        return TextEncoder(name, network, lambda texts: clip.tokenize(texts, context_length=length, truncate=True))
    open_clip, config = import_open_clip(name)
    if "siglip" in model.lower() or {"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys():
        raise ValueError(f"The tokenizer of {name} would have to be downloaded. Choose a model with CLIP's tokenizer.")
    return TextEncoder(name, load_clip_model(name, checkpoint, _REMEDY), open_clip.get_tokenizer(model))


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
