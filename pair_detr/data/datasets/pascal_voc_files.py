"""Which files of a folder in Pascal VOC's layout belong together, and which of them a list names."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pair_detr.images.reading import IMAGE_SUFFIXES, find_images
from pair_detr.utils.file_search import find_files, is_hidden
from pair_detr.utils.messages import counted, join_some
from pair_detr.utils.text_files import read_text
from pair_detr.utils.xml_files import read_xml

logger = logging.getLogger(__name__)

_IMAGES, _ANNOTATIONS = "JPEGImages", "Annotations"
# What the second column of a list of one class says of its image: the class is absent, difficult or present.
_PRESENCE = ("-1", "0", "1")
_XML = ".xml"


def _folder_of(root: Path, name: str) -> Path:
    """A folder of Pascal VOC's layout; the root itself where annotations lie next to their images."""
    is_flat = not any((root / other).is_dir() for other in (_IMAGES, _ANNOTATIONS))
    return root if is_flat and any(root.glob("*.xml")) else root / name


def image_root_of(root: Path) -> Path:
    """The folder of the images."""
    return _folder_of(root, _IMAGES)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotation; ``name`` is the path below the folder of images, less the ending."""

    name: str
    image: Path
    annotation: Path


def annotation_files(root: Path) -> list[Path]:
    """All annotations of a folder, sorted; a FileNotFoundError if there are none."""
    folder = _folder_of(root, _ANNOTATIONS)
    files = find_files(folder, {_XML}) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"no .xml files in {folder}; correct the dataset's folder")
    return files


def annotated_images(root: Path, split: str | None) -> list[AnnotatedImage]:
    """The images of a split in the order of its list, each once; those of all annotations if it is None.

    A line of a list is the name of an image, which may have spaces, an ending or folders: ``scan (1)``,
    ``scan (1).jpg``, ``JPEGImages/scan (1).jpg``. Only what is none may have a second column after the name: -1, 0 or
    1, as in VOC's lists of a single class, whose images are all taken; or the path of the annotation.

    Raises:
        FileNotFoundError: the list, images or annotations are missing.
        ValueError: it is not clear which of several images an annotation is of.
    """
    folder = _Folder(root)
    if split is None:
        list_file = _folder_of(root, _ANNOTATIONS)
        chosen: dict[str, set[Path]] = {name: set() for name in folder.annotations}
        if unused := sorted(folder.images.keys() - folder.annotations.keys()):
            logger.warning(
                "%s: %s no annotation, and left out: %s.",
                root,
                counted(len(unused), "image has", "images have"),
                join_some(unused),
            )
    else:
        list_file = root / "ImageSets" / "Main" / f"{split}.txt"
        chosen = _read_list(list_file, folder)
    for name, kind, files in ((_IMAGES, "images", folder.images), (_ANNOTATIONS, "annotations", folder.annotations)):
        if missing := [image for image in chosen if image not in files]:
            raise FileNotFoundError(
                f"{_folder_of(root, name)} lacks {len(missing)} of the {len(chosen)} {kind} for {list_file}: "
                f"{join_some(missing)}. Add them, or remove what names them"
            )
    return _pair(folder, chosen)


class _Folder:
    """The images and annotations of a folder by their names, which are the same for those that belong together."""

    def __init__(self, root: Path) -> None:
        self.image_root = image_root_of(root)
        images = find_images(self.image_root) if self.image_root.is_dir() else []
        self._by_path = {_relative(image, self.image_root): image for image in images}
        self.images = _by_name(images, self.image_root)
        self.annotations = _by_name(annotation_files(root), _folder_of(root, _ANNOTATIONS))

    def named_by(self, text: str) -> tuple[str, Path | None] | None:
        """The name that a text stands for, and the image if it has its ending; None if there is no such file."""
        path = PurePosixPath(_composed(text).replace("\\", "/"))
        folders = [index for index, part in enumerate(path.parts[:-1]) if part in (_IMAGES, _ANNOTATIONS)]
        below = PurePosixPath(*path.parts[folders[-1] + 1 :]) if folders else path
        for name in dict.fromkeys((_composed(text), str(path), str(below))):
            if self._is_name(name):
                return name, None
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a name is no path of this machine)
            if suffix.lower() in IMAGE_SUFFIXES | {_XML} and self._is_name(stem):
                return stem, self._by_path.get(name)
        return None

    def _is_name(self, name: str) -> bool:
        return name in self.images or name in self.annotations


def _read_list(file: Path, folder: _Folder) -> dict[str, set[Path]]:
    """The names in a list in their order, each with the images that it names by their ending."""
    if not file.is_file():
        splits = sorted(other.stem for other in file.parent.glob("*.txt") if not is_hidden(other.name))
        raise FileNotFoundError(
            f'there is no {file} that lists the images of split "{file.stem}" (splits: {splits}); '
            + ("name one of these" if splits else "correct the dataset's folder")
        )
    lines = list(filter(None, map(str.strip, read_text(file).splitlines())))
    chosen: dict[str, set[Path]] = {}
    counts: Counter[str] = Counter()
    for line in lines:
        name, image = _named_by_line(line, folder) or (line, None)
        counts[name] += 1
        chosen.setdefault(name, set()).update({image} if image else ())
    if repeated := [name for name, count in counts.items() if count > max(1, len(chosen[name]))]:
        logger.warning(
            "%s names %s more than once; each is used once: %s.",
            file,
            counted(len(repeated), "image"),
            join_some(repeated),
        )
    if not chosen:
        raise ValueError(f"{file} names no images; write one name per line")
    return chosen


def _named_by_line(line: str, folder: _Folder) -> tuple[str, Path | None] | None:
    if named := folder.named_by(line):
        return named
    first, *second = line.rsplit(maxsplit=1)
    named = folder.named_by(first)
    if second and named and second[0] not in _PRESENCE:
        annotation = folder.named_by(second[0])
        return named if annotation and annotation[0] == named[0] else None
    return named


def _pair(folder: _Folder, chosen: dict[str, set[Path]]) -> list[AnnotatedImage]:
    pairs, unclear = [], []
    for name, named in chosen.items():
        annotations = folder.annotations[name]
        images = sorted(named) or folder.images[name]
        if len(images) > 1 and len(annotations) == 1:
            # Annotation tools write there what was open.
            text = _composed(read_xml(annotations[0]).findtext("filename", "").strip().replace("\\", "/"))
            images = [image for image in images if _composed(image.name) == text.rpartition("/")[2]] or images
        if len(images) == len(annotations) == 1:
            (image,) = images
            own_name = image.relative_to(folder.image_root).as_posix().removesuffix(image.suffix)
            pairs.append(AnnotatedImage(own_name, image, annotations[0]))
        else:
            unclear.append(f"{' and '.join(map(str, images))} with {' and '.join(map(str, annotations))}")
    if unclear:
        raise ValueError(
            f"it is not clear what belongs together: {join_some(unclear)}. Remove or rename all but the image that was "
            "annotated, or name it in the annotation's <filename>"
        )
    return pairs


def _by_name(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    for file in files:
        names.setdefault(_relative(file, folder).removesuffix(file.suffix), []).append(file)
    return names


def _relative(file: Path, folder: Path) -> str:
    return _composed(file.relative_to(folder).as_posix())


def _composed(text: str) -> str:
    """Letters with accents as one character, where archives of macOS take them apart."""
    return unicodedata.normalize("NFC", text)
