"""Reading and writing JSON files of annotations."""

import json
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from pair_detr.atomic import replacing


def read_json(file: str | Path) -> Any:
    """Content of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; the message names it.
    """
    with PathManager.open(str(file)) as stream:
        try:
            return json.load(stream)
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON ({error}). Correct or replace the file.") from error


def write_json(content: Any, file: str | Path) -> None:
    """Writes a file, which is complete or as it was at any time; its folder is made if need be."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content))
