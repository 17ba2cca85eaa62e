"""File names of images: which do not exist, and which Detectron2 can open."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from iopath.common.file_io import HTTPURLHandler

from pair_detr.utils.messages import counted

# Unlike pathlib's, these say no of what cannot even be a path, or lies where the user may not look.
is_there, is_folder = os.path.exists, os.path.isdir


def with_slashes(name: str, dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images whose file names were written on Windows, with slashes for backslashes where the files exist so.

    ``dicts`` are left unchanged.
    """
    if os.sep == "\\":
        return dicts
    turned = [_with_slashes(record) for record in dicts]
    count = sum(new is not old for new, old in zip(turned, dicts, strict=True))
    if count:
        names = counted(count, "file name has", "file names have")
        message = f'Dataset "{name}": {names} backslashes, which are read as slashes.'
        log_first_n(logging.WARNING, message, key="message", name=__name__)
    return turned


def missing_files(file_names: Sequence[str]) -> list[str]:
    """Those of ``file_names`` that are not there to be opened, in their order.

    Addresses such as s3://... are taken to be there where Detectron2's PathManager has a handler for them: asking for
    each would take too long. Web addresses are not: it would download the images one by one while training.
    """
    # One listing of a folder is much faster than asking for each of COCO's 118k images.
    folders: dict[str, set[str]] = {}
    missing = []
    for file_name in file_names:
        if _has_handler(file_name):
            continue
        folder, base = os.path.split(file_name)
        if folder not in folders:
            folders[folder] = _files_in(folder)
        if base not in folders[folder]:
            missing.append(file_name)
    return missing


def _files_in(folder: str) -> set[str]:
    """Names of the files in a folder; not of pipes, which opening would wait for, nor of links to nothing."""
    if not is_folder(folder):
        return set()
    with os.scandir(Path(folder)) as entries:
        return {entry.name for entry in entries if _is_file(entry)}


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # A link that leads nowhere, or where the user may not look.
        return False


def _with_slashes(record: dict[str, Any]) -> dict[str, Any]:
    file = record.get("file_name")
    if not isinstance(file, str) or "\\" not in file or is_there(file):
        return record
    turned = file.replace("\\", "/")
    return {**record, "file_name": turned} if is_there(turned) else record


def _has_handler(file_name: str) -> bool:
    if "://" not in file_name:
        return False
    # PathManager has no public way to ask for a handler without opening the file.
    handlers = getattr(PathManager, "_path_handlers", {})
    return any(
        file_name.startswith(prefix) and not isinstance(handler, HTTPURLHandler) for prefix, handler in handlers.items()
    )
