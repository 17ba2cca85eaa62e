"""The heat map of one query over the image."""

import numpy as np

from pair_detr.visualization.attention_overlay import draw_overlay


def test_the_brightest_place_is_that_of_the_most_attention() -> None:
    image = np.full((80, 120, 3), 90, np.uint8)
    weights = np.full((4, 6), 0.01)
    weights[1, 4] = 0.5
    before = image.copy()
    picture = draw_overlay(image, weights, (120, 80), (2, 60, 20, 78))
    brightness = picture.astype(int).sum(2)[:55]
    y, x = np.unravel_index(brightness.argmax(), brightness.shape)
    # The center of that cell.
    assert abs(x - 90) <= 10 and abs(y - 30) <= 10
    assert picture.shape == image.shape and np.array_equal(image, before)
    assert (picture[60, 2:21] == 255).all(), "the box is white"


def test_maps_that_cover_more_or_less_than_the_image_stay_in_their_place() -> None:
    """Padding is cut off; what no cell covers has no attention."""
    image = np.full((40, 60, 3), 90, np.uint8)
    weights = np.array([[0.0, 1.0]])
    wide = draw_overlay(image, weights, (120, 40), (0, 0, 5, 5)).astype(int).sum(2)
    assert wide[20, 59] > wide[20, 10]
    narrow = draw_overlay(image, weights, (40, 40), (0, 0, 5, 5)).astype(int).sum(2)
    assert narrow[20, 38] > narrow[20, 50] == narrow[20, 59]


def test_reference_points_are_crosses() -> None:
    image = np.full((100, 100, 3), 90, np.uint8)
    plain, marked = (draw_overlay(image, np.ones((2, 2)), (100, 100), (1, 1, 9, 9), at) for at in (None, (60, 50)))
    changed = (plain != marked).any(2)
    assert changed[50, 60] and changed[50, 58] and changed[48, 60] and not changed[40, 60]
    assert marked[50, 60].tolist() == [0, 255, 255]
