"""What of a run's log is also shown on the console."""

import logging
import sys
from collections.abc import Iterator

# Detectron2's package and those that log with it, by the names of their loggers.
LOGGERS = ("pair_detr", "fvcore", "detectron2")
# ``logger.info(text, extra=ON_CONSOLE)`` is shown while other information is held back.
ON_CONSOLE = {"on_console": True}
# What these say below a warning is for log.txt alone: sizes of serialized data, and results as a line to paste.
_DETAILS = ("detectron2.data", "detectron2.evaluation.testing", "detectron2.engine.defaults")

_Held = list[tuple[logging.Handler, logging.LogRecord]]


def hold_console() -> None:
    """Keeps the console of this process free until :func:`release_console`; log files get everything at once.

    Information is not shown, unless it is marked with :data:`ON_CONSOLE`. Warnings are shown by the release, so that
    they are not lost between other lines. Call it after the loggers are set up.
    """
    held: _Held = []
    for handler in _console_handlers():
        # Those of an earlier run of this process.
        for earlier in [x for x in handler.filters if isinstance(x, _ConsoleFilter)]:
            handler.removeFilter(earlier)
        handler.addFilter(_ConsoleFilter(handler, held))


def release_console() -> None:
    """Shows the warnings that were held back, in their order, and from now on all but details."""
    filters = [x for handler in _console_handlers() for x in handler.filters if isinstance(x, _ConsoleFilter)]
    held = next((x.held for x in filters if x.held), None) or []
    for x in filters:
        x.held = None
    for handler, record in held:
        handler.handle(record)


class _ConsoleFilter(logging.Filter):
    def __init__(self, handler: logging.Handler, held: _Held) -> None:
        super().__init__()
        self.handler = handler
        # None after the release.
        self.held: _Held | None = held

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or getattr(record, "on_console", False):
            return True
        is_warning = record.levelno == logging.WARNING
        if self.held is None:
            return is_warning or not record.name.startswith(_DETAILS)
        if is_warning:
            self.held.append((self.handler, record))
        return False


def _console_handlers() -> Iterator[logging.Handler]:
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.__stdout__):
                yield handler
