"""Wording that the messages about data share."""

from collections.abc import Sequence


def join_some(items: Sequence[str], limit: int = 20) -> str:
    """The first ``limit`` items in a row, and how many there are besides."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")
