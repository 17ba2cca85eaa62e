"""What all variants share: backbone, encoder, decoder and heads."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from pair_detr.layers import TextCrossAttention, sine_position_encoding
from pair_detr.losses.branches import DenoisingTerm, OneToManyTerm
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.losses.terms import BoxTerm, ClassTerm, LossTerm
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.denoising import DenoisingQueries
from pair_detr.modeling.encoder import TransformerEncoder
from pair_detr.modeling.heads import LocationHead
from pair_detr.modeling.options import DetectorOptions
from pair_detr.modeling.query_builder import BuiltQueries, QueryBuilder, query_options
from pair_detr.modeling.region_scores import RegionScores
from pair_detr.structures import Batch, FeatureMaps, MaskQueries, Memory, Predictions, Queries, Refinement, Targets

# As sine_position_encoding.
PositionEncoding = Callable[[int, int, int, Tensor | None, torch.device], Tensor]

# Stages before the encoder's that masks are refined with: DETR's.
_FINER_STAGES = 3


# USER: a detector of your own is a subclass with @register_variant, see docs/tour.md.
class Detector(nn.Module, ABC):
    """Backbone, encoder, queries, decoder and heads; a variant says which decoder, and what else it predicts.

    Attributes:
        published_classification: "focal" or "softmax", what the variant's paper trains with.
        has_reference_points: whether each query looks from a known point.
        decoder_names: attributes that hold decoders, by what they look for.
        extra_parts: parts beside those that the published model has; weights to start from may lack them.
        warm_start_aliases: what such a part starts as then, if not at random.
        published_name: of the model that is left without them, in its authors' words.
        transformers_name: of the same in the library transformers.
        position_encoding: of the cells of feature maps; inference may take one that is computed already.
        region_scores: what a frozen image encoder says of the classes of boxes, in inference; None for nothing.
    """

    published_classification: ClassVar[str] = "focal"
    has_reference_points: ClassVar[bool] = True
    decoder_names: ClassVar[dict[str, str]] = {"center": "decoder"}
    extra_parts: ClassVar[frozenset[str]] = frozenset({"query_builder"})
    warm_start_aliases: ClassVar[dict[str, str]] = {}
    published_name: ClassVar[str]
    transformers_name: ClassVar[str]

    @configurable
    def __init__(self, options: DetectorOptions) -> None:
        """
        Args:
            options: see :class:`DetectorOptions`.
        """
        super().__init__()
        # The fastest layout for convolutions on CPUs and tensor cores; it leaves parameters and results as they are.
        self.backbone = options.backbone.to(memory_format=torch.channels_last)
        shapes = options.backbone.output_shape()
        self.in_feature, *finer = _coarse_to_fine(shapes)[: 1 + _FINER_STAGES]
        self.finer_features = finer if options.mask_head else []
        self.deep_supervision = options.deep_supervision
        self.input_proj = nn.Conv2d(shapes[self.in_feature].channels, options.dim, kernel_size=1)
        self.encoder = TransformerEncoder(options.num_encoder_layers, *options.layer)
        self.query_embed = nn.Embedding(options.num_queries, options.dim)
        initialize_transformer(self.encoder, options)
        channels = [shapes[name].channels for name in self.finer_features]
        self.mask_head = options.mask_head(options.dim, options.num_heads, channels) if options.mask_head else None
        self.decoder = self.build_decoder(options)
        initialize_transformer(self.decoder, options)
        self.class_head = options.classifier(options.dim)
        self.attend_to_texts(self.decoder, options)
        self.box_head = self.build_box_head(options)
        self.refinement = options.refinement
        self.position_encoding: PositionEncoding = sine_position_encoding
        text_dim = None if self.texts is None else self.texts.shape[1]
        sizes = options.num_queries, options.dim
        self.query_builder = QueryBuilder(options.queries, *sizes, options.classifier, text_dim)
        self.region_scores: RegionScores | None = None

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        classifier: Callable[[int], nn.Module],
        mask_head: Callable[[int, int, list[int]], nn.Module] | None = None,
    ) -> dict[str, Any]:
        """Builds the backbone and reads the sizes under MODEL.DETR; for the rest see :class:`DetectorOptions`."""
        detr = cfg.MODEL.DETR
        options = DetectorOptions(
            backbone=build_backbone(cfg),
            classifier=classifier,
            num_queries=detr.NUM_QUERIES,
            num_encoder_layers=detr.ENC_LAYERS,
            num_decoder_layers=detr.DEC_LAYERS,
            dim=detr.HIDDEN_DIM,
            num_heads=detr.NUM_HEADS,
            ffn_dim=detr.FFN_DIM,
            dropout=detr.DROPOUT,
            attention_dropout=detr.DROPOUT if detr.ATTENTION_DROPOUT < 0 else detr.ATTENTION_DROPOUT,
            deep_supervision=detr.LOSS.DEEP_SUPERVISION,
            mask_head=mask_head,
            queries=query_options(cfg),
            refinement=detr.BOX_REFINEMENT,
            relative_boxes=detr.RELATIVE_BOXES,
            local_attention=detr.LOCAL_ATTENTION,
            zero_residuals=detr.ZERO_INIT_RESIDUAL,
            box_bias=detr.BOX_BIAS,
        )
        return {"options": options}

    @staticmethod
    @abstractmethod
    def build_decoder(options: DetectorOptions) -> nn.Module:
        """A decoder, see :mod:`pair_detr.modeling.decoder`."""

    def attend_to_texts(self, decoder: nn.Module, options: DetectorOptions) -> None:
        """Lets each layer of a decoder attend to the texts of the classes, where the options say so."""
        if self.texts is None or options.queries.texts != "cross_attention":
            return
        for layer in decoder.layers:
            layer.text_attention = TextCrossAttention(
                options.dim, options.num_heads, options.dropout, options.attention_dropout
            )
            initialize_transformer(layer.text_attention, options)

    @property
    def texts(self) -> Tensor | None:
        """(C, text_dim) fp32 of the classes; None with a linear classifier."""
        return getattr(self.class_head, "texts", None)

    @classmethod
    def build_box_head(cls, options: DetectorOptions) -> nn.Module:
        """What maps states of a decoder, and the reference of their queries, to what the variant predicts of a box."""
        return LocationHead(options.dim, 4, cls.has_reference_points, options.relative_boxes)

    @classmethod
    def loss_terms(
        cls, cfg: CfgNode, class_scoring: ClassScoring, federated_sampler: FederatedLossSampler | None
    ) -> list[LossTerm]:
        """What supervises the variant's predictions, but for masks.

        Args:
            cfg: config.
            class_scoring: how logits become scores.
            federated_sampler: the classes that take part in their loss; None for all.
        """
        loss = cfg.MODEL.DETR.LOSS
        weight = class_scoring.default_weight if loss.CLASS < 0 else loss.CLASS
        has_objectness = isinstance(class_scoring, ObjectnessScoring)
        wildcard_score = cfg.MODEL.CLIP.WILDCARD_SCORE if has_objectness else 1.0
        class_term = ClassTerm(weight, class_scoring, federated_sampler, wildcard_score, has_objectness)
        box_term = BoxTerm(loss.L1, loss.GIOU)
        terms: list[LossTerm] = [class_term, box_term]
        dense, denoising = cfg.MODEL.DETR.DENSE, cfg.MODEL.DETR.DENOISING
        if dense.ENABLED:
            terms.append(OneToManyTerm("dense", class_term, box_term, dense.WEIGHT, dense.TOKENS_PER_OBJECT))
        if denoising.GROUPS:
            # What is not to be an object there was made of annotated ones.
            class_term = ClassTerm(weight, class_scoring, federated_sampler)
            terms.append(DenoisingTerm(class_term, box_term, denoising.WEIGHT, denoising.GROUPS))
        return terms

    @classmethod
    def required_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Entries of a config that the variant's weights need, and that their tensors do not show."""
        keys = ("QUERY_SELECTION", "BOX_REFINEMENT", "RELATIVE_BOXES")
        has_selection = cfg.MODEL.DETR.QUERY_SELECTION != "none"
        return {f"MODEL.DETR.{key}": cfg.MODEL.DETR[key] for key in keys} if has_selection else {}

    def forward(self, batch: Batch, targets: Targets | None = None) -> Predictions:
        """Detects objects.

        Args:
            batch: images.
            targets: their objects, in training, for decoders with branches that are given these (denoising).
        """
        copies = None if targets is None else self.denoise(targets)
        memory = self.encode(batch)
        predictions = self.decode(memory, copies)
        if self.training or self.region_scores is None:
            return predictions
        pool, texts = self.backbone.attnpool, self.class_head.texts
        return self.region_scores(predictions, memory.backbone_map, batch, pool, texts)

    def encode(self, batch: Batch) -> Memory:
        """From images to the encoder's output."""
        # The type of the parameters, also where autocast computes in another.
        dtype = self.input_proj.weight.dtype
        images = batch.images.to(dtype).contiguous(memory_format=torch.channels_last)
        maps = self.backbone(images)
        features = self.input_proj(maps[self.in_feature])
        dim, height, width = features.shape[1:]
        key_mask, padding_mask = None, batch.padding_mask
        if padding_mask is not None:
            padding_mask = F.interpolate(padding_mask[None].float(), size=(height, width))[0].bool()
            key_mask = ~padding_mask.flatten(1)[:, None, None]
        position = self.position_encoding(height, width, dim, padding_mask, features.device).to(dtype)
        kept = FeatureMaps(features, [maps[name] for name in self.finer_features]) if self.mask_head else None
        centers = cell_centers(batch, height, width) if self.query_builder.dense_head else None
        last = maps[self.in_feature] if self.region_scores is not None else None
        return self.encoder(Memory(features.flatten(2).transpose(1, 2), position, key_mask, kept, centers, last))

    def denoise(self, targets: Targets) -> DenoisingQueries | None:
        """The denoising queries of a batch, in the training of models that have any."""
        return self.query_builder.denoise(targets, len(self.decoder.layers) if self.deep_supervision else 1)

    def decode(self, memory: Memory, copies: DenoisingQueries | None = None) -> Predictions:
        """Predicts objects from the encoder's output; ``copies`` are those of :meth:`denoise`."""
        built = self.build_queries(memory, copies)
        states, reference = self.decoder(memory, built.queries)
        return built.sort(self.predict(states, reference, memory, built.num_queries))

    def build_queries(self, memory: Memory, copies: DenoisingQueries | None) -> BuiltQueries:
        """The queries of a batch, see :class:`QueryBuilder`."""
        built = self.query_builder(memory, self.query_embed.weight, copies, self.texts)
        if self.refinement != "none":
            twice = self.refinement == "look_forward_twice"
            built.queries.refinement = Refinement(self.box_head, self.query_builder.embed_reference, twice)
        return built

    def queries_of(self, stage: str, queries: Queries) -> Queries:
        """What a decoder, one of :attr:`decoder_names`, is given of :meth:`build_queries`."""
        return queries

    def predict(
        self, states: Tensor, reference: Tensor | None, memory: Memory, num_queries: int | None = None
    ) -> Predictions:
        """Applies the heads to (L, B, N, D) states.

        Args:
            states: of all decoder layers.
            reference: see :mod:`pair_detr.modeling.decoder`.
            memory: the encoder's output.
            num_queries: the first of them that masks can be asked for with; None for all.
        """
        states, reference = self.select_output_layers(states), self.select_references(reference)
        masks = self.mask_queries(states, memory, reference, num_queries)
        return Predictions(self.class_head(states), self.box_head(states, reference), states, mask_queries=masks)

    def select_references(self, reference: Tensor | None) -> Tensor | None:
        """The references of :meth:`select_output_layers`, where they are of all layers."""
        return reference if self.refinement == "none" else self.select_output_layers(reference)

    def select_output_layers(self, states: Tensor) -> Tensor:
        """The layers to predict from, of (L, ...) states of all decoder layers: in inference the last alone."""
        return states if self.training and self.deep_supervision else states[-1:]

    def mask_queries(
        self, states: Tensor, memory: Memory, reference: Tensor | None = None, num_queries: int | None = None
    ) -> MaskQueries | None:
        """For :attr:`Predictions.mask_queries`; arguments as of :meth:`predict`. None without masks."""
        if self.mask_head is None:
            return None
        if reference is not None:
            # Only a decoder that refines them has those of all layers.
            reference = (reference[-1] if reference.dim() == 4 else reference)[..., :num_queries, :]
        return MaskQueries(states[-1, :, :num_queries], memory, reference)


