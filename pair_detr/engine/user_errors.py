"""How programs end: in one line where the user can mend what is wrong, with a traceback where a developer has to."""

import argparse
import ast
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from torch.multiprocessing import ProcessRaisedException

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.utils.disk_space import explained, is_disk_full

# Set to anything but 0, it shows tracebacks. An environment variable, as all processes of a training inherit it.
TRACEBACK_VARIABLE = "PAIR_DETR_TRACEBACK"

_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
# What the workers of a loader raise: the text of the message ends with the traceback of the error in the worker.
_IN_LOADER = re.compile(
    r'.*\n  File "(?P<file>[^"\n]+)", line (?P<line>\d+), in [^\n]*\n(?P<source>(?:    [^\n]*\n)*)'
    r"(?P<kind>[\w.]+): (?P<message>.*)",
    re.DOTALL,
)


class WorkerError(ProcessRaisedException):
    """A user's error in one of several processes; the text is its line, the cause has its traceback."""

    def __init__(self, line: str, error: ProcessRaisedException) -> None:
        super().__init__(line, error.error_index, error.error_pid)


# Errors of these kinds are taken for the user's. A library, or a mistake in this package, may raise one as well:
# describe_error then adds the place.
_BUILTIN_ERRORS = (OSError, ValueError, KeyError, ImportError, AssertionError, FloatingPointError)
USER_ERRORS = (*_BUILTIN_ERRORS, CheckpointError, WorkerError)


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--traceback``, which does what the environment variable :data:`TRACEBACK_VARIABLE` does."""
    parser.add_argument(
        "--traceback",
        action=_ShowTraceback,
        nargs=0,
        default=argparse.SUPPRESS,
        help=f"show where in the program an error arose (as {TRACEBACK_VARIABLE}=1 in the environment)",
    )


class _ShowTraceback(argparse.Action):
    def __call__(self, *_: object) -> None:
        os.environ[TRACEBACK_VARIABLE] = "1"


def run_program(main: Callable[[], object]) -> NoReturn:
    """Ends the process with the number that ``main`` returns, if any, or with 1 and a line that says what is wrong.

    Errors of the kinds in :data:`USER_ERRORS` are that line alone, others keep their traceback; ``--traceback`` or
    the environment variable :data:`TRACEBACK_VARIABLE` shows it of all.
    """
    try:
        with short_training_errors():
            status = main()
        sys.exit(status if isinstance(status, int) else 0)
    except USER_ERRORS as error:
        if _shows_traceback():
            raise
        if is_disk_full(error):
            _close_logs()
        sys.exit(f"error: {describe_error(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


def describe_error(error: BaseException) -> str:
    """The message of an error, for a line of its own.

    What this package does not raise on purpose is not written for users, so its kind and place are added.
    """
    if match := _IN_LOADER.fullmatch(str(error)):
        kind, message = match["kind"].rpartition(".")[2], match["message"].rstrip("\n")
        if kind == "KeyError":
            message = str(ast.literal_eval(message))
        file, line, source = match["file"], int(match["line"]), match["source"]
    else:
        # The text of a KeyError is the repr of its message.
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        kind = type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)
        file, line, source = (frames[-1].filename, frames[-1].lineno, frames[-1].line or "") if frames else ("", 0, "")
    if is_disk_full(error):
        if named := explained(error):
            return str(named)
        # It rarely names the file; the place tells metrics from results.
        return (
            f"The disk is full, or a quota or limit is reached: {message} (in {'/'.join(Path(file).parts[-2:])}, line "
            f"{line}). Free space and run the command again; a training goes on from its last checkpoint with --resume."
        )
    is_on_purpose = _PACKAGE_ROOT in Path(file).parents and source.strip().startswith("raise")
    if is_on_purpose or not file or isinstance(error, (OSError, ImportError)):
        return message
    place = f"{kind} in {'/'.join(Path(file).parts[-2:])}, line {line}"
    return f"{message} ({place}; {TRACEBACK_VARIABLE}=1 in the environment shows more)".lstrip()


@contextmanager
def short_training_errors() -> Iterator[None]:
    """Makes logs show a user's error in the training loop as its line, and no tracebacks of their own errors."""
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(_shorten)
    # Else each line that a full disk keeps from log.txt shows a traceback.
    before, logging.raiseExceptions = logging.raiseExceptions, _shows_traceback()
    try:
        yield
    finally:
        logging.raiseExceptions = before
        loop.removeFilter(_shorten)


def _close_logs() -> None:
    """Closes log files: where their last lines do not fit, the end of the process would show a traceback."""
    handlers = [
        handler for name in ("detectron2", "fvcore", "pair_detr") for handler in logging.getLogger(name).handlers
    ]
    for stream in {getattr(handler, "stream", sys.stderr) for handler in handlers} - {sys.stdout, sys.stderr}:
        with suppress(OSError):
            stream.close()


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, USER_ERRORS) and not _shows_traceback():
        record.msg, record.args, record.exc_info = f"{record.msg} %s", (describe_error(error),), None
    return True


def _shows_traceback() -> bool:
    return os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0")
