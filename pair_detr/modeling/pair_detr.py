"""Pair DETR (arXiv 2210.16476): two decoders, one for centers and one for top-left corners, tied query by query."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from pair_detr.config.variants import register_variant
from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.losses.branches import OneToManyTerm
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.contrastive import CONTRASTIVE_LOSSES, PairTerm, TopLeftTerm
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.terms import LossTerm
from pair_detr.modeling.conditional_detr import ConditionalDETR, freeze_unused_points
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.denoising import DenoisingQueries
from pair_detr.modeling.detector import initialize_transformer
from pair_detr.modeling.heads import LocationHead
from pair_detr.modeling.options import DetectorOptions
from pair_detr.structures import Memory, Predictions, Queries

# Logits between a query's center and corner at the start; mid-image that is a box of a quarter of the image's side.
_INITIAL_OFFSET = 0.5


@register_variant("pair_detr")
class PairDETR(ConditionalDETR):
    """Conditional DETR, whose decoder is the center decoder, with a top-left decoder on the same memory and queries."""

    decoder_names: ClassVar[dict[str, str]] = {"center": "decoder", "top_left": "top_left_decoder"}
    extra_parts: ClassVar[frozenset[str]] = frozenset(
        {"top_left_decoder", "top_left_head", "center_projection", "top_left_projection"}
    )
    warm_start_aliases: ClassVar[dict[str, str]] = {"top_left_decoder": "decoder", "top_left_head": "box_head"}

    @configurable
    def __init__(
        self,
        options: DetectorOptions,
        *,
        box_decoding: str,
        class_decoder: str,
        shared_decoder: bool,
        contrastive_layers: int,
        projection_dim: int,
        mask_decoder: str = "center",
        one_to_many: bool = False,
    ) -> None:
        """
        Args:
            options: see :class:`DetectorOptions`.
            box_decoding: "center" predicts boxes from the center decoder alone; "pair" assembles them from both points.
            class_decoder: "center" or "top_left", whose states are classified.
            shared_decoder: both decoders use the same layers.
            contrastive_layers: number of last layers to emit embeddings of, for the pair association loss.
            projection_dim: width of the embeddings; 0 emits the decoders' states.
            mask_decoder: "center" or "top_left", whose states ask for masks.
            one_to_many: the top-left decoder is a one-to-many branch: its queries do not attend to each other, and
                predict classes and boxes that :class:`OneToManyTerm` supervises.
        """
        super().__init__(options)
        dim = options.dim
        self.box_decoding = box_decoding
        self.class_decoder = class_decoder
        self.mask_decoder = mask_decoder
        self.contrastive_layers = contrastive_layers
        self.one_to_many = one_to_many
        if box_decoding == "pair":
            self.box_head = LocationHead(dim, 2, zero_init=True)
        if shared_decoder:
            self.top_left_decoder = ConditionalDecoder(self.decoder.layers, dim)
            freeze_unused_points(self.top_left_decoder, options)
        else:
            self.top_left_decoder = self.build_decoder(replace(options, box_bias=False))
            for layer in self.top_left_decoder.layers if one_to_many else ():
                # Unused, but the names of the weights are those of all decoders.
                layer.self_attn.requires_grad_(False)
                layer.norm1.requires_grad_(False)
        initialize_transformer(self.top_left_decoder, options)
        if not shared_decoder:
            self.attend_to_texts(self.top_left_decoder, options)
        if box_decoding == "pair":
            self._relate_reference_points()
        self.top_left_head = LocationHead(dim, 2, zero_init=True)
        project = projection_dim > 0 and contrastive_layers > 0
        self.center_projection = nn.Linear(dim, projection_dim) if project else nn.Identity()
        self.top_left_projection = nn.Linear(dim, projection_dim) if project else nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """Adds MODEL.DETR.PAIR to what all variants read; for other arguments see :meth:`Detector.from_config`."""
        pair = cfg.MODEL.DETR.PAIR
        one_to_many_weight = pair.ONE_TO_MANY_WEIGHT if pair.QUERIES_PER_OBJECT > 1 else 0
        idle = pair.TOP_LEFT_WEIGHT == pair.CONTRASTIVE_WEIGHT == one_to_many_weight == 0
        if idle and pair.BOX_DECODING == "center" and pair.CLASS_DECODER == "center":
            raise ValueError(
                "MODEL.DETR.PAIR.TOP_LEFT_WEIGHT and CONTRASTIVE_WEIGHT are both 0, and it is no one-to-many branch: "
                "nothing would train the top-left decoder. Set one of them, QUERIES_PER_OBJECT above 1 and "
                "ONE_TO_MANY_WEIGHT above 0, or MODEL.DETR.VARIANT to conditional_detr."
            )
        contrastive_layers = {"last": 1, "all": cfg.MODEL.DETR.DEC_LAYERS}[pair.CONTRASTIVE_LAYERS]
        return super().from_config(cfg, *arguments, **keywords) | {
            "box_decoding": pair.BOX_DECODING,
            "class_decoder": pair.CLASS_DECODER,
            "shared_decoder": pair.SHARED_DECODER,
            "contrastive_layers": contrastive_layers if pair.CONTRASTIVE_WEIGHT > 0 else 0,
            "projection_dim": pair.PROJECTION_DIM,
            "mask_decoder": cfg.MODEL.DETR.MASK.QUERY_DECODER,
            "one_to_many": pair.QUERIES_PER_OBJECT > 1,
        }

    @classmethod
    def loss_terms(
        cls, cfg: CfgNode, class_scoring: ClassScoring, federated_sampler: FederatedLossSampler | None
    ) -> list[LossTerm]:
        """Adds the corners and the association of pairs to the terms of Conditional DETR."""
        pair = cfg.MODEL.DETR.PAIR
        terms = super().loss_terms(cfg, class_scoring, federated_sampler)
        if pair.QUERIES_PER_OBJECT > 1:
            of_boxes = terms[:2]
            terms.append(OneToManyTerm("top_left", *of_boxes, pair.ONE_TO_MANY_WEIGHT, pair.QUERIES_PER_OBJECT))
        terms.append(TopLeftTerm(pair.TOP_LEFT_WEIGHT))
        if pair.CONTRASTIVE_WEIGHT > 0:
            loss = CONTRASTIVE_LOSSES[pair.CONTRASTIVE_LOSS]
            terms.append(PairTerm(pair.CONTRASTIVE_WEIGHT, loss, pair.TEMPERATURE))
        return terms

    @classmethod
    def required_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See :meth:`Detector.required_config`."""
        own = {"MODEL.DETR.PAIR.CLASS_DECODER": cfg.MODEL.DETR.PAIR.CLASS_DECODER}
        return super().required_config(cfg) | own

    @torch.no_grad()
    def _relate_reference_points(self) -> None:
        """Lets each query's corner start up and left of its center.

        With independent heads most pairs of points would start without a box between them, where the size of the box
        has no gradient.
        """
        corner_head = self.top_left_decoder.ref_point_head
        corner_head.load_state_dict(self.decoder.ref_point_head.state_dict())
        corner_head.layers[-1].bias -= _INITIAL_OFFSET

    def queries_of(self, stage: str, queries: Queries) -> Queries:
        """See :meth:`Detector.queries_of`: the top-left decoder looks from the corners of boxes."""
        if stage != "top_left_decoder":
            return queries
        return replace(_from_corners(queries), self_attention=not self.one_to_many)

    def decode(self, memory: Memory, copies: DenoisingQueries | None = None) -> Predictions:
        """See :meth:`Detector.decode`."""
        used = {self.box_decoding, self.class_decoder} | ({self.mask_decoder} if self.mask_head else set())
        if not self.training and used == {"center"}:
            return super().decode(memory, copies)
        built = self.build_queries(memory, copies)
        center_states, center_reference = self.decoder(memory, built.queries)
        corner_queries = self.queries_of("top_left_decoder", built.queries)
        corner_states, corner_reference = self.top_left_decoder(memory, corner_queries)
        center_states, corner_states = map(self.select_output_layers, (center_states, corner_states))
        center_reference = self.select_references(center_reference)

        boxes = self.box_head(center_states, center_reference)
        top_left = self.top_left_head(corner_states, corner_reference)
        if self.box_decoding == "pair":
            boxes = assemble_box(boxes, top_left)
        classified = center_states if self.class_decoder == "center" else corner_states
        if self.mask_decoder == "center":
            masks = self.mask_queries(center_states, memory, center_reference, built.num_queries)
        else:
            masks = self.mask_queries(corner_states, memory, corner_reference, built.num_queries)
        predictions = Predictions(
            logits=self.class_head(classified), boxes=boxes, states=classified, mask_queries=masks
        )
        if not self.training:
            return predictions
        last = slice(len(center_states) - min(self.contrastive_layers, len(center_states)), None)
        embeddings = self.center_projection(center_states[last]), self.top_left_projection(corner_states[last])
        if self.one_to_many:
            main = slice(0, built.num_groups * built.num_queries)
            states = corner_states[:, :, main]
            reference = None if built.queries.reference is None else built.queries.reference[:, main]
            built.auxiliary["top_left"] = Predictions(
                self.class_head(states), self.box_head(states, corner_reference if reference is None else reference)
            )
        return built.sort(replace(predictions, top_left=top_left, pair_embeddings=embeddings))


def _from_corners(queries: Queries) -> Queries:
    """Queries that look from the top-left corners of their boxes, where they have any."""
    if queries.reference is None or queries.reference.shape[-1] == 2:
        return queries
    return replace(queries, reference=cxcywh_to_xyxy(queries.reference)[..., :2].clamp(0, 1), refinement=None)


def assemble_box(center: Tensor, top_left: Tensor) -> Tensor:
    """The box between a top-left corner and its reflection in the center.

    Args:
        center: (..., 2) x and y.
        top_left: (..., 2), the same unit. Where it is not above and left of the center the box is empty.

    Returns:
        (..., 4) cxcywh.
    """
    return torch.cat((center, 2 * (center - top_left).clamp(min=0)), dim=-1)
