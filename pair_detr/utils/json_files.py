"""Reading and writing JSON files of annotations."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.text_files import read_text


def read_json(file: str | Path) -> Any:
    """Content of a file in any of the encodings of :func:`pair_detr.utils.text_files.read_text`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text, or not JSON; the message names it.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}). Correct or replace the file.") from error


def write_json(content: Any, file: str | Path) -> None:
    """Writes a file, which is complete or as it was at any time; its folder is made if need be."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def finite_or_null(content: Any) -> Any:
    """Content for a file in which numbers that are NaN or infinite, as of JSON's standard, are null.

    Args:
        content: mappings, lists, tuples, text, numbers.
    """
    if isinstance(content, Mapping):
        return {name: finite_or_null(x) for name, x in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite_or_null(x) for x in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
