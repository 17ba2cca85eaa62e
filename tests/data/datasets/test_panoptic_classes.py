"""The numbering of panoptic classes, against Detectron2's own tables."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from pair_detr.data import panoptic_classes

pytestmark = pytest.mark.usefixtures("catalogs")


def test_standard_form() -> None:
    classes = panoptic_classes("coco_2017_train_panoptic")
    assert classes.names == tuple(category["name"] for category in COCO_CATEGORIES)
    assert classes.is_thing == tuple(category["isthing"] == 1 for category in COCO_CATEGORIES)
    assert classes.is_thing == (True,) * 80 + (False,) * 53
    assert classes.category_ids == classes.channels == tuple(range(133))
    assert classes.stuff_names == ["things"] * 80 + list(classes.names[80:])


def test_separated_form_puts_stuff_after_things() -> None:
    classes = panoptic_classes("coco_2017_val_panoptic_separated")
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    assert len(classes.names) == 133
    assert classes.is_thing == (True,) * 80 + (False,) * 53
    for index, category in enumerate(COCO_CATEGORIES):
        id_map = "thing" if category["isthing"] else "stuff"
        ids = metadata.get(f"{id_map}_dataset_id_to_contiguous_id")
        assert classes.category_ids[index] == ids[category["id"]]
        names = metadata.get(f"{id_map}_classes")
        assert classes.names[index] == names[ids[category["id"]]]
    assert classes.channels == (0,) * 80 + tuple(range(1, 54))
    assert classes.stuff_names == metadata.stuff_classes


def test_without_stuff_all_are_things() -> None:
    classes = panoptic_classes("coco_2017_val")
    assert classes.is_thing == (True,) * 80
    assert classes.category_ids == classes.channels == tuple(range(80))
    assert classes.stuff_names == []


@pytest.mark.parametrize(
    ("things", "stuff"),
    [
        ({1: 0, 2: 1}, {3: 1}),  # one number twice, and stuff 0 is not all things
        ({1: 0, 2: 1}, {3: 3}),  # a gap
    ],
)
def test_other_numberings_are_an_error(things: dict[int, int], stuff: dict[int, int]) -> None:
    MetadataCatalog.get("odd").set(
        thing_classes=["a", "b", "c"],
        stuff_classes=["a", "b"],
        thing_dataset_id_to_contiguous_id=things,
        stuff_dataset_id_to_contiguous_id=stuff,
    )
    with pytest.raises(ValueError, match=r'"odd": its thing_dataset_id_to_contiguous_id .* Correct the metadata'):
        panoptic_classes("odd")
