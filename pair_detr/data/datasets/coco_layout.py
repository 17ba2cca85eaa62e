"""Files in COCO's format below a folder, and where their images are."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pair_detr.data.datasets.layout_names import ALL, Splits, split_named_by
from pair_detr.utils.file_search import is_hidden
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

# Of the folders in a folder.
_DEPTH = 3
# Images of a file that are looked for.
_SAMPLE = 20


def find_coco(root: Path) -> Splits:
    """Entries for DATASETS.REGISTER by split; see :func:`pair_detr.data.datasets.layouts.find_splits`.

    Raises:
        FileNotFoundError: images are in none of the folders.
        ValueError: several files are of the same split, or of none; or several folders have images of the same names.
    """
    folders = [root, *_folders_below(root, _DEPTH)]
    files: dict[str, list[tuple[Path, list[str]]]] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.json")):
            names = None if is_hidden(file.name) else _image_names(file)
            if names is not None:
                split = split_named_by(file.stem) or split_named_by("/".join(file.relative_to(root).parts[:-1]))
                files.setdefault(split or ALL, []).append((file, names))
    unclear = [file for of_split in files.values() if len(of_split) > 1 for file, _ in of_split]
    if ALL in files and len(files) > 1:
        unclear += [file for file, _ in files[ALL]]
    if unclear:
        raise ValueError(
            f"{root} has several files in COCO's format of which it is not clear what they are for: "
            f"{join_some(list(dict.fromkeys(map(str, unclear))))}. Remove those that are not meant, have their names "
            "say train, val or test, or list them in DATASETS.REGISTER"
        )
    return {
        split: {"FORMAT": "coco", "JSON": str(file), "IMAGES": str(_find_images(file, names, folders, split))}
        for split in ("train", "val", "test", ALL)
        for file, names in files.get(split, ())
    }


def _folders_below(folder: Path, depth: int) -> Iterator[Path]:
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not is_hidden(path.name):
                yield path
                yield from _folders_below(path, depth - 1)


def _image_names(file: Path) -> list[str] | None:
    """Some of the images of a file with boxes in COCO's format; None for others, captions and segments among them."""
    try:
        content = read_json(file)
    except ValueError as error:
        logger.warning("Left out: %s", error)
        return None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        return None
    annotations: Any = content.get("annotations")
    if not isinstance(annotations, list) or any("segments_info" in entry for entry in annotations[:1]):
        return None
    images = content["images"][:: max(1, len(content["images"]) // _SAMPLE)][:_SAMPLE]
    names = [image.get("file_name") for image in images if isinstance(image, dict)]
    return [name for name in names if isinstance(name, str)]


def _find_images(file: Path, names: list[str], folders: list[Path], split: str) -> Path:
    found = {folder: sum((folder / name).is_file() for name in names) for folder in folders}
    most = max(found.values())
    if not most:
        raise FileNotFoundError(
            f"{file}: its images ({join_some(names) or 'it names none'}) are neither next to it nor in a folder near "
            "it. Put them there, or list the file in DATASETS.REGISTER with the folder of its IMAGES"
        )
    best = [folder for folder, count in found.items() if count == most]
    for is_right in (lambda folder: folder == file.parent, lambda folder: split_named_by(folder.name) == split):
        if len(chosen := [folder for folder in best if is_right(folder)]) == 1:
            return chosen[0]
    if len(best) > 1:
        raise ValueError(
            f"{file}: several folders have images of its names: {join_some(list(map(str, best)))}. List the file in "
            "DATASETS.REGISTER with the folder that is meant as IMAGES"
        )
    return best[0]
