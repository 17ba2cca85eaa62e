"""Names for what is written about each of many images and videos."""

import itertools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pair_detr.prediction.media import Source, is_video

_LONGEST = 100


def name_outputs(sources: Sequence[Source], folder: Path) -> list[Path]:
    """Where to draw each source: under the name that :func:`unique_names` gives it, as what else is written about it.

    Raises:
        ValueError: a picture would replace an input.
    """
    named = zip(unique_names(sources), sources, strict=True)
    outputs = [folder / f"{name}{picture_suffix(source)}" for name, source in named]
    inputs = {source.resolve() for source in sources if isinstance(source, Path)}
    if replaced := [output for output in outputs if output.resolve() in inputs]:
        raise ValueError(f"--output: {replaced[0]} is one of the inputs; choose a folder without them.")
    return outputs


def unique_names(sources: Sequence[Source]) -> list[str]:
    """The name of each source without its suffix, numbered where several have the same one."""
    names: dict[str, None] = {}
    for source in sources:
        stem = _path(source).stem
        numbered = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        names[next(name for name in numbered if name not in names)] = None
    return list(names)


def picture_suffix(source: Source) -> str:
    """Of the picture or video that is drawn of a source."""
    if is_video(source):
        return ".mp4"
    return ".jpg" if _path(source).suffix.lower() in (".jpg", ".jpeg") else ".png"


def _path(source: Source) -> Path | PurePosixPath:
    """A path with the name of a source; of an address the last part of its path, in characters of any file system."""
    if isinstance(source, Path):
        return source
    name = PurePosixPath(unquote(urlsplit(source).path)).name
    known = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
    return PurePosixPath(known[-_LONGEST:].lstrip(".") or "image")
