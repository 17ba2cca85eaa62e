"""A folder of generated images: one process at a time writes there, and replaces what was made there alone."""

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pair_detr.utils.atomic import remove_abandoned, temporary_folder
from pair_detr.utils.file_lock import one_at_a_time
from pair_detr.utils.json_files import read_json, write_json
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

# What file managers leave.
_NOBODYS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class FolderLayout:
    """What a folder of generated images holds.

    Attributes:
        content: what it is, for messages.
        stamp: file that tells what the images were made with.
        keys: of the stamp.
        own: paths, relative to the folder and with slashes, of what is made with the images and replaced with them.
        kept: names of files in the folder that stay when the images are replaced.
    """

    content: str
    stamp: str
    keys: frozenset[str]
    own: re.Pattern[str]
    kept: re.Pattern[str] | None = None


# What make_shapes and make_panoptic_shapes write.
SHAPES = FolderLayout(
    "shapes",
    "shapes.json",
    frozenset({"version", "seed", "train", "val"}),
    re.compile(
        r"shapes\.json|(panoptic_)?(train|val)(/\d{6}\.png)?|annotations(/(shapes|panoptic_shapes)_(train|val)\.json)?"
    ),
)


def make_folder(folder: Path, layout: FolderLayout, stamp: Mapping[str, Any], write: Callable[[Path], None]) -> bool:
    """Makes a folder, which is complete or absent at any time; waits for processes that do the same.

    Images that were made earlier with the same stamp are kept, others replaced.

    Args:
        stamp: all that the images depend on.
        write: writes them into a new folder, of which the path is given.

    Returns:
        whether images were made; False if the folder was up to date.

    Raises:
        FileExistsError: ``folder`` exists, but was not written by this function, or there is something else in it.
    """
    folder = folder.expanduser().resolve()
    remove_abandoned(folder.parent)
    if read_stamp(folder, layout) == stamp:
        return False
    with writing_shapes(folder):
        existing = read_stamp(folder, layout)
        if existing == stamp:
            # Another process has made them meanwhile.
            return False
        if existing is not None:
            remove_abandoned(folder)
            _require_own_files(folder, layout)
        with temporary_folder(folder.parent) as temporary:
            new = temporary / "new"
            write(new)
            write_json(dict(stamp), new / layout.stamp)
            if existing is not None:
                logger.info("Replacing the %s in %s, made as %s", layout.content, folder, existing)
                for path in folder.iterdir():
                    if _is_kept(path.name, layout):
                        shutil.copy2(path, new)
                folder.replace(temporary / "old")
            try:
                new.replace(folder)
            except OSError:
                # Where there are no locks, another process may have done the same work.
                if read_stamp(folder, layout) != stamp:
                    raise
    return True


@contextmanager
def writing_shapes(folder: Path) -> Iterator[None]:
    """Waits for other processes that make shapes in the folder, and keeps them waiting until the block ends."""
    folder = folder.expanduser().resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.parent / f".{folder.name}.lock", f"writes {folder}"):
        yield


def read_stamp(folder: Path, layout: FolderLayout) -> dict[str, Any] | None:
    """What the images in a folder were made with.

    Returns:
        None if there is no such folder, or if it is empty.

    Raises:
        FileExistsError: there is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        stamp = read_json(folder / layout.stamp)
        if not isinstance(stamp, dict) or stamp.keys() != layout.keys:
            raise ValueError(f"{layout.stamp} describes something else")
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{folder} exists, but holds no {layout.content} made by pair_detr: choose another folder, or remove it."
        ) from error
    return stamp


def _require_own_files(folder: Path, layout: FolderLayout) -> None:
    foreign = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
    foreign = [name for name in foreign if not _is_own(name, layout)]
    if foreign:
        raise FileExistsError(
            f"The {layout.content} in {folder} are to be replaced, but the folder also holds what was not made by "
            f"pair_detr: {join_some(foreign)}. Move it elsewhere, or choose another folder."
        )


def _is_own(name: str, layout: FolderLayout) -> bool:
    own = name.rpartition("/")[2] in _NOBODYS or layout.own.fullmatch(name) is not None
    return own or _is_kept(name, layout)


def _is_kept(name: str, layout: FolderLayout) -> bool:
    return layout.kept is not None and layout.kept.fullmatch(name) is not None
