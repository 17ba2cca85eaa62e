"""Which of the checkpoints in a folder to resume from."""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pair_detr.tensor_files import TensorFileError, read_tensor_file

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
# Detectron2's name of it. It has the weights alone.
FINAL_CHECKPOINT = "model_final.pth"
# More than a file system takes.
_LONGEST_NAME = 4096
_NUMBERED = re.compile(r"model_(\d+)\.pth")


def find_candidates(save_dir: str | Path, *, to_train: bool = True) -> Iterator[Path]:
    """Checkpoints in a folder, the one to resume from first.

    It is the one that ``last_checkpoint`` names. The others follow from the highest iteration to the lowest: they count
    where it is damaged, and where ``last_checkpoint`` is missing because a run was killed before it wrote that file, or
    because files were copied without it. Files that hold weights alone are none of them, but for the final ones where
    the model is not trained on (``to_train`` is false).

    All of them exist, but may be damaged.
    """
    last = named_checkpoint(save_dir)
    if last is not None and last.is_file():
        yield last
    others = [path for path in checkpoint_files(save_dir) if path != last]
    others.sort(key=lambda path: (_iteration(path), not _NUMBERED.fullmatch(path.name), path.stat().st_mtime_ns))
    for path in reversed(others):
        content = _content(path)
        if content is None or "iteration" in content or (not to_train and path.name == FINAL_CHECKPOINT):
            yield path


def named_checkpoint(save_dir: str | Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names; None without that file, or if it names none of this folder."""
    file = Path(save_dir, LAST_CHECKPOINT)
    # A pipe would be waited for, and a device has no end.
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        content = stream.read(_LONGEST_NAME)
    try:
        name = content.decode().strip()
    except UnicodeDecodeError:
        name = ""
    # Others may have made the folder: what it names is what a training writes there, and nothing elsewhere.
    if name.endswith(".pth") and Path(name).name == name and name.isprintable():
        return Path(save_dir, name)
    logger.warning(
        "%s does not name a .pth file of that folder, but says %r: it is damaged, or not of this program. Looking for "
        "the newest checkpoint next to it.",
        file,
        content[:80],
    )
    return None


def checkpoint_files(save_dir: str | Path) -> list[Path]:
    """Files with names as Detectron2 gives checkpoints, by name; some may hold weights alone."""
    return sorted(path for path in Path(save_dir).glob("model_*.pth") if path.is_file())


def numbered_checkpoints(save_dir: str | Path) -> dict[int, Path]:
    """Those that are called after their iteration, by it."""
    matches = ((path, _NUMBERED.fullmatch(path.name)) for path in checkpoint_files(save_dir))
    return {int(match[1]): path for path, match in matches if match}


def _iteration(path: Path) -> int:
    """As the name of a checkpoint says, else its content; -1 if neither does."""
    if match := _NUMBERED.fullmatch(path.name):
        return int(match[1])
    iteration = (_content(path) or {}).get("iteration")
    return iteration if isinstance(iteration, int) else -1


def _content(path: Path) -> Mapping[str, Any] | None:
    """What a file holds, its tensors not loaded; None if it cannot be read."""
    try:
        content = read_tensor_file(path, mmap=True)
    except (TensorFileError, OSError):
        return None
    return content if isinstance(content, Mapping) else {}
