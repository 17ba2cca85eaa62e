"""Conditional DETR's decoder (arXiv 2108.06152, section 3): content and spatial attention are computed apart."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pair_detr.layers import (
    MLP,
    BoxBias,
    Dropout,
    FeedForward,
    FullPrecision,
    attend,
    attend_in_groups,
    multi_linear,
    point_encoding,
)
from pair_detr.structures import Memory, Queries


def _parameters(*linears: nn.Linear) -> list[tuple[Tensor, Tensor]]:
    return [(linear.weight, linear.bias) for linear in linears]


class ConditionalSelfAttention(nn.Module):
    """Self-attention among queries with a projection of its own for content and for position."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qcontent_proj = nn.Linear(dim, dim)
        self.qpos_proj = nn.Linear(dim, dim)
        self.kcontent_proj = nn.Linear(dim, dim)
        self.kpos_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, state: Tensor, queries: Queries) -> Tensor:
        """(B, N, D) states -> (B, N, D)."""
        query, key, value = multi_linear(state, _parameters(self.qcontent_proj, self.kcontent_proj, self.v_proj))
        query_pos, key_pos = multi_linear(queries.position, _parameters(self.qpos_proj, self.kpos_proj))
        projected = query + query_pos, key + key_pos, value
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend_in_groups(*projected, self.num_heads, queries.groups, queries.is_used, dropout))


class ConditionalCrossAttention(nn.Module):
    """Cross-attention whose queries and keys are, head by head, a content half beside a spatial half."""

    def __init__(self, dim: int, num_heads: int, dropout: float, is_first: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qcontent_proj = nn.Linear(dim, dim)
        # The first layer's content is zero: there, the positional query and key join the content half.
        self.qpos_proj = nn.Linear(dim, dim) if is_first else None
        self.kcontent_proj = nn.Linear(dim, dim)
        self.kpos_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.qpos_sine_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        state: Tensor,
        position: Tensor,
        spatial_query: Tensor,
        key_content: Tensor,
        key_position: Tensor,
        value: Tensor,
        key_mask: Tensor | None,
    ) -> Tensor:
        """Attends to the memory.

        Args:
            state: (B, Q, D).
            position: (Q, D) or (B, Q, D) positional queries, used by the first layer alone.
            spatial_query: (B, Q, D) or (1, Q, D), the transformed encoding of the reference points.
            key_content: (B, M, D), projected.
            key_position: (B, M, D) or (1, M, D), projected.
            value: (B, M, D), projected.
            key_mask: as in :func:`attend`.

        Returns:
            (B, Q, D).
        """
        query = self.qcontent_proj(state)
        if self.qpos_proj is not None:
            query = query + self.qpos_proj(position)
            key_content = key_content + key_position
        query = self._concat_per_head(query, self.qpos_sine_proj(spatial_query))
        key = self._concat_per_head(key_content, key_position)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(query, key, value, self.num_heads, key_mask, dropout))

    def _concat_per_head(self, content: Tensor, position: Tensor) -> Tensor:
        """(B, N, D), (B or 1, N, D) -> (B, N, 2 D), each head's content next to its position."""
        content, position = (x.unflatten(-1, (self.num_heads, -1)) for x in (content, position))
        return torch.cat((content, position.expand_as(content)), dim=-1).flatten(2)


