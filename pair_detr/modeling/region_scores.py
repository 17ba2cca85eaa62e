"""Class scores of a frozen image encoder for the boxes that a detector predicts, in inference alone."""

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.ops import roi_align

from pair_detr.config.choices import CLIP_BACKBONE
from pair_detr.layers import FullPrecision, cxcywh_to_xyxy
from pair_detr.losses.classification import ClassScoring
from pair_detr.modeling.backbone.clip import AttentionPool, ClipResNet
from pair_detr.open_vocabulary.base_classes import base_classes
from pair_detr.open_vocabulary.vocabulary import Vocabulary
from pair_detr.structures import Batch, Predictions
from pair_detr.utils.class_names import normalize_name

# Texts are the same up to rounding from here on; those of LVIS, where no two are, have cosines up to 0.97.
_SAME_TEXT = 1 - 1e-4


class RegionScores(FullPrecision, nn.Module):
    """Scores ``detector ** (1 - w) * region ** w`` of each box and class, with one weight w for base, another for novel
    classes.

    The region's score is a softmax over the classes of ``cos(v, t_k) / temperature``, where v is what the attention
    pool of the image encoder makes of the last feature map in the box, and t_k the text of class k. The probability of
    no object, if there is one, is the detector's.

    A class is novel if its text is that of no base class, so that classes that are exchanged later (in a graph, too)
    are novel unless they are known.

    Source: F-VLM (arXiv 2209.15639), section 3.4, and its authors' code (``ensemble_class_outputs`` in
    google-research/fvlm) for the values; CORA (arXiv 2303.13076) scores the boxes of a DETR likewise.
    """

    def __init__(
        self,
        class_scoring: ClassScoring,
        vocabulary: Vocabulary,
        base_names: Iterable[str],
        base_weight: float = 0.35,
        novel_weight: float = 0.65,
        temperature: float = 0.01,
    ) -> None:
        """
        Args:
            class_scoring: how the detector's logits become scores.
            vocabulary: its classes.
            base_names: of the classes that it has learned from boxes; of others than those in the vocabulary, too.
            base_weight: w of base classes, 0 to 1.
            novel_weight: w of the others.
            temperature: by which cosines are divided.
        """
        super().__init__()
        self.class_scoring = class_scoring
        self.base_names = frozenset(map(normalize_name, base_names))
        self.base_weight = base_weight
        self.novel_weight = novel_weight
        self.temperature = temperature
        self.register_buffer("base_texts", torch.zeros(1, vocabulary.dim), persistent=False)
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Tells base and novel classes of another vocabulary apart from now on, by their names."""
        is_base = [normalize_name(name) in self.base_names for name in vocabulary.names]
        texts = vocabulary.weights[torch.tensor(is_base)].to(self.base_texts)
        # Zero is like no text; without a row, a graph would have nothing to compare with.
        self.base_texts = texts if len(texts) else torch.zeros_like(self.base_texts[:1])

    def forward(
        self, predictions: Predictions, feature_map: Tensor, batch: Batch, pool: AttentionPool, texts: Tensor
    ) -> Predictions:
        """The predictions, with logits of the last layer that are read as the scores of both.

        Args:
            predictions: of the detector; L is 1.
            feature_map: (B, C, H, W), the last of the image encoder.
            batch: the images.
            pool: the image encoder's attention pool.
            texts: (K, D) of the classes, of length 1.
        """
        with torch.autocast(feature_map.device.type, enabled=False):
            logits = predictions.logits[-1].float()
            texts = texts.float()
            region = self.score(feature_map.float(), predictions.boxes[-1].float(), batch, pool, texts)
            detector = F.logsigmoid(self.class_scoring.binary_logits(logits))
            is_base = (texts @ self.base_texts.float().T > _SAME_TEXT).any(1)
            weight = torch.where(is_base, self.base_weight, self.novel_weight)
            fused = (1 - weight) * detector + weight * region
            return replace(predictions, logits=self.class_scoring.with_class_scores(logits, fused)[None])

    def score(self, feature_map: Tensor, boxes: Tensor, batch: Batch, pool: AttentionPool, texts: Tensor) -> Tensor:
        """(B, Q, K) logarithms of the region's scores of (B, Q, 4) boxes; other arguments as of :meth:`forward`."""
        num_images, num_queries = boxes.shape[:2]
        corners = cxcywh_to_xyxy(boxes).nan_to_num().clamp(0, 1) * _frames(batch)[:, None]
        index = torch.arange(num_images, device=boxes.device, dtype=corners.dtype)
        rois = torch.cat((index[:, None, None].expand(-1, num_queries, -1), corners), dim=-1).flatten(0, 1)
        regions = roi_align(feature_map, rois, pool.grid, 1 / pool.stride, aligned=True)
        embeddings = F.normalize(pool(regions).float(), dim=-1)
        return (embeddings @ texts.T / self.temperature).log_softmax(-1).unflatten(0, (num_images, num_queries))


def _frames(batch: Batch) -> Tensor:
    """(B, 4) fp32, width, height, width and height in pixels of the input of what boxes are relative to."""
    if batch.padding_mask is None:
        height, width = batch.images.shape[-2:]
        sides = [batch.images.new_full(batch.images.shape[:1], side, dtype=torch.float32) for side in (width, height)]
    else:
        # Not from the sizes on the host, which a graph does not have.
        is_image = ~batch.padding_mask
        sides = [is_image[:, 0].sum(1).float(), is_image[:, :, 0].sum(1).float()]
    return torch.stack(sides, dim=-1).repeat(1, 2)


def build_region_scores(
    cfg: CfgNode, backbone: Backbone, class_scoring: ClassScoring, vocabulary: Vocabulary | None
) -> RegionScores | None:
    """Builds what MODEL.CLIP.REGION describes; None if it is not enabled.

    Raises:
        ValueError: the backbone is not CLIP's, or the texts are not of the same model.
    """
    region = cfg.MODEL.CLIP.REGION
    if not region.ENABLED:
        return None
    if not isinstance(backbone, ClipResNet) or vocabulary is None:
        raise ValueError(
            f"MODEL.CLIP.REGION.ENABLED is True, which needs MODEL.BACKBONE.NAME {CLIP_BACKBONE} and "
            "MODEL.CLIP.TEXT_WEIGHTS: set both, or ENABLED to False."
        )
    if vocabulary.dim != (width := backbone.attnpool.embed_dim):
        raise ValueError(
            f"{vocabulary.source}: the text weights have {vocabulary.dim} columns, but the image encoder of "
            f"{cfg.MODEL.CLIP.ENCODER} has embeddings of {width}: they must be of one model. Make text weights with "
            f"it (python -m pair_detr.tools.text_weights --encoder {cfg.MODEL.CLIP.ENCODER}), or set "
            "MODEL.CLIP.REGION.ENABLED False."
        )
    names = base_classes(cfg, vocabulary)
    return RegionScores(class_scoring, vocabulary, names, region.ALPHA, region.BETA, region.TEMPERATURE)
