"""Wording that the messages about data share."""

import logging
from collections.abc import Sequence

_logged: set[str] = set()


def join_some(items: Sequence[str], limit: int = 20) -> str:
    """The first ``limit`` items in a row, and how many there are besides."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number and what it counts: "1 box", "2 boxes".

    Args:
        count: how many there are.
        noun: for one of them.
        plural: for several; "" adds an s to the noun.
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def log_once(logger: logging.Logger, level: int, message: str) -> None:
    """Logs a message that loading a dataset gives, which happens several times in a run.

    A program may load data before it sets up logging; then it is said again.
    """
    if message in _logged:
        return
    logger.log(level, message)
    if logger.isEnabledFor(level) and logger.hasHandlers():
        _logged.add(message)


def one_line(text: str) -> str:
    """A name in a single line, without control characters: for tables and pictures, which a line break would break."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
