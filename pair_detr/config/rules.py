"""What the value of a config key can be: rules for numbers, choices and lists of them."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from fvcore.common.registry import Registry


class Rule(NamedTuple):
    """A requirement.

    Attributes:
        accepts: whether a value meets it; for values of any type.
        meaning: what the value must be, to follow "it must be".
        choices: what to add to the meaning, as it is when the message is written; names can be registered until then.
    """

    accepts: Callable[[Any], bool]
    meaning: str
    choices: Callable[[], str] = str


def is_number(value: Any) -> bool:
    """Neither NaN, nor infinite, nor a bool, which is a number in Python."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """A whole number of a type for such."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    """A list or a tuple, but not text."""
    return isinstance(value, (list, tuple))


def whole(least: int, note: str = "") -> Rule:
    """A whole number that is ``least`` or more."""
    return Rule(lambda value: is_whole(value) and value >= least, f"a whole number, {least} or more{note}")


def one_of(choices: Iterable[Any]) -> Rule:
    """One of a few values."""
    known = tuple(choices)
    return Rule(lambda value: value in known, f"one of {', '.join(str(choice) or repr(choice) for choice in known)}")


def registered(registry: Registry) -> Rule:
    """A name in one of Detectron2's registries, which may grow."""
    return Rule(lambda value: isinstance(value, str) and value in registry, "a name in Detectron2's registry of these")


def each(rule: Rule, length: int | None = None) -> Rule:
    """A list or tuple, not empty, whose entries meet a rule; of a certain length, if there is one."""

    def accepts(value: Any) -> bool:
        return is_list(value) and len(value) == (length or max(1, len(value))) and all(map(rule.accepts, value))

    return Rule(accepts, f"a list of {length or 'one or more'} entries, each {rule.meaning}")


def optional(rule: Rule, nothing: Sequence[Any] | None, meaning: str) -> Rule:
    """As a rule says, or the value that stands for nothing, such as None or ()."""

    def accepts(value: Any) -> bool:
        is_nothing = value is None if nothing is None else is_list(value) and not value
        return is_nothing or rule.accepts(value)

    return Rule(accepts, f"{rule.meaning}; {meaning}")


def ascending(rule: Rule, length: int | None = None, strictly: bool = True) -> Rule:
    """A list of numbers that meet a rule, the smallest first; without a ``length``, it may be empty."""

    def accepts(value: Any) -> bool:
        if not is_list(value) or not all(map(rule.accepts, value)) or len(value) != (length or len(value)):
            return False
        return all(low < high or (low == high and not strictly) for low, high in itertools.pairwise(value))

    what = f"a list of {length} entries" if length else "a list"
    return Rule(accepts, f"{what} in ascending order, each {rule.meaning}")


def number(accepts: Callable[[float], bool], meaning: str) -> Rule:
    """A finite number that meets a condition."""
    return Rule(lambda value: is_number(value) and accepts(value), meaning)


POSITIVE_WHOLE = whole(1)
NOT_NEGATIVE_WHOLE = whole(0)
FINITE = number(lambda value: True, "a finite number")
POSITIVE = number(lambda value: value > 0, "above 0, and finite")
NOT_NEGATIVE = number(lambda value: value >= 0, "0 or more, and finite")
FRACTION = number(lambda value: 0 <= value <= 1, "between 0 and 1")
INNER_FRACTION = number(lambda value: 0 < value < 1, "between 0 and 1, and neither")
BELOW_ONE = number(lambda value: 0 <= value < 1, "from 0 to below 1")
# Where -1 takes what the variant was published with.
WEIGHT_OR_AUTO = number(lambda value: value >= 0 or value == -1, "0 or more, or -1 for the variant's own")
WEIGHT = NOT_NEGATIVE
BELOW_ONE_OR_DROPOUT = number(
    lambda value: 0 <= value < 1 or value == -1, "from 0 to below 1, or -1 for MODEL.DETR.DROPOUT"
)
FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
