"""Which of the checkpoints in a folder to resume from."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

LAST_CHECKPOINT = "last_checkpoint"
_NUMBERED = re.compile(r"model_(\d+)\.pth")


def find_candidates(save_dir: str | Path) -> Iterator[Path]:
    """Checkpoints in a folder, the one to resume from first.

    It is the one that ``last_checkpoint`` names. The others follow from the highest iteration to the lowest: they count
    where it is damaged, and where ``last_checkpoint`` is missing because a run was killed before it wrote that file, or
    because files were copied without it. Files that hold weights alone are none of them.

    Yields:
        Files that exist, but may be damaged.
    """
    last = named_checkpoint(save_dir)
    if last is not None and last.is_file():
        yield last
    others = [path for path in checkpoint_files(save_dir) if path != last]
    others.sort(key=lambda path: (_iteration(path), not _NUMBERED.fullmatch(path.name), path.stat().st_mtime_ns))
    for path in reversed(others):
        content = _content(path)
        if content is None or "iteration" in content:
            yield path


def named_checkpoint(save_dir: str | Path) -> Path | None:
    """The path that ``last_checkpoint`` holds; None without that file."""
    file = Path(save_dir, LAST_CHECKPOINT)
    return Path(save_dir, file.read_text().strip()) if file.exists() else None


def checkpoint_files(save_dir: str | Path) -> list[Path]:
    """Files with names as Detectron2 gives checkpoints, by name; some may hold weights alone."""
    return sorted(path for path in Path(save_dir).glob("model_*.pth") if path.is_file())


def _iteration(path: Path) -> int:
    """As the name of a checkpoint says, else its content; -1 if neither does."""
    if match := _NUMBERED.fullmatch(path.name):
        return int(match[1])
    iteration = (_content(path) or {}).get("iteration")
    return iteration if isinstance(iteration, int) else -1


def _content(path: Path) -> Mapping[str, Any] | None:
    """What a file holds, its tensors not loaded; None if it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # damaged bytes make pickle raise anything
        return None
    return content if isinstance(content, Mapping) else {}
