"""The classes of panoptic data: which of them are things, and what Detectron2's metadata call them."""

from collections.abc import Mapping
from dataclasses import dataclass

from detectron2.data import MetadataCatalog

from pair_detr.data.catalog import load_dataset

# Dataset id that the separated form gives to all things together, in its semantic annotations.
_THINGS = 0


@dataclass(frozen=True)
class PanopticClasses:
    """The C classes of a model, things first.

    Args:
        names: of the classes.
        is_thing: whether a class is a thing.
        category_ids: what ``segments_info`` calls a class: its contiguous id among things or among stuff, as the
            metadata have it.
        channels: the channel of ``sem_seg`` that a class belongs to. In Detectron2's separated form all things share
            channel 0, else each class has its own.
    """

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    category_ids: tuple[int, ...]
    channels: tuple[int, ...]


def panoptic_classes(name: str) -> PanopticClasses:
    """Classes of a registered data set as a panoptic model numbers them.

    They are those of the metadata in Detectron2's standard form, where things and stuff share one numbering; in the
    separated form, where each has its own, stuff follows the things. Without stuff, all classes are things. The
    annotations are loaded only where the metadata are filled by loading.

    Raises:
        KeyError, OSError, ValueError: as :func:`pair_detr.data.catalog.load_dataset`; or the metadata number the
            classes in none of the two ways.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        load_dataset(name)
    things = list(metadata.get("thing_classes") or ())
    stuff_ids: Mapping[int, int] = metadata.get("stuff_dataset_id_to_contiguous_id") or {}
    if not things:
        raise ValueError(f'Data set "{name}" has no thing_classes in its metadata, so that its classes are unknown.')
    if not stuff_ids:
        own = tuple(range(len(things)))
        return PanopticClasses(tuple(things), (True,) * len(things), own, own)
    thing_values = set(metadata.thing_dataset_id_to_contiguous_id.values())
    stuff_values = set(stuff_ids.values())
    if thing_values.isdisjoint(stuff_values) and thing_values | stuff_values == set(range(len(things))):
        own = tuple(range(len(things)))
        return PanopticClasses(tuple(things), tuple(i in thing_values for i in own), own, own)
    names = list(metadata.get("stuff_classes") or ())
    if stuff_ids.get(_THINGS) != 0 or thing_values != set(range(len(things))) or stuff_values != set(range(len(names))):
        raise ValueError(
            f'Data set "{name}": thing_dataset_id_to_contiguous_id and stuff_dataset_id_to_contiguous_id are in none of '
            "Detectron2's two forms. In the standard one they number thing_classes together, in the separated one stuff "
            "0 is all things together. Correct the metadata."
        )
    stuff = range(1, len(names))
    return PanopticClasses(
        names=(*things, *names[1:]),
        is_thing=(True,) * len(things) + (False,) * len(stuff),
        category_ids=(*range(len(things)), *stuff),
        channels=(0,) * len(things) + tuple(stuff),
    )
