"""The folder of the generated shapes: one process at a time writes there, and replaces what was made there alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pair_detr.utils.file_lock import one_at_a_time
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some
from pair_detr.utils.outputs import is_made_here

STAMP = "shapes.json"
TEXTS = "texts.npy"

# What make_shapes, make_panoptic_shapes and make_open_shapes write.
_OWN = re.compile(
    rf"{re.escape(STAMP)}|texts\.(npy|json)|(panoptic_)?(train|val)(/\d{{6}}\.png)?"
    r"|annotations(/(shapes|panoptic_shapes|open_shapes)_\w+\.json)?"
)
# What file managers leave.
_NOBODYS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_STAMP_KEYS = {"version", "seed", "train", "val"}


@contextmanager
def writing_shapes(folder: Path) -> Iterator[None]:
    """Waits for other processes that make shapes in the folder, and keeps them waiting until the block ends."""
    folder = folder.expanduser().resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.parent / f".{folder.name}.lock", f"writes {folder}"):
        yield


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """What the shapes in a folder were made with: "version", "seed", "train" and "val", the numbers of images.

    Returns:
        None if there is no such folder, or if it is empty.

    Raises:
        FileExistsError: there is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        stamp = read_json(folder / STAMP)
        if not isinstance(stamp, dict) or stamp.keys() != _STAMP_KEYS:
            raise ValueError(f"{STAMP} describes something else")
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{folder} exists, but holds no shapes made by pair_detr: choose another folder, or remove it."
        ) from error
    return stamp


def require_own_files(folder: Path) -> None:
    """Raises a FileExistsError if a folder of shapes that is to be replaced holds anything else."""
    foreign = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not _is_own(path, folder)]
    if foreign:
        raise FileExistsError(
            f"The shapes in {folder} are to be replaced, but the folder also holds what was not made by pair_detr: "
            f"{join_some(foreign)}. Move it elsewhere, or choose another folder."
        )


def _is_own(path: Path, folder: Path) -> bool:
    name = path.relative_to(folder).as_posix()
    if path.name in _NOBODYS:
        return True
    return _OWN.fullmatch(name) is not None and (name != TEXTS or is_made_here(path))
