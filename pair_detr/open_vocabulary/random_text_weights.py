"""Text weights for trials without a text encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pair_detr.open_vocabulary.vocabulary import Vocabulary

# Of two texts, on average: that of COCO's class names.
_COSINE = 0.8


def random_text_weights(names: Sequence[str], dim: int = 64) -> Vocabulary:
    """Directions that have nothing to do with the names, as alike as CLIP's texts are; the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    common, *own = F.normalize(torch.randn(1 + len(names), dim, generator=generator), dim=1)
    weights = _COSINE**0.5 * common + (1 - _COSINE) ** 0.5 * torch.stack(own)
    return Vocabulary(tuple(names), weights, {"encoder": "random"})
