"""Files that lie in folders, less those that programs hide there: copies, thumbnails, trash."""

import fnmatch
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path

from pair_detr.utils.file_stamps import record_read
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

# What begins with a dot is hidden: .ipynb_checkpoints, .Trash-1000, .thumbnails, and ._x.jpg, which macOS writes next
# to x.jpg. These are of the same kind, in lower case: archives of macOS, network drives, Windows, Linux.
_HIDDEN = frozenset(
    {"__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
    | {"@recycle", "@recently-snapshot", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)


@dataclass(frozen=True)
class FoundFiles:
    """Files below a folder, each list sorted.

    Attributes:
        files: of the kind that is searched for.
        others: of other kinds.
        hidden: of the kind that is searched for, but hidden, or in a hidden folder.
    """

    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that file managers, editors and archives keep to themselves."""
    return name.startswith(".") or name.lower() in _HIDDEN


def search_files(folder: Path, suffixes: Collection[str], recursive: bool = True) -> FoundFiles:
    """Lists the files of a folder.

    Links are followed; a folder that is reached by several ways is listed once. Where the folder itself lies does not
    matter: it may be below a hidden one.

    Args:
        folder: where to search.
        suffixes: kind of the files, in lower case; those of files may be in upper case.
        recursive: also search in the folders in it.

    Raises:
        OSError: the folder, or one in it that is not hidden, cannot be listed.
    """
    found = FoundFiles()
    for current, folders, names in _walk_once(folder, lambda name: not recursive or is_hidden(name), _raise):
        record_read(current)
        for name in names:
            if not _is_of(name, suffixes):
                kind = found.others if not is_hidden(name) else None
            else:
                kind = found.hidden if is_hidden(name) else found.files
            if kind is not None:
                kind.append(Path(current, name))
        if recursive:
            for name in filter(is_hidden, folders):
                found.hidden.extend(files_below(Path(current, name), suffixes))
    for files in (found.files, found.others, found.hidden):
        files.sort()
    return found


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """All files of one kind in a folder and those in it, also hidden ones; what cannot be listed is passed over."""
    for current, _, names in os.walk(folder):
        record_read(current)
        yield from (Path(current, name) for name in names if _is_of(name, suffixes))


def find_files(folder: Path, suffixes: Collection[str], recursive: bool = True) -> list[Path]:
    """The files of one kind in a folder, sorted; logs a warning that names the hidden ones.

    For arguments and errors see :func:`search_files`.
    """
    found = search_files(folder, suffixes, recursive)
    warn_of_hidden(folder, found.hidden)
    return found.files


def match_files(pattern: Path) -> list[Path]:
    """Regular files that match a pattern of the shell, where ** is any number of folders; sorted.

    As with :func:`glob.glob`, what begins with a dot is matched by parts of a pattern that do so alone. But of several
    ways to a folder by symbolic links, ** takes one: a link to a folder above it would lead around without end.
    """
    wild = next((index for index, part in enumerate(pattern.parts) if has_magic(part)), len(pattern.parts))
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(_expand(Path(*pattern.parts[:wild]), pattern.parts[wild:])):
        if path.is_file():
            files.setdefault((os.path.realpath(path.parent), path.name), path)
    return list(files.values())


def _expand(path: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        yield path
    elif parts[0] == "**":
        # At the end of a pattern it matches all that is in the folders.
        for folder, *_ in _walk_once(path, lambda name: name.startswith(".")):
            yield from _expand(Path(folder), parts[1:] or ["*"])
    elif has_magic(parts[0]):
        for name in fnmatch.filter(_names(path), parts[0]):
            if parts[0].startswith(".") or not name.startswith("."):
                yield from _expand(path / name, parts[1:])
    elif os.path.lexists(path / parts[0]):
        yield from _expand(path / parts[0], parts[1:])


def _walk_once(
    folder: Path, is_left_out: Callable[[str], bool], onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As :func:`os.walk`, which follows links, but goes to each folder once, and to none whose name is left out."""
    seen: set[str] = set()
    for current, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
        else:
            seen.add(real)
            yield current, folders, names
            folders[:] = sorted(name for name in folders if not is_left_out(name))


def _names(folder: Path) -> list[str]:
    try:
        record_read(folder)
        return [path.name for path in folder.iterdir()]
    except OSError:
        # It is a file, or what may not be listed, which patterns pass over.
        return []


def warn_of_hidden(folder: Path, hidden: Sequence[Path]) -> None:
    """Logs a warning that counts and names hidden files below a folder, if there are any."""
    if not hidden:
        return
    counts = Counter(_hidden_part(path.relative_to(folder)).as_posix() for path in hidden)
    logger.warning(
        "%s: left out hidden files (%d), by file or folder: %s. Rename what belongs to the data.",
        folder,
        len(hidden),
        join_some([f"{part} ({count})" for part, count in counts.items()]),
    )


def _is_of(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 (a Path for each of a million takes seconds)


def _hidden_part(path: Path) -> Path:
    """A path up to what is hidden in it."""
    position = next(index for index, part in enumerate(path.parts) if is_hidden(part))
    return Path(*path.parts[: position + 1])


def _raise(error: OSError) -> None:
    raise error
