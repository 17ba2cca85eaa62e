"""Names and synonyms of the classes that a text classifier is to know."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_CLASS_NAMES

from pair_detr.data import class_names_of
from pair_detr.data.catalog import datasets_root
from pair_detr.data.datasets.coco_categories import class_categories
from pair_detr.data.datasets.coco_entries import normalize_categories
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some
from pair_detr.utils.text_files import read_text

# Class name -> all words for it, those that are encoded; in the order of the classes.
ClassList = dict[str, tuple[str, ...]]

# Detectron2 has no names of these: they are in the datasets' annotations, below the folder of the datasets; the names
# of files are Detic's, then the original ones.
_ANNOTATIONS = {
    "objects365": tuple(
        f"objects365/annotations/zhiyuan_objv2_{part}.json"
        for part in ("val_fixname", "train_fixname_fixmiss", "val", "train")
    ),
    "openimages": tuple(
        f"oid/annotations/oid_challenge_2019_{part}.json"
        for part in ("val_expanded", "val_expanded_rare", "train_bbox")
    ),
}


def _lvis() -> ClassList:
    # As Detectron2's metadata do, the first synonym names the class.
    categories = sorted(LVIS_CATEGORIES, key=lambda category: category["id"])
    return class_list([category["synonyms"][0] for category in categories], [c["synonyms"] for c in categories])


def _from_annotations(name: str) -> ClassList:
    candidates = [datasets_root() / path for path in _ANNOTATIONS[name]]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f'The class names of "{name}" are in its annotations, and there is none of '
            f"{', '.join(map(str, candidates))}. Set the environment's DETECTRON2_DATASETS to the folder with the "
            f'dataset; or give a file in place of "{name}": any .json file with its categories, or a .txt file with '
            "one class per line."
        )
    categories = sorted(read_json(path)["categories"], key=lambda category: category["id"])
    names = [category["name"].strip() for category in categories]
    counts = Counter(names)
    # OpenImages has two classes of one name. They need names of their own, and share the text.
    unique = [name if counts[name] == 1 else f"{name} ({c['id']})" for name, c in zip(names, categories, strict=True)]
    return {own: (name,) for own, name in zip(unique, names, strict=True)}


_BUILTIN: dict[str, Callable[[], ClassList]] = {
    "coco": lambda: class_list(_get_builtin_metadata("coco")["thing_classes"]),
    "lvis": _lvis,
    "voc": lambda: class_list(VOC_CLASS_NAMES),
}


def class_list(names: Iterable[str], synonyms: Sequence[Iterable[str]] | None = None) -> ClassList:
    """Puts names and synonyms together.

    Raises:
        ValueError: there is no name, one is empty, or one occurs twice; case, underscores and hyphens do not matter.
    """
    classes: ClassList = {}
    seen: dict[str, str] = {}
    for index, name in enumerate(names):
        name = name.strip()
        if not name:
            raise ValueError(f"class {index} has an empty name: remove or name it")
        other = seen.setdefault(normalize_name(name), name)
        if len(seen) == len(classes):
            again = "" if other == name else f', as "{other}"'
            raise ValueError(f'class "{name}" occurs twice{again}: remove or rename one of them')
        words = [word.strip() for word in synonyms[index]] if synonyms else []
        classes[name] = tuple(dict.fromkeys([name, *filter(None, words)]))
    if not classes:
        raise ValueError("there are no class names")
    return classes


def read_class_list(source: str) -> ClassList:
    """Classes by the name of a list, from a file, or as they are written.

    Args:
        source: "coco", "lvis" (v1) or "voc"; "objects365" or "openimages", whose names are in their annotations, in the
            folder that the environment's DETECTRON2_DATASETS names; a dataset in Detectron2's catalog; a file; or
            names with commas between them, "cat,dog,traffic cone". A .txt file has one class per line; a .json file is
            a list of names, an annotation file with "categories" (ordered by their ids, with "synonyms" if they have
            any), or what is written next to text weights. In text, "|" separates synonyms: "sofa|couch". The first one
            names the class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no names can be taken from it.
    """
    if source in _BUILTIN:
        return _BUILTIN[source]()
    try:
        if source in _ANNOTATIONS:
            return _from_annotations(source)
        if source in DatasetCatalog:
            return class_list(class_names_of(source) or [])
        path = Path(source).expanduser()
        if path.suffix.lower() in (".txt", ".json"):
            if not path.is_file():
                raise FileNotFoundError(f"{source} does not exist: give a file of class names that does.")
            if path.suffix.lower() == ".json":
                return _from_json(read_json(path))
            return _from_lines(read_text(path).splitlines())
        if "," not in source and path.is_file():
            raise ValueError("it is a file, but its name does not end with .txt (a class per line) or .json: rename it")
        return _from_lines(source.split(","), keep_empty=True)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'"{source}" cannot be read as a list of classes ({error}).') from error


def _from_lines(lines: Iterable[str], keep_empty: bool = False) -> ClassList:
    words = [line.split("|") for line in lines if keep_empty or line.strip()]
    return class_list([w[0] for w in words], words)


def _from_json(content: Any) -> ClassList:
    if isinstance(content, list):
        return class_list(content)
    if "categories" in content:
        if faults := normalize_categories(content["categories"]):
            raise ValueError(join_some(faults))
        categories = class_categories(content)
        return class_list([c["name"] for c in categories], [c.get("synonyms") or () for c in categories])
    if "names" in content:
        return class_list(content["names"], content.get("synonyms"))
    raise ValueError('it is neither a list of names nor has it "categories" or "names"')
