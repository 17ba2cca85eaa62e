"""Classes of one dataset in terms of another's, found by their names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pair_detr.data.catalog import class_names_of
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.messages import counted, join_some

_NAMED = 10


class ClassMismatchError(ValueError):
    """Two lists of classes do not have the same names; the text says how they differ."""


def match_order(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """Finds each class of one list in another with the same names, up to case, underscores and hyphens.

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
    return f"{number} ({join_some(names, _NAMED)})"


def with_classes(
    records: Sequence[dict[str, Any]], to_index: Sequence[int] | Mapping[int, int]
) -> list[dict[str, Any]]:
    """Images whose annotations have other class indices.

    Args:
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


@dataclass
class VocabularyMatch:
    """Which class of a dataset is which class of the vocabulary.

    Args:
        to_vocabulary: index in the vocabulary by the dataset's own class index, for those that matched.
        by_synonym: "own name = name in the vocabulary" of those that matched by a synonym only.
        unmatched: names without a counterpart.
        ambiguous: "own name = a or b" of names that fit several classes by their synonyms; they do not match either.
    """

    to_vocabulary: dict[int, int] = field(default_factory=dict)
    by_synonym: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The result in a sentence or two, for a log."""
        total = len(self.to_vocabulary) + len(self.unmatched) + len(self.ambiguous)
        text = f"{len(self.to_vocabulary)} of {total} classes are in the vocabulary"
        for title, names in (
            ("by a synonym", self.by_synonym),
            ("not in it", self.unmatched),
            ("ambiguous", self.ambiguous),
        ):
            if names:
                text += f"; {title}: {join_some(names)}"
        return text


def match_classes(
    names: Sequence[str],
    vocabulary: Sequence[str],
    synonyms: Sequence[Sequence[str]] | None = None,
    vocabulary_synonyms: Sequence[Sequence[str]] | None = None,
) -> VocabularyMatch:
    """Finds each class in a vocabulary: by its name, else by a synonym on either side, where known.

    Raises:
        ValueError: two classes of the vocabulary have the same name, up to case, underscores and hyphens.
    """
    exact: dict[str, int] = {}
    for index, name in enumerate(vocabulary):
        key = normalize_name(name)
        if key in exact:
            raise ValueError(
                f'classes {exact[key]} and {index} of the vocabulary have the same name, "{vocabulary[exact[key]]}" '
                f'and "{name}": labels could be of either. Rename one of them in the dataset\'s categories'
            )
        exact[key] = index
    known = {key: {index} for key, index in exact.items()}
    for index, others in enumerate(vocabulary_synonyms or ()):
        for other in others:
            known.setdefault(normalize_name(other), set()).add(index)

    match = VocabularyMatch()
    for index, name in enumerate(names):
        if (key := normalize_name(name)) in exact:
            match.to_vocabulary[index] = exact[key]
            continue
        aliases = [name, *(synonyms[index] if synonyms else ())]
        found = sorted(set().union(*(known.get(normalize_name(alias), set()) for alias in aliases)))
        if not found:
            match.unmatched.append(name)
        elif len(found) > 1:
            match.ambiguous.append(f"{name} = {' or '.join(vocabulary[i] for i in found)}")
        else:
            match.to_vocabulary[index] = found[0]
            match.by_synonym.append(f"{name} = {vocabulary[found[0]]}")
    return match


def require_class_names(name: str) -> list[str]:
    """Names of the classes of a registered dataset.

    Raises:
        ValueError: its metadata have none; further as :func:`pair_detr.data.catalog.class_names_of`.
    """
    classes = class_names_of(name)
    if not classes:
        raise ValueError(
            f'Dataset "{name}" has no thing_classes in its metadata: set them, labels are matched by class name.'
        )
    return classes