class ConditionalDecoderLayer(nn.Module):
    """Conditional self-attention, conditional cross-attention, feed-forward block; normalized after each."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float, is_first: bool
    ) -> None:
        super().__init__()
        self.self_attn = ConditionalSelfAttention(dim, num_heads, attention_dropout)
        self.cross_attn = ConditionalCrossAttention(dim, num_heads, attention_dropout, is_first)
        self.ffn = FeedForward(dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.text_attention: nn.Module | None = None

    def forward(self, state: Tensor, queries: Queries, *cross_attention_inputs: Tensor | None) -> Tensor:
        """(B, Q, D) -> (B, Q, D); the further arguments are those of :class:`ConditionalCrossAttention`."""
        if queries.self_attention:
            state = self.norm1(state + self.dropout(self.self_attn(state, queries)))
        if self.text_attention is not None:
            state = self.text_attention(state, queries.texts)
        state = self.norm2(state + self.dropout(self.cross_attn(state, queries.position, *cross_attention_inputs)))
        return self.norm3(state + self.dropout(self.ffn(state)))


class ReferencePointHead(FullPrecision, MLP):
    """(..., D) positional queries -> (..., 2) logits of the points that they look from."""

    def forward(self, position: Tensor) -> Tensor:
        """See the class."""
        return super().forward(position.to(self.layers[0].weight.dtype))


def _add_mask(bias: Tensor, key_mask: Tensor | None) -> Tensor:
    return bias if key_mask is None else bias.masked_fill(~key_mask, float("-inf"))


class ConditionalDecoder(nn.Module):
    """A stack of :class:`ConditionalDecoderLayer` around learned reference points."""

    def __init__(self, layers: nn.ModuleList, dim: int, bias_heads: int = 0) -> None:
        """
        Args:
            layers: of :class:`ConditionalDecoderLayer`, see :meth:`build_layers`; decoders may share them.
            dim: D.
            bias_heads: heads of the cross-attention to bias by the boxes that queries look from; 0 for no bias.
        """
        super().__init__()
        self.layers = layers
        self.norm = nn.LayerNorm(dim)
        self.ref_point_head = ReferencePointHead(dim, dim, 2, 2)
        self.query_scale = MLP(dim, dim, dim, 2) if len(layers) > 1 else None
        self.box_bias = nn.ModuleList(BoxBias(bias_heads) for _ in layers) if bias_heads else None

    @torch.no_grad()
    def attend_locally(self) -> None:
        """Makes the attention of fresh layers start around the reference points.

        The encoding of a point has the largest product with that of the cell that it lies in, if both are projected
        alike and are not transformed otherwise. Own.
        """
        for layer in self.layers:
            layer.cross_attn.kpos_proj.load_state_dict(layer.cross_attn.qpos_sine_proj.state_dict())
        if self.query_scale is not None:
            nn.init.zeros_(self.query_scale.layers[-1].weight)
            nn.init.ones_(self.query_scale.layers[-1].bias)

    @staticmethod
    def build_layers(
        num_layers: int, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float
    ) -> nn.ModuleList:
        """The layers of a decoder; only the first has a positional query in its cross-attention."""
        return nn.ModuleList(
            ConditionalDecoderLayer(dim, num_heads, ffn_dim, dropout, attention_dropout, is_first=i == 0)
            for i in range(num_layers)
        )

    def forward(self, memory: Memory, queries: Queries) -> tuple[Tensor, Tensor]:
        """Decodes queries; see :mod:`pair_detr.modeling.decoder`. Its own reference points are functions of them."""
        reference = queries.reference
        if reference is None:
            reference = self.ref_point_head(queries.position).float().sigmoid()
        queries = queries.narrowed(self.norm.weight.dtype)
        # Keys and values do not depend on the queries' states: those of all layers are projected at once.
        attentions = [layer.cross_attn for layer in self.layers]
        contents_and_values = multi_linear(
            memory.tokens, _parameters(*(a.kcontent_proj for a in attentions), *(a.v_proj for a in attentions))
        )
        positions = multi_linear(memory.position, _parameters(*(a.kpos_proj for a in attentions)))
        contents, values = contents_and_values[: len(attentions)], contents_and_values[len(attentions) :]

        spatial_query = self._encode_points(reference, queries)
        state = queries.initial_states(memory.tokens.shape[0])
        states, references = [], [reference]
        for i, (layer, content, position, value) in enumerate(
            zip(self.layers, contents, positions, values, strict=True)
        ):
            if states and queries.refinement is not None:
                # What is looked from, and changed, has no gradient: a layer trains at most the one before it.
                refined = queries.refinement.box_head(self.norm(state), references[-1].detach())
                references.append(refined if queries.refinement.look_forward_twice else refined.detach())
                spatial_query = self._encode_points(refined.detach(), queries)
                moved = queries.refinement.embed(refined.detach())
                if queries.position_offset is not None:
                    moved = moved + queries.position_offset
                queries = replace(queries, position=moved)
            # The transformation comes from the running state, before the norm that the emitted states pass through.
            scaled = spatial_query * self.query_scale(state) if states else spatial_query
            mask = memory.key_mask
            if self.box_bias is not None:
                mask = _add_mask(self.box_bias[i](references[-1].detach(), memory.centers), mask)
            state = layer(state, queries, scaled, content, position, value, mask)
            states.append(state)
        return self.norm(torch.stack(states)), torch.stack(references) if queries.refinement else reference

    def _encode_points(self, reference: Tensor, queries: Queries) -> Tensor:
        """(B or 1, N, D) sine encoding of the points, or of the centers of the boxes, that queries look from."""
        encoded = point_encoding(reference[..., :2], queries.position.shape[-1]).to(queries.position.dtype)
        return encoded.unsqueeze(0) if encoded.dim() == 2 else encoded
