"""What the file names of missing images get wrong, where that is the same with many of them."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from pair_detr.data.image_names import is_folder, is_there
from pair_detr.images.reading import IMAGE_SUFFIXES

# So many of the missing files are looked for, in so many folders each.
_EXAMPLES = 20
_MAX_FOLDERS = 100
# An address, also behind the image folder that it was joined to, where a path has one slash.
_WEB = re.compile(r"(?:^|/)(?:https?|ftp):/")
_SCHEME = re.compile(r"[a-zA-Z][\w+.-]+://")
_FOLDER_REMEDY = "correct the image folder, or the file names in the annotations"


class Finding(NamedTuple):
    """What is wrong with a name: a kind that all files with this mistake have, and a text that says what to do."""

    kind: str
    text: str


def explain_missing(missing: Sequence[str], image_root: str | None = None) -> str:
    """What is wrong with the names of missing files, if it is the same with many, and what to do about it.

    ``image_root`` is the folder that they were joined to, where known.

    Returns:
        a text with an example; "" if the files seem to be just not there.
    """
    search = _Search(None if image_root is None else str(image_root))
    step = max(len(missing) // _EXAMPLES, 1)
    findings = []
    for file in missing[::step][:_EXAMPLES]:
        # A folder on the way may not be read.
        with suppress(OSError):
            if (finding := search.examine(file)) is not None:
                findings.append(finding)
    if not findings:
        return ""
    (most, _), *_ = Counter(finding.kind for finding in findings).most_common(1)
    return next(finding.text for finding in findings if finding.kind == most)


class _Search:
    """Looks for files that names may mean; every folder is listed once."""

    def __init__(self, image_root: str | None) -> None:
        self._root = image_root
        self._spellings: dict[tuple[Path, bool], dict[str, str]] = {}
        self._folders: dict[Path, list[Path]] = {}

    def examine(self, file_name: str) -> Finding | None:
        """What is wrong with a name; None if nothing is to be seen."""
        if _WEB.search(file_name):
            return Finding(
                "web",
                f"{file_name} is a web address: Detectron2 would download each image when training first comes to it. "
                "Download them into the image folder beforehand, and write the names of the files as file_name; the "
                "addresses may stay as coco_url.",
            )
        if scheme := _SCHEME.match(file_name):
            return Finding(
                "scheme",
                f"Nothing opens {file_name}: register a handler of {scheme[0]} with Detectron2's PathManager, or copy "
                "the images to this machine.",
            )
        path = Path(file_name.replace("\\", "/") if os.sep == "/" else file_name)
        for search in (self._slash, self._spelling, self._folder_less, self._folder_more, self._below_root):
            if (found := search(path)) is not None:
                file, kind, remedy = found
                return Finding(kind, f"{file_name} does not exist, but {file} does: {kind}; {remedy}.")
        return None

    def _slash(self, path: Path) -> tuple[Path, str, str] | None:
        """Detectron2's loader of LVIS joins folder and name without a slash."""
        text = str(path)
        if self._root is None or self._root.endswith("/") or not text.startswith(self._root):
            return None
        file = Path(self._root, text[len(self._root) :].lstrip("/"))
        if file == path or not is_there(file):
            return None
        return file, "the image folder and the name run into each other", "let the image folder end with a slash"

    def _spelling(self, path: Path) -> tuple[Path, str, str] | None:
        """The parts of a path are there, in another spelling."""
        current, kind = Path(path.anchor), None
        parts = path.relative_to(path.anchor).parts
        for number, part in enumerate(parts, start=1):
            if not is_there(current / part):
                other = self._alike(current, part, is_file=number == len(parts))
                if other is None:
                    return None
                kind = kind or _difference(part, other)
                part = other
            current = current / part
        return None if kind is None else (current, kind, "rename the files, or correct their names in the annotations")

    def _alike(self, folder: Path, name: str, is_file: bool) -> str | None:
        for by_stem in (False, True) if is_file else (False,):
            if (folder, by_stem) not in self._spellings:
                names = sorted(entry.name for entry in folder.iterdir()) if is_folder(folder) else []
                if by_stem:
                    names = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES]
                self._spellings[folder, by_stem] = {_spelling_key(n, by_stem): n for n in names}
            if (other := self._spellings[folder, by_stem].get(_spelling_key(name, by_stem))) is not None:
                return other
        return None

    def _folder_less(self, path: Path) -> tuple[Path, str, str] | None:
        parts = path.relative_to(path.anchor).parts
        for i in reversed(range(len(parts) - 1)):
            file = Path(path.anchor, *parts[:i], *parts[i + 1 :])
            if is_there(file):
                return file, f'the folder "{parts[i]}" is one too many', _FOLDER_REMEDY
        return None

    def _folder_more(self, path: Path) -> tuple[Path, str, str] | None:
        existing = next((parent for parent in path.parents if is_folder(parent)), None)
        if existing is None:
            return None
        if existing not in self._folders:
            with os.scandir(existing) as entries:
                self._folders[existing] = sorted(
                    Path(e.path) for e in islice(filter(os.DirEntry.is_dir, entries), _MAX_FOLDERS)
                )
        for folder in self._folders[existing]:
            file = folder / path.relative_to(existing)
            if is_there(file):
                return file, f'the folder "{folder.name}" is left out', _FOLDER_REMEDY
        return None

    def _below_root(self, path: Path) -> tuple[Path, str, str] | None:
        """Paths of the machine that the annotations were written on."""
        for number in range(1, len(path.parts) if self._root is not None else 0):
            file = Path(self._root, *path.parts[-number:])
            if is_there(file):
                return file, "the names have folders that are not here", "write them relative to the image folder"
        return None


def _spelling_key(name: str, by_stem: bool) -> str:
    key = unicodedata.normalize("NFC", unquote(name)).casefold().strip()
    path = Path(key)
    return path.stem if by_stem and path.suffix in IMAGE_SUFFIXES else key


def _difference(name: str, other: str) -> str:
    if name.casefold() == other.casefold():
        return "upper and lower case differ"
    if name.strip() == other.strip():
        return "there is a space at an end"
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
        return "accented letters are in two forms of Unicode, NFC and NFD"
    if unquote(name) == unquote(other):
        return "characters are escaped as in web addresses (%20 for a space)"
    return "the suffixes differ"
