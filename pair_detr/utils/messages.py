"""Wording that messages share, and when they are logged."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import BufferingHandler

_logged: set[str] = set()


def join_some(items: Sequence[str], limit: int = 20) -> str:
    """The first ``limit`` items in a row, and how many there are besides."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number and what it counts: "1 box", "2 boxes". Without a plural the noun gets an s."""
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


@contextmanager
def held_records(name: str) -> Iterator[list[logging.LogRecord]]:
    """Collects what is logged under a logger's name, rather than to write it; see :func:`replay`."""
    logger = logging.getLogger(name)
    before = logger.handlers, logger.level, logger.propagate
    buffer = BufferingHandler(capacity=1000)
    logger.handlers, logger.propagate = [buffer], False
    logger.setLevel(logging.INFO)
    try:
        yield buffer.buffer
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)


def replay(records: list[logging.LogRecord]) -> None:
    """Hands records over to the loggers that they were meant for."""
    for record in records:
        logging.getLogger(record.name).handle(record)


def one_line(text: str) -> str:
    """A name in a single line, without control characters: for tables and pictures, which a line break would break."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
