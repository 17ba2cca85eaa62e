"""Flags, numbers and ids as other programs write them: text, floats for whole numbers, null, NumPy's types."""

import math
from collections.abc import Container
from numbers import Integral, Real
from typing import Any

_FLAGS = {"false": 0, "true": 1}
# Longer ones are no ids or sizes; Python refuses to convert text of thousands of digits.
_MAX_DIGITS = 40


def flag_of(value: Any) -> int | None:
    """0 or 1.

    Args:
        value: a boolean, a number or text that says so ("0", "true"); None counts as 0, as if it were not there.

    Returns:
        None for everything else.
    """
    if value is None:
        return 0
    if isinstance(value, str) and (flag := _FLAGS.get(value.strip().lower())) is not None:
        return flag
    value = _plain(value)
    number = int(value) if isinstance(value, bool) else number_of(value)
    return int(number) if number in (0, 1) else None


def unify_marks(annotation: dict[str, Any]) -> tuple[str | None, bool, bool]:
    """Makes the marks of an annotation 0 or 1, and its area a positive float, in place.

    All get ``iscrowd``, which is 1 for an object with ``ignore`` 1; an ``area`` that is of no use is removed.

    Returns:
        the key of a mark that is neither 0 nor 1, or None; whether ``ignore`` has made it a crowd; whether it had an
        area of no use, other than None.
    """
    for key in ("iscrowd", "ignore"):
        value = annotation.get(key, 0)
        if type(value) is not int or value not in (0, 1):
            value = flag_of(value)
            if value is None:
                return key, False, False
        if key == "iscrowd" or key in annotation:
            annotation[key] = value
    is_ignored = bool(annotation.get("ignore")) and not annotation["iscrowd"]
    if is_ignored:
        annotation["iscrowd"] = 1
    given = annotation.pop("area", None)
    area = number_of(given)
    if area is not None and 0 < area < math.inf:
        annotation["area"] = area
        return None, is_ignored, False
    return None, is_ignored, given is not None


def number_of(value: Any) -> float | None:
    """A number, or text that is one, as float, which may be infinite or NaN; None for everything else."""
    if type(value) is float:
        return value
    value = _plain(value)
    # Real.__instancecheck__ is slow.
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (str, Real))):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def numbers_of(values: list[Any]) -> list[float] | None:
    """A list of numbers as floats, see :func:`number_of`; None if one is no number."""
    if {*map(type, values)} == {float}:
        return values
    numbers = [number_of(value) for value in values]
    return None if None in numbers else numbers


def integer_of(value: Any) -> int | None:
    """A whole number, a float without a fraction or text that is one ("3", "3.0"), as int; None for everything else."""
    if type(value) is int:
        return value
    value = _plain(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, str):
        digits = value.strip()
        if len(digits) <= _MAX_DIGITS and digits.isascii() and digits.removeprefix("-").isdecimal():
            # A float would round ids of more than 53 bits.
            return int(digits)
    number = number_of(value)
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def id_of(value: Any) -> int | str | None:
    """An id as int, or as the text that it is; None for what is neither a whole number nor text."""
    value = _plain(value)
    return str(value) if isinstance(value, str) else integer_of(value)


def find_id(value: Any, ids: Container[int | str]) -> int | str | None:
    """The one of ``ids`` that is meant: the value itself, or the same number as text or of another type.

    Returns:
        None if there is none.
    """
    own = id_of(value)
    if own is None or own in ids:
        return own
    other = integer_of(own) if isinstance(own, str) else str(own)
    return other if other in ids else None


def _plain(value: Any) -> Any:
    """Python's own type in place of NumPy's, or of a tensor without dimensions."""
    if type(value) in (int, float, str):
        return value
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
