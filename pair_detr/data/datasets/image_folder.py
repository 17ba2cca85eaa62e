"""Images sorted into one folder per class, as ImageNet's: image labels without any annotation file."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.images.reading import IMAGE_SUFFIXES, image_sizes
from pair_detr.utils.file_search import files_below, is_hidden, search_files, warn_of_hidden
from pair_detr.utils.messages import counted, join_some
from pair_detr.utils.text_files import read_text

logger = logging.getLogger(__name__)


def register_image_folder(
    name: str,
    root: str | Path,
    class_names: Mapping[str, str | Sequence[str]] | str | Path | None = None,
    **metadata: Any,
) -> None:
    """Registers a folder with one sub-folder per class; nothing is read until the dataset is used.

    Args:
        root: the folder. Images may lie in further folders below a class; other files are skipped with a warning, and
            so are hidden files and folders, see :func:`pair_detr.utils.file_search.search_files`.
        class_names: the class name of each sub-folder, or a list of a name and its synonyms; sub-folders that are not
            in it are left out. A file has one line per class: the sub-folder, a space, and names separated by commas,
            as ImageNet's ``LOC_synset_mapping.txt``. By default each sub-folder is named as its class.

    Raises:
        ValueError: ``class_names`` has what is not text.
    """
    root = Path(root).expanduser()
    _require_text(class_names)

    def load() -> list[dict[str, Any]]:
        classes = _classes_of(root, class_names)
        MetadataCatalog.get(name).set(
            thing_classes=[names[0] for names in classes.values()],
            thing_synonyms=[names[1:] for names in classes.values()],
        )
        return load_image_folder(name, root, list(classes))

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(image_root=str(root), annotation_type="image", **metadata)


def load_image_folder(name: str, root: Path, folders: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the images of some sub-folders, the classes in their order; of the images only the headers are read.

    Returns:
        the images in Detectron2's standard format: ``image_id`` is the path below ``root``, ``pos_category_ids`` the
        position of the folder in ``folders``, ``annotations`` is empty; width and height are those of the image turned
        as its EXIF data say.
    """
    files: list[tuple[int, Path]] = []
    others: list[str] = []
    empty: list[str] = []
    hidden: list[Path] = []
    for index, folder in enumerate(folders):
        found = search_files(root / folder, IMAGE_SUFFIXES)
        others.extend(path.relative_to(root).as_posix() for path in found.others)
        hidden.extend(found.hidden)
        if not found.files:
            empty.append(folder)
        files.extend((index, path) for path in found.files)
    _warn_of_the_rest(name, root, folders, hidden)
    sizes = image_sizes([path for _, path in files])
    unreadable = [
        path.relative_to(root).as_posix() for (_, path), size in zip(files, sizes, strict=True) if size is None
    ]
    for skipped, one, several in (
        (others, "file is not an image", "files are not images"),
        (unreadable, "image is unreadable", "images are unreadable"),
    ):
        if skipped:
            what = counted(len(skipped), one, several)
            logger.warning('Dataset "%s": in %s %s, and skipped: %s', name, root, what, join_some(skipped))
    if empty:
        classes = counted(len(empty), "class has", "classes have")
        logger.warning('Dataset "%s": %s no images: %s', name, classes, join_some(empty))
    return [
        {
            "file_name": str(path),
            "image_id": path.relative_to(root).as_posix(),
            "width": size[0],
            "height": size[1],
            "pos_category_ids": [index],
            "annotations": [],
        }
        for (index, path), size in zip(files, sizes, strict=True)
        if size is not None
    ]


def _warn_of_the_rest(name: str, root: Path, folders: Sequence[str], hidden: Sequence[Path]) -> None:
    """Names images that are in no class: those next to its folders, and hidden ones."""
    top = [entry for entry in root.iterdir() if is_hidden(entry.name) and entry.name not in folders]
    warn_of_hidden(root, [*hidden, *(path for entry in top for path in files_below(entry, IMAGE_SUFFIXES))])
    loose = search_files(root, IMAGE_SUFFIXES, recursive=False).files
    if loose and "." not in folders:
        logger.warning(
            'Dataset "%s": %s in no folder of a class, and left out: %s. Move each into one.',
            name,
            counted(len(loose), "image is", "images are"),
            join_some([path.name for path in loose]),
        )


def _classes_of(root: Path, class_names: Mapping[str, str | Sequence[str]] | str | Path | None) -> dict[str, list[str]]:
    """Names of the class, the synonyms last, by sub-folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; it should hold one folder per class")
    if class_names is None:
        classes = {entry.name: [entry.name] for entry in sorted(root.iterdir()) if _is_class(entry)}
        if not classes:
            raise FileNotFoundError(
                f"{root} has no folders; it should hold one folder per class, with its images in it"
            )
    elif isinstance(class_names, Mapping):
        classes = {key: [value] if isinstance(value, str) else list(value) for key, value in class_names.items()}
    else:
        classes = _read_class_names(Path(class_names).expanduser(), root)
    if unnamed := [key for key, names in classes.items() if not names or not all(map(str.strip, names))]:
        raise ValueError(f"the folders {join_some(unnamed)} of {root} have no class name; give each one")
    if twice := [name for name, count in Counter(names[0].strip() for names in classes.values()).items() if count > 1]:
        raise ValueError(
            f"several folders of {root} have the class name {join_some(twice)}; give each folder a name of its own, or "
            "move the images of one class into one folder"
        )
    if missing := [key for key in classes if not (root / key).is_dir()]:
        raise FileNotFoundError(
            f"{root} lacks the folders of {counted(len(missing), 'class', 'classes')}: {join_some(missing)}; add "
            "them, or leave these out of CLASSES"
        )
    return classes


def _require_text(class_names: Any) -> None:
    """Raises a ValueError for what YAML reads as other types, such as numbers and yes, and for other structures."""
    if class_names is None or isinstance(class_names, (str, Path)):
        return
    if not isinstance(class_names, Mapping) or not class_names:
        raise ValueError(
            f"CLASSES is {class_names!r}; it must be a file, or {{folder: class name}} for each folder that counts."
        )
    for folder, names in class_names.items():
        listed = list(names) if isinstance(names, (list, tuple)) else [names]
        if not all(isinstance(text, str) for text in (folder, *listed)):
            raise ValueError(
                f"CLASSES has {folder!r}: {names!r}; folders and names must be text: put them in quotes, as in "
                '{"0": zero, x: "no"}.'
            )


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not is_hidden(entry.name)


def _read_class_names(file: Path, root: Path) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, read_text(file).splitlines())):
        folder, names = _split_class_line(line, root)
        if folder in classes:
            raise ValueError(f"{file} has the folder {folder} twice; write all its names in one line")
        classes[folder] = [name.strip() for name in names.split(",")]
    if not classes:
        raise ValueError(f"{file} is empty; write one line a class: the folder, a space, names separated by commas")
    return classes


def _split_class_line(line: str, root: Path) -> tuple[str, str]:
    """The folder, which may have spaces in its name, and the names after it."""
    parts = [(line[: space.start()], line[space.end() :]) for space in re.finditer(r"\s+", line)] or [(line, "")]
    return next((part for part in reversed(parts) if (root / part[0]).is_dir()), parts[0])