def _coarse_to_fine(shapes: dict[str, ShapeSpec]) -> list[str]:
    """Names of feature maps from the last stage to the first.

    With a dilated last stage (DC5) the one before it has the same stride, in transformers for images all have.
    """
    order = list(shapes)
    return sorted(order, key=lambda name: (shapes[name].stride, shapes[name].channels, order.index(name)), reverse=True)


def cell_centers(batch: Batch, height: int, width: int) -> Tensor:
    """(B, H, W, 2) fp32, x and y of the centers of a feature map's cells, normalized as boxes are.

    Cells of the padding have those of the last pixel.
    """
    x, y = ((torch.arange(n, device=batch.images.device) + 0.5) / n for n in (width, height))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(batch.images.shape[0], -1, -1, -1)
    if batch.padding_mask is None:
        # Boxes are relative to all of each image in the batch.
        return grid
    # Not from the sizes on the host: torch.compile would compile for each of them.
    is_image = ~batch.padding_mask
    width_scale = is_image.shape[2] / is_image[:, 0].sum(1)
    height_scale = is_image.shape[1] / is_image[:, :, 0].sum(1)
    return (grid * torch.stack((width_scale, height_scale), dim=-1)[:, None, None]).clamp(max=1)


def initialize_transformer(module: nn.Module, options: DetectorOptions) -> None:
    """Initializes an encoder or a decoder: all matrices Xavier-uniform, as DETR and Conditional DETR do, and then what
    the options ask for.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    if options.local_attention and isinstance(module, ConditionalDecoder):
        module.attend_locally()
    if options.zero_residuals:
        zero_residuals(module)


def zero_residuals(module: nn.Module) -> None:
    """Zeroes the last matrix of every residual branch, so that each starts by adding the same, its bias, to all tokens.

    Source: Goyal et al., arXiv 1706.02677, section 5.1, for ResNets, whose last normalization starts at zero.
    """
    for name, child in module.named_modules():
        if name.endswith(("attn.out_proj", "ffn.linear2")):
            nn.init.zeros_(child.weight)
