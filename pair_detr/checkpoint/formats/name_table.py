"""Tables of names: what one code base calls what this package calls otherwise. Each is read in both directions."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Name of a code base, or several whose tensors are joined along the first dimension -> name in this package. Both hold
# the same placeholders.
Names = dict[str | tuple[str, ...], str]

_PLACEHOLDERS = {
    "i": r"\d+",
    "n": r"\d",
    "p": "weight|bias",
    # A batch norm with its statistics.
    "s": "weight|bias|running_mean|running_var",
    # The projections of Conditional DETR's attention, as its authors call them.
    "q": "qcontent|qpos_sine|qpos|kcontent|kpos|v",
}


def with_prefix(theirs: str, ours: str, names: Names) -> Names:
    """Puts prefixes (ending in a dot, or empty) before all names."""
    return {
        tuple(theirs + part for part in key) if isinstance(key, tuple) else theirs + key: ours + name
        for key, name in names.items()
    }


class NameTable:
    """A one-to-one map between the state dicts of a code base and of this package."""

    def __init__(self, names: Names) -> None:
        self._rules = [((key,) if isinstance(key, str) else key, name) for key, name in names.items()]
        self._theirs = [
            (_compile(part), number, len(parts), name)
            for parts, name in self._rules
            for number, part in enumerate(parts)
        ]
        self._ours = [(_compile(name), parts) for parts, name in self._rules]

    def to_native(self, key: str) -> tuple[str, int, int] | None:
        """Our name of one of their keys, and which of how many parts of it that key is; None if it is not known."""
        for pattern, number, count, name in self._theirs:
            if match := pattern.fullmatch(key):
                return name.format(**match.groupdict()), number, count
        return None

    def to_foreign(self, key: str) -> list[str] | None:
        """Their name, or the names of the parts, of one of our keys; None if it is not known."""
        for pattern, parts in self._ours:
            if match := pattern.fullmatch(key):
                return [part.format(**match.groupdict()) for part in parts]
        return None

    def rename_to_native(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The tensors under our names, joined and less those that lack a part; and the keys that are not known."""
        parts: dict[str, dict[int, Tensor]] = {}
        counts: dict[str, int] = {}
        unknown = []
        for key, tensor in state.items():
            found = self.to_native(key)
            if found is None:
                unknown.append(key)
            else:
                name, number, counts[name] = found
                parts.setdefault(name, {})[number] = tensor
        renamed = {
            name: torch.cat([found[i] for i in range(counts[name])]) if counts[name] > 1 else found[0]
            for name, found in parts.items()
            if len(found) == counts[name]
        }
        return renamed, unknown

    def rename_to_foreign(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The tensors under their names, split into their parts; and the keys that are not known."""
        renamed: dict[str, Tensor] = {}
        unknown = []
        for key, tensor in state.items():
            names = self.to_foreign(key)
            if names is None:
                unknown.append(key)
            else:
                renamed.update(zip(names, tensor.chunk(len(names)), strict=True))
        return renamed, unknown


def _compile(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w)\}", template)
    return re.compile(
        "".join(
            f"(?P<{piece}>{_PLACEHOLDERS[piece]})" if number % 2 else re.escape(piece)
            for number, piece in enumerate(pieces)
        )
    )
