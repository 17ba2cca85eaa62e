"""Wording that the messages about data share."""

from collections.abc import Sequence


def join_some(items: Sequence[str], limit: int = 20) -> str:
    """The first ``limit`` items in a row, and how many there are besides."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def one_line(text: str) -> str:
    """A name in a single line, without control characters: for tables and pictures, which a line break would break."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
