"""Log records of the time before it is known where to write a log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler


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
