"""Classifiers of queries; a text classifier compares a projected query with each class's text."""

import logging
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from pair_detr.layers import FullPrecision
from pair_detr.losses.classification import ClassScoring, Softmax
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.modeling.heads import classification_head
from pair_detr.open_vocabulary.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# What is left at the start of the projection's part in the span of the texts. It must not be zero: no gradient would
# reach the decoder in the first step.
_INITIAL_SHARE = 0.1


class TextClassifier(FullPrecision, nn.Module):
    """Logits ``logit_scale * cos(W h, t_k) + b`` for a query's state h and the text embedding t_k of each class.

    W and b are learned, the texts are fixed: they are not part of the state dict, so that a checkpoint fits any
    vocabulary whose embeddings have the same width. A no-object class, if there is one, has a learned embedding of its
    own and no bias; objectness, if there is any, is a linear function of h.

    Texts of a vocabulary are alike (cosine 0.8 on average for COCO), so that a random W gives a query the same large
    logit for all classes, and a loss 30 times (COCO) to 500 times (LVIS) that of a linear classifier. W starts almost
    perpendicular to the directions that most of the texts lie in: all logits start near b, as a linear classifier's.

    Source: Detic (arXiv 2201.02605), section 3.2, for the form; the initialization is this project's.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: Vocabulary,
        *,
        logit_scale: float = 50.0,
        prior_prob: float | None = 0.01,
        no_object: bool = False,
        objectness: bool = False,
    ) -> None:
        """
        Args:
            dim: width of the decoder's states.
            vocabulary: C classes with texts of width D.
            logit_scale: factor of the cosines, positive.
            prior_prob: every class's probability at the start, for sigmoid classifiers; None starts with a bias of 0.
            no_object: adds a last logit, for no object.
            objectness: adds a last logit, for an object of any class, which then starts at ``prior_prob``; every class
                of an object starts at 0.5.
        """
        super().__init__()
        if not 0 < logit_scale < math.inf:
            raise ValueError(f"MODEL.CLIP.LOGIT_SCALE is {logit_scale}; it must be above 0, for example 50.")
        self.logit_scale = logit_scale
        self.names = vocabulary.names
        self.projection = nn.Linear(dim, vocabulary.dim, bias=False)
        self.objectness = classification_head(dim, 1, prior_prob) if objectness else None
        bias = 0.0 if prior_prob is None else -math.log((1 - prior_prob) / prior_prob)
        # The bias of what is an object for sure is another one, and weights of the one do not start the other.
        self.bias = None if objectness else nn.Parameter(torch.tensor(bias))
        self.object_bias = nn.Parameter(torch.tensor(0.0)) if objectness else None
        device = self.projection.weight.device
        # Like all texts and none in particular: its logit, too, starts near theirs.
        mean = F.normalize(vocabulary.weights.mean(0, keepdim=True), dim=-1).to(device)
        self.no_object = nn.Parameter(mean) if no_object else None
        self.register_buffer("texts", vocabulary.weights.to(device), persistent=False)
        self._initialize(vocabulary.weights)

    @torch.no_grad()
    def _initialize(self, texts: Tensor) -> None:
        weight = self.projection.weight
        nn.init.orthogonal_(weight)
        text_dim = texts.shape[1]
        # Eigenvectors of the largest eigenvalues: the directions with most of the texts in them. Half of all directions
        # at most, as W h has to point somewhere.
        directions = torch.linalg.eigh(texts.T.cpu() @ texts.cpu()).eigenvectors
        directions = directions[:, text_dim - min(len(texts), text_dim // 2) :].to(weight.device)
        weight -= (1 - _INITIAL_SHARE) * directions @ (directions.T @ weight)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Classifies by other texts from now on; nothing that was learned changes.

        Raises:
            ValueError: the texts are of another width.
        """
        expected = self.projection.out_features
        if vocabulary.dim != expected:
            raise ValueError(
                f"{vocabulary.source}: the text weights have {vocabulary.dim} columns, but the model was trained with "
                f"{expected}. Make them with the text encoder of the training (CLIP's ViT-B/32, ViT-B/16 and RN101 "
                "have 512 columns, RN50 1024, RN50x4 640, ViT-L/14 768)."
            )
        self.names = vocabulary.names
        self.texts = vocabulary.weights.to(self.texts)

    def split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(..., C) logits of :meth:`forward` -> those of the classes, and (...) of an object of any class."""
        # Not len(), which a graph takes for a constant.
        classes = logits[..., : self.texts.shape[0]]
        return classes, classes.amax(-1) if self.objectness is None else logits[..., -1]

    def forward(self, states: Tensor) -> Tensor:
        """(..., dim) states -> (..., C) fp32 logits, (..., C + 1) with a no-object class or objectness."""
        features = self.projection(states.to(self.projection.weight.dtype))
        # Cosines of texts differ by a few hundredths, and bfloat16 has steps of four thousandths there.
        with torch.autocast(states.device.type, enabled=False):
            features = self.logit_scale * F.normalize(features.float(), dim=-1)
            logits = features @ self.texts.float().T + (self.bias if self.object_bias is None else self.object_bias)
            if self.objectness is not None:
                return torch.cat((logits, self.objectness(states).float()), dim=-1)
            if self.no_object is None:
                return logits
            return torch.cat((logits, features @ F.normalize(self.no_object.float(), dim=-1).T), dim=-1)


def classifier_factory(
    cfg: CfgNode, class_scoring: ClassScoring, num_classes: int, vocabulary: Vocabulary | None
) -> Callable[[int], nn.Module]:
    """What makes the classifier, called with the width of the decoder's states.

    Args:
        cfg: config.
        class_scoring: how the logits will be read.
        num_classes: of a linear classifier.
        vocabulary: of a text classifier; None makes a linear one.
    """
    if vocabulary is None:
        return partial(
            classification_head,
            num_classes=class_scoring.num_logits(num_classes),
            prior_prob=class_scoring.prior_prob,
        )
    return partial(
        TextClassifier,
        vocabulary=vocabulary,
        logit_scale=cfg.MODEL.CLIP.LOGIT_SCALE,
        prior_prob=class_scoring.prior_prob,
        no_object=isinstance(class_scoring, Softmax),
        objectness=isinstance(class_scoring, ObjectnessScoring),
    )
