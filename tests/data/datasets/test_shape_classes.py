"""Classes composed of words: which there are, which are novel, and that pictures of them can be told apart."""

from collections import Counter

import numpy as np
import pytest

from pair_detr.data.datasets.shape_classes import HOLDOUTS, WORDS, Holdout, ShapeClass
from pair_detr.data.datasets.shape_paint import draw_classes

# By hand, from the names alone.
NOVEL = {
    "shape": {"red circle", "striped red circle", "green circle", "striped green circle"},
    "color": {"blue rectangle", "striped blue rectangle", "blue triangle", "striped blue triangle"},
    "composition": {"blue circle", "striped blue circle", "red triangle", "striped red triangle"},
}


@pytest.mark.parametrize(("name", "count"), [("shape", 12), ("color", 12), ("composition", 18)])
def test_grids(name: str, count: int) -> None:
    holdout = HOLDOUTS[name]
    assert len(set(holdout.class_names)) == len(holdout.classes) == count
    assert {own.name for own in holdout.novel_classes} == NOVEL[name]
    assert {*holdout.base_classes, *holdout.novel_classes} == set(holdout.classes)
    assert len(holdout.base_classes) == count - 4
    # Each word of a novel class but the one that is held out is known.
    unknown = {word for own in holdout.novel_classes for word in own.words}
    unknown -= {word for own in holdout.base_classes for word in own.words}
    assert unknown == {"shape": {"circle"}, "color": {"blue"}, "composition": set()}[name]


def test_names() -> None:
    assert ShapeClass("circle", "red", "plain").name == "red circle"
    assert ShapeClass("circle", "red", "striped").words == ("striped", "red", "circle")
    assert {word for holdout in HOLDOUTS.values() for own in holdout.classes for word in own.words} == set(WORDS)


def test_a_holdout_of_one_s_own() -> None:
    holdout = Holdout("texture", ("circle",), ("red", "blue"), (frozenset({"striped"}),))
    assert holdout.class_names == ("red circle", "striped red circle", "blue circle", "striped blue circle")
    assert [own.name for own in holdout.novel_classes] == ["striped red circle", "striped blue circle"]


def test_pictures_are_of_their_classes() -> None:
    """By the pixels alone: the strongest channel, the number of colors, the share of the box that is filled."""
    classes = HOLDOUTS["composition"].classes
    counts: Counter[int] = Counter()
    colors = set()
    for seed in range(150):
        image, shapes = draw_classes(np.random.default_rng(seed), classes, max_shapes=1)
        ((class_id, mask),) = shapes
        counts[class_id] += 1
        own, pixels = classes[class_id], image[mask]
        assert (pixels.argmax(1) == ("red", "green", "blue").index(own.color)).all()
        bands, sizes = np.unique(pixels, axis=0, return_counts=True)
        colors.add(tuple(bands[0]))
        if own.texture == "striped":
            dark, light = bands[np.argsort(bands.sum(1))].astype(int)
            assert light.sum() > 1.5 * dark.sum() and sizes.min() > 0.2 * mask.sum()
        else:
            assert len(bands) == 1
        rows, columns = np.nonzero(mask)
        filled = mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
        assert {"rectangle": filled == 1, "circle": 0.7 < filled < 0.9, "triangle": filled < 0.65}[own.shape]
    assert set(counts) == set(range(18))
    # A color is not the same each time.
    assert len(colors) > 140
