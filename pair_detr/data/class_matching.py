"""Whether two lists of classes are the same, and which class of one is which of the other where only the order differs.

Class indices are positions in such a list: those of a model mean nothing in data whose list is another.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pair_detr.data.messages import counted, join_some
from pair_detr.data.vocabulary import normalize_name

_NAMED = 10


class ClassMismatchError(ValueError):
    """Two lists of classes do not have the same names; the text says how they differ."""


def match_order(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """Finds each class of one list in another with the same names, up to case, underscores and hyphens.

    Args:
        names: of the classes.
        others: where to find them.

    Returns:
        the index in ``others`` of each of ``names``; None where both lists have the same order.

    Raises:
        ClassMismatchError: a name is not in the other list, or the order differs and a name is not unique.
    """
    keys, other_keys = ([normalize_name(name) for name in x] for x in (names, others))
    if keys == other_keys:
        return None
    if Counter(keys) != Counter(other_keys):
        raise ClassMismatchError(_differences(names, others))
    index = {key: i for i, key in enumerate(other_keys)}
    if len(index) < len(keys):
        twice = [name for name, key in zip(names, keys, strict=True) if keys.count(key) > 1]
        raise ClassMismatchError(f"they are in another order, and {join_some(twice, _NAMED)} are not unique")
    return tuple(index[key] for key in keys)


def describe_classes(names: Sequence[str]) -> str:
    """Such as "3 classes (cat, dog, owl)", with the first of a long list."""
    number = counted(len(names), "class", "classes")
    return f"{number} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"


def with_classes(
    records: Sequence[dict[str, Any]], to_index: Sequence[int] | Mapping[int, int]
) -> list[dict[str, Any]]:
    """Images whose annotations have other class indices.

    Args:
        records: images in Detectron2's standard format; left unchanged.
        to_index: new index by the old one; a mapping may leave out classes, whose annotations are left out.
    """
    if not isinstance(to_index, Mapping):
        to_index = dict(enumerate(to_index))
    return [
        {
            **record,
            "annotations": [
                {**annotation, "category_id": to_index[annotation["category_id"]]}
                for annotation in record["annotations"]
                if annotation["category_id"] in to_index
            ],
        }
        if "annotations" in record
        else record
        for record in records
    ]


def _differences(names: Sequence[str], others: Sequence[str]) -> str:
    missing, further = _without(names, others), _without(others, names)
    parts = [
        f"{label}: {join_some(found, _NAMED)}"
        for label, found in (("in the first alone", missing), ("in the second alone", further))
        if found
    ]
    return "; ".join(parts)


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those of ``names`` that ``others`` have not, or not as often."""
    left = Counter(map(normalize_name, others))
    result = []
    for name in names:
        key = normalize_name(name)
        if left[key] > 0:
            left[key] -= 1
        else:
            result.append(name)
    return result
