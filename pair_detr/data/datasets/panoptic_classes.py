"""The classes of panoptic data: which of them are things, and what Detectron2's metadata call them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from detectron2.data import Metadata

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

    @property
    def stuff_names(self) -> list[str]:
        """What ``stuff_classes`` are in the metadata: names by ``category_ids``, "things" where that is no stuff."""
        kinds = zip(self.category_ids, self.names, self.is_thing, strict=True)
        names = {category: name for category, name, thing in kinds if not thing}
        return [names.get(category, "things") for category in range(max(names, default=-1) + 1)]


def classes_from_metadata(metadata: Metadata) -> PanopticClasses:
    """As :func:`pair_detr.data.catalog.panoptic_classes`, from metadata that are complete.

    Raises:
        ValueError: there are no ``thing_classes``, or the metadata number the classes in none of Detectron2's two ways.
    """
    things = tuple(metadata.get("thing_classes") or ())
    if not things:
        raise ValueError(f'Dataset "{metadata.name}" has no thing_classes in its metadata: its classes are unknown.')
    own = tuple(range(len(things)))
    stuff_ids: Mapping[int, int] = metadata.get("stuff_dataset_id_to_contiguous_id") or {}
    if not stuff_ids:
        return PanopticClasses(things, (True,) * len(things), own, own)
    thing_values = set(metadata.thing_dataset_id_to_contiguous_id.values())
    stuff_values = set(stuff_ids.values())
    if thing_values.isdisjoint(stuff_values) and thing_values | stuff_values == set(own):
        return PanopticClasses(things, tuple(i in thing_values for i in own), own, own)
    if is_separated(metadata) and thing_values == set(own):
        stuff = tuple(metadata.stuff_classes)[1:]
        stuff_own = tuple(range(1, 1 + len(stuff)))
        if stuff_values == {0, *stuff_own}:
            return PanopticClasses(
                names=things + stuff,
                is_thing=(True,) * len(things) + (False,) * len(stuff),
                category_ids=own + stuff_own,
                channels=(0,) * len(things) + stuff_own,
            )
    raise ValueError(
        f'Dataset "{metadata.name}": its thing_dataset_id_to_contiguous_id and stuff_dataset_id_to_contiguous_id are '
        "in none of Detectron2's two forms. In the standard one they number thing_classes together, in the separated "
        "one stuff 0 is all things together. Correct the metadata."
    )


def category_ids_of(metadata: Metadata) -> tuple[Hashable, ...] | None:
    """Ids of the classes in the files of a dataset, in the order of a model's classes, from complete metadata.

    Returns:
        the ids, such as COCO's 1 to 90; None if the metadata do not say.

    Raises:
        ValueError: see :func:`classes_from_metadata`.
    """
    classes = classes_from_metadata(metadata)
    thing_ids, stuff_ids = (
        {index: category for category, index in (metadata.get(key) or {}).items()}
        for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
    )
    kinds = zip(classes.category_ids, classes.is_thing, strict=True)
    ids = tuple((thing_ids if is_thing else stuff_ids).get(index) for index, is_thing in kinds)
    return None if None in ids else ids


def is_separated(metadata: Metadata) -> bool:
    """Whether things and stuff have numberings of their own, with stuff 0 for all things together."""
    return (metadata.get("stuff_dataset_id_to_contiguous_id") or {}).get(_THINGS) == 0
