"""Attention weights of a detector, recomputed next to a forward pass that stays as it is.

The fused kernel returns no weights. While an :class:`AttentionRecorder` is active, what enters the kernel is kept, and
:class:`RecordedAttention` computes the weights from it. Nothing of this exists in training.
"""

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pair_detr.modeling import Detector


class RecordedAttention:
    """One call of scaled dot-product attention.

    Attributes:
        query: (B, H, N, E) of H heads.
        key: (B, H, M, E).
        value: (B, H, M, V).
        key_mask: (B, 1, 1, M) bool, false where a key must not be attended to, or (B, H, N, M) to add to the logits;
            None if there is neither.
        output: (B, N, H * V), what the kernel made of them.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, output: Tensor) -> None:
        self.query, self.key, self.value, self.key_mask = query, key, value, key_mask
        self.output = output

    def weights(self, channels: slice = slice(None)) -> Tensor:
        """Attention weights of the model, or by some channels of query and key alone.

        The scale is that of all channels: the logits of disjoint parts, and what is added to them, sum to the whole.

        Returns:
            (B, H, N, M) fp32; each row sums to 1.
        """
        logits = self.query[..., channels].float() @ self.key[..., channels].float().transpose(-1, -2)
        logits = logits / math.sqrt(self.query.shape[-1])
        if self.key_mask is not None and self.key_mask.dtype == torch.bool:
            logits = logits.masked_fill(~self.key_mask, float("-inf"))
        elif self.key_mask is not None:
            is_part = channels != slice(None)
            logits = logits + (self.key_mask.clamp(max=0).where(self.key_mask.isinf(), 0) if is_part else self.key_mask)
        return logits.softmax(-1)

    @property
    def content(self) -> Tensor:
        """Weights by content alone: of the first half of a head's channels in Conditional DETR's cross-attention.

        In its first layer, where states are zero, this half holds the positional query and key as well.
        """
        return self.weights(slice(None, self.query.shape[-1] // 2))

    @property
    def spatial(self) -> Tensor:
        """Weights by position alone: of the second half of a head's channels in Conditional DETR's cross-attention."""
        return self.weights(slice(self.query.shape[-1] // 2, None))


class AttentionRecorder(TorchFunctionMode):
    """Keeps what enters the attention kernel within a ``with`` block.

    Attributes:
        calls: by stage ("encoder", "decoder" or "top_left_decoder"), layer, counted from 0, and module ("self_attn" or
            "cross_attn").
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.calls: dict[tuple[str, int, str], RecordedAttention] = {}
        self._detector = detector
        self._stage = ""
        self._last: RecordedAttention | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "AttentionRecorder":
        seen: set[nn.Module] = set()
        for stage in ("encoder", "decoder", "top_left_decoder"):
            module = getattr(self._detector, stage, None)
            if module is None:
                continue
            self._handles.append(module.register_forward_pre_hook(self._entering(stage)))
            for index, layer in enumerate(module.layers):
                # Both decoders of Pair DETR may use the same layers.
                if layer not in seen:
                    seen.add(layer)
                    self._watch(index, layer)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            mask = rest[0] if rest else kwargs.get("attn_mask")
            self._last = RecordedAttention(query, key, value, mask, result.transpose(1, 2).flatten(2))
        return result

    def _entering(self, stage: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple) -> None:
            self._stage = stage

        return hook

    def _watch(self, index: int, layer: nn.Module) -> None:
        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple) -> None:
                self.calls[self._stage, index, name] = self._last

            return hook

        for name in ("self_attn", "cross_attn"):
            if hasattr(layer, name):
                # The output projection follows the kernel in every kind of attention, however it was called.
                self._handles.append(getattr(layer, name).out_proj.register_forward_pre_hook(keep(name)))
