"""Queries that know the vocabulary: a class's text enters what a query starts as, or looks from."""

from dataclasses import replace

from torch import Tensor, nn

from pair_detr.structures import Queries


class TextConditioning(nn.Module):
    """Adds the text of the class that a query seems to be of, or gives decoders all texts to attend to.

    A selected query has the text that its token is closest to, which is known before any decoding. Learned queries that
    look from no token have a mean of all texts, weighted by their similarity with the query. Neither depends on the
    order of the classes.

    Source: language-guided query selection (Grounding DINO, arXiv 2303.05499, section 3.2) for tokens; a text as a part
    of the positional query is the question of this project's origin (docs/studies/text_queries.md).
    """

    def __init__(self, where: str, text_dim: int, dim: int) -> None:
        """
        Args:
            where: "content", what queries start as; "position", their positional queries; or "cross_attention".
            text_dim: width of the text embeddings.
            dim: D.
        """
        super().__init__()
        self.where = where
        self.projection = nn.Linear(text_dim, dim, bias=False)
        # Texts have length 1: so their projections are as large as learned queries.
        nn.init.normal_(self.projection.weight)

    def forward(self, queries: Queries, texts: Tensor, classes: Tensor | None) -> Queries:
        """Conditions queries.

        Args:
            queries: N of each image.
            texts: (C, text_dim) of the vocabulary, of length 1.
            classes: (B, N) int64, the class that a query is closest to; None for learned queries.
        """
        projected = self.projection(texts.to(self.projection.weight.dtype))
        if self.where == "cross_attention":
            return replace(queries, texts=projected)
        if classes is not None:
            text = projected[classes]
        else:
            # Learned queries have more bits than the weights of a model that is prepared for inference.
            similarity = queries.position.to(projected.dtype) @ projected.T * projected.shape[1] ** -0.5
            text = similarity.softmax(-1) @ projected
        if self.where == "position":
            return replace(queries, position=queries.position + text, position_offset=text)
        return replace(queries, content=text if queries.content is None else queries.content + text)
