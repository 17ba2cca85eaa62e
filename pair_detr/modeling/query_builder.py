"""What a decoder decodes: the queries, and those that only training adds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from pair_detr.layers import MLP, point_encoding
from pair_detr.modeling.denoising import Denoising, DenoisingOptions, DenoisingQueries
from pair_detr.modeling.dense_head import DenseHead, select_tokens
from pair_detr.modeling.text_queries import TextConditioning
from pair_detr.structures import Memory, Predictions, Queries, Targets

# Fields of Predictions with the queries in their third dimension.
_OF_QUERIES = ("logits", "boxes", "states", "top_left")


@dataclass
class BuiltQueries:
    """The queries of a batch: K groups of Q, and denoising queries after them.

    Attributes:
        queries: for the decoder.
        num_queries: Q, in each group.
        num_groups: K.
        denoising: the denoising queries, if there are any.
        auxiliary: predictions that are made already, see :attr:`Predictions.auxiliary`.
    """

    queries: Queries
    num_queries: int
    num_groups: int = 1
    denoising: DenoisingQueries | None = None
    auxiliary: dict[str, Predictions] = field(default_factory=dict)

    def sort(self, predictions: Predictions) -> Predictions:
        """The predictions of the groups as those of K images for each, with the branches among the auxiliary ones."""
        end = self.num_groups * self.num_queries

        def of_groups(x: Tensor) -> Tensor:
            """(L, B, N, ...) -> (L, B K, Q, ...)."""
            return x[:, :, :end].unflatten(2, (self.num_groups, self.num_queries)).flatten(1, 2)

        if self.denoising is None and self.num_groups == 1:
            return replace(predictions, auxiliary=self.auxiliary)
        present = {name: x for name in _OF_QUERIES if (x := getattr(predictions, name)) is not None}
        auxiliary = dict(self.auxiliary)
        if self.denoising is not None:
            auxiliary["denoising"] = Predictions(
                **{name: x[:, :, end:] for name, x in present.items()},
                assignment=self.denoising.assignment,
                is_counted=self.denoising.is_copy,
            )
        main = {name: of_groups(x) for name, x in present.items()}
        if predictions.pair_embeddings is not None:
            main["pair_embeddings"] = tuple(map(of_groups, predictions.pair_embeddings))
        return replace(predictions, **main, groups=self.num_groups, auxiliary=auxiliary)


@dataclass(frozen=True)
class QueryOptions:
    """What queries start from, and what training adds to them; the defaults are those of DETR.

    Attributes:
        groups: K, of queries in training: the first is that of inference, the others learn from the same objects.
        dense_head: whether the encoder's tokens predict objects, in training or to select queries from.
        selection: what queries look from: "none" leaves that to the decoder, "points" takes the centers of the best
            tokens' boxes, "boxes" these boxes.
        box_size: see :class:`DenseHead`.
        denoising: how objects become denoising queries; None for none.
        texts: where the texts of classes enter, see :class:`TextConditioning`; "none" leaves them to the classifier.
    """

    groups: int = 1
    dense_head: bool = False
    selection: str = "none"
    box_size: float = 0.5
    denoising: DenoisingOptions | None = None
    texts: str = "none"


def query_options(cfg: CfgNode) -> QueryOptions:
    """What MODEL.DETR and MODEL.CLIP say about queries."""
    detr, noise = cfg.MODEL.DETR, cfg.MODEL.DETR.DENOISING
    denoising = None
    if noise.GROUPS:
        denoising = DenoisingOptions(noise.GROUPS, noise.LABEL_NOISE, noise.BOX_NOISE, noise.NEGATIVES)
    selection, box_size = detr.QUERY_SELECTION, detr.DENSE.BOX_SIZE
    return QueryOptions(
        detr.QUERY_GROUPS, detr.DENSE.ENABLED, selection, box_size, denoising, texts=cfg.MODEL.CLIP.QUERIES
    )


class QueryBuilder(nn.Module):
    """Builds the queries of a batch from learned ones, the encoder's tokens and, in training, the objects."""

    def __init__(
        self,
        options: QueryOptions,
        num_queries: int,
        dim: int,
        classifier: Callable[[int], nn.Module],
        text_dim: int | None = None,
    ) -> None:
        """
        Args:
            options: see :class:`QueryOptions`.
            num_queries: Q.
            dim: D.
            classifier: makes the dense head's classifier, given D.
            text_dim: width of the classes' texts; None for a classifier without.
        """
        super().__init__()
        self.groups = options.groups
        self.selection = options.selection
        self.more_queries = nn.Embedding((options.groups - 1) * num_queries, dim) if options.groups > 1 else None
        self.dense_head = DenseHead(dim, classifier, options.box_size) if options.dense_head else None
        self.reference_embed = _reference_embed(dim, self.selection)
        self.denoising = None
        if options.denoising is not None:
            self.denoising = Denoising(options.denoising, dim, self.dense_head.class_head)
        has_texts = text_dim is not None and options.texts != "none"
        self.text_conditioning = TextConditioning(options.texts, text_dim, dim) if has_texts else None

    def forward(
        self,
        memory: Memory,
        query_embed: Tensor,
        copies: DenoisingQueries | None = None,
        texts: Tensor | None = None,
    ) -> BuiltQueries:
        """The queries of a batch.

        Args:
            memory: the encoder's output.
            query_embed: (Q, D) learned queries: their positions, or, if what they look from is selected, contents.
            copies: of the objects, see :meth:`denoise`.
            texts: (C, text_dim) of the classes; None for a classifier without.
        """
        built, classes = self._build(memory, query_embed, copies)
        if self.text_conditioning is not None:
            built.queries = self.text_conditioning(built.queries, texts, classes)
        return built

    def _build(
        self, memory: Memory, query_embed: Tensor, copies: DenoisingQueries | None
    ) -> tuple[BuiltQueries, Tensor | None]:
        """What :meth:`forward` returns, without texts; and (B, N) the class that each query is closest to, if known."""
        num_queries = len(query_embed)
        built = BuiltQueries(Queries(query_embed), num_queries)
        if self.training and self.more_queries is not None:
            query_embed = torch.cat((query_embed, self.more_queries.weight))
            built.num_groups = self.groups
            built.queries = Queries(query_embed, groups=((self.groups, num_queries),))
        if self.dense_head is None or not (self.training or self.reference_embed is not None):
            return built, None
        dense = self.dense_head(memory)
        if self.training:
            built.auxiliary["dense"] = dense
        if self.reference_embed is None:
            return built, None
        class_logits, scores = self.dense_head.class_head.split(dense.logits[0].detach())
        tokens = select_tokens(scores, memory.key_mask, num_queries)
        classes = None
        if self.text_conditioning is not None:
            classes = class_logits.argmax(-1).gather(1, tokens).repeat(1, built.num_groups)
        boxes = dense.boxes[0].detach()[..., : 2 if self.selection == "points" else 4]
        reference = boxes.gather(1, tokens[..., None].expand(-1, -1, boxes.shape[-1])).repeat(1, built.num_groups, 1)
        built.queries = replace(
            built.queries,
            position=self.embed_reference(reference),
            content=query_embed.expand(reference.shape[0], -1, -1),
            reference=reference,
        )
        if copies is not None:
            self._add_denoising(built, copies)
            classes = None if classes is None else torch.cat((classes, copies.labels), dim=1)
        return built, classes

    def embed_reference(self, reference: Tensor) -> Tensor:
        """(.., 2) points or (.., 4) boxes -> (.., D) positional queries (DAB-DETR, arXiv 2201.12329, section 3.3)."""
        weight = self.reference_embed.layers[0].weight
        parts = [point_encoding(x, weight.shape[0]) for x in reference.split(2, dim=-1)]
        return self.reference_embed(torch.cat(parts, dim=-1).to(weight.dtype))

    def denoise(self, targets: Targets, num_layers: int) -> DenoisingQueries | None:
        """The noisy copies of a batch's objects, for :meth:`forward`; None without denoising, or in evaluation.

        Args:
            targets: the objects.
            num_layers: decoder layers to predict from.
        """
        if self.denoising is None or not self.training:
            return None
        return self.denoising(targets, num_layers, self.dense_head.class_head)

    def _add_denoising(self, built: BuiltQueries, copies: DenoisingQueries) -> None:
        """Appends denoising queries, which see those of their own group, and are seen by no others."""
        ordinary = built.queries
        reference = copies.reference[..., : ordinary.reference.shape[-1]]
        all_used = torch.ones(ordinary.reference.shape[:2], dtype=torch.bool, device=reference.device)
        built.denoising = copies
        built.queries = Queries(
            position=torch.cat((ordinary.position, self.embed_reference(reference)), dim=1),
            content=torch.cat((ordinary.content, copies.content), dim=1),
            reference=torch.cat((ordinary.reference, reference), dim=1),
            groups=((built.num_groups, built.num_queries), copies.groups),
            is_used=torch.cat((all_used, copies.is_used), dim=1),
        )


def _reference_embed(dim: int, selection: str) -> MLP | None:
    inputs = {"none": 0, "points": dim, "boxes": 2 * dim}[selection]
    return MLP(inputs, dim, dim, 2) if inputs else None
