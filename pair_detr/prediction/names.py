"""Names for what is written about each of many images and videos."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pair_detr.prediction.media import Source, is_video

_LONGEST = 100


def name_outputs(sources: Sequence[Source], folder: Path) -> list[Path]:
    """Where to draw each source: under its name, numbered where several have the same one.

    Raises:
        ValueError: a picture would replace an input.
    """
    outputs = [folder / name for name in _number(sources, picture_suffix)]
    inputs = {source.resolve() for source in sources if isinstance(source, Path)}
    if replaced := [output for output in outputs if output.resolve() in inputs]:
        raise ValueError(f"--output: {replaced[0]} is one of the inputs; choose a folder without them.")
    return outputs


def unique_names(sources: Sequence[Source]) -> list[str]:
    """The name of each source without its suffix, numbered where several have the same one."""
    return _number(sources, lambda source: "")


def picture_suffix(source: Source) -> str:
    """Of the picture or video that is drawn of a source."""
    if is_video(source):
        return ".mp4"
    return ".jpg" if _path(source).suffix.lower() in (".jpg", ".jpeg") else ".png"


def _number(sources: Sequence[Source], suffix: Callable[[Source], str]) -> list[str]:
    names: dict[str, None] = {}
    for source in sources:
        stem = _path(source).stem
        numbered = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        names[next(name for text in numbered if (name := f"{text}{suffix(source)}") not in names)] = None
    return list(names)


def _path(source: Source) -> Path | PurePosixPath:
    """A path with the name of a source; of an address the last part of its path, in characters of any file system."""
    if isinstance(source, Path):
        return source
    name = PurePosixPath(unquote(urlsplit(source).path)).name
    known = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
    return PurePosixPath(known[-_LONGEST:].lstrip(".") or "image")
