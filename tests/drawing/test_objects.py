"""What is drawn, by its pixels."""

import sys
from itertools import combinations

import numpy as np
import pytest

from pair_detr.drawing.objects import _text_colors, class_colors, draw_caption, draw_objects
from pair_detr.drawing.supervision import require_supervision

BOX = np.array([[100.0, 60, 220, 160]])
RED = np.array([[255, 0, 0]], np.uint8)


def gray(value: int = 128, height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def luminance(color: np.ndarray) -> float:
    """WCAG 2.1, written out."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.asarray(color) / 255]
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("size", [(96, 96), (240, 320), (1500, 2000)])
def test_pictures_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    image = gray(128, *size)
    picture = draw_objects(image, np.array([[10.0, 40, 60, 90]]), ["cat 87%"], RED)
    assert picture.shape == image.shape
    assert (image == 128).all()


def test_a_box_is_outlined_and_its_inside_left_alone() -> None:
    picture = draw_objects(gray(), BOX, [""], RED)
    for y, x in ((60, 160), (160, 160), (110, 100), (110, 220)):
        assert picture[y, x].tolist() == [255, 0, 0], (y, x)
    assert (picture[70:150, 110:210] == 128).all()
    changed = np.argwhere((picture != 128).any(-1))
    assert np.abs(changed.min(0) - (60, 100)).max() <= 4
    assert np.abs(changed.max(0) - (160, 220)).max() <= 4


def test_boxes_are_seen_on_any_background() -> None:
    """A color that is the background's has a line of another brightness beside it."""
    for color in class_colors(20):
        image = np.broadcast_to(color, (240, 320, 3)).copy()
        picture = draw_objects(image, BOX, [""], color[None])
        assert max(contrast(pixel, color) for pixel in picture[55:66, 160]) > 4


def test_labels_are_legible_on_every_color() -> None:
    colors = class_colors(300)
    texts = _text_colors(colors)
    assert {tuple(text) for text in texts.tolist()} == {(0, 0, 0), (255, 255, 255)}
    for color, text in zip(colors, texts, strict=True):
        assert contrast(color, text) >= 4.5
        assert contrast(color, text) >= contrast(color, 255 - text)


def test_the_first_classes_can_be_told_apart() -> None:
    colors = class_colors(80).astype(float)
    assert len({tuple(color) for color in colors.tolist()}) == 80
    assert min(np.abs(a - b).max() for a, b in combinations(colors[:9], 2)) > 40
    # A longer list begins with the shorter.
    np.testing.assert_array_equal(class_colors(5), class_colors(300)[:5])


def test_labels_do_not_cover_each_other() -> None:
    colors = class_colors(3)
    boxes = np.array([[100.0, 100, 200, 200], [102.0, 101, 210, 190], [99.0, 103, 190, 210]])
    picture = draw_objects(gray(), boxes, ["first 90%", "second 80%", "third 70%"], colors)
    alone = [
        (draw_objects(gray(), box[None], [label], color[None]) == color).all(-1).sum()
        for box, label, color in zip(boxes, ["first 90%", "second 80%", "third 70%"], colors, strict=True)
    ]
    for color, area in zip(colors, alone, strict=True):
        assert (picture == color).all(-1).sum() > 0.6 * area


def test_labels_of_a_crowd_leave_most_of_the_image_to_be_seen() -> None:
    """All boxes are drawn, and the first labels: those of the best detections."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (300, 220), (200, 2))
    boxes = np.concatenate([corners, corners + 18], 1)
    colors = np.array([[255, 0, 0]] * 20 + [[0, 0, 255]] * 180, np.uint8)
    labeled = draw_objects(gray(), boxes, ["cell 87%"] * 200, colors)
    plain = draw_objects(gray(), boxes, [""] * 200, colors)
    changed = (labeled != plain).any(-1)
    assert 0.1 < changed.mean() < 0.3
    # A single label is drawn, whatever it covers.
    small = gray(128, 24, 24)
    assert (draw_objects(small, BOX / 10, ["long name"], RED) != draw_objects(small, BOX / 10, [""], RED)).any()


def test_masks_tint_what_they_cover() -> None:
    masks = np.zeros((1, 240, 320), bool)
    masks[0, 80:120, 120:200] = True
    picture = draw_objects(gray(), BOX, [""], RED, masks)
    np.testing.assert_allclose(picture[100, 150], 0.55 * 128 + 0.45 * RED[0], atol=1)
    assert (picture[140, 150] == 128).all()


def test_nothing_is_drawn_of_nothing() -> None:
    picture = draw_objects(gray(), np.zeros((0, 4)), [], np.zeros((0, 3), np.uint8))
    assert (picture == 128).all()


def test_any_text_is_written() -> None:
    for text in ("кошка 87%", "猫", "$x_1$", "a\nb", "", "x" * 300):
        assert draw_objects(gray(), BOX, [text], RED).shape == (240, 320, 3)
        assert draw_caption(gray(), text).shape == (240, 320, 3)
    assert (draw_caption(gray(), "cat")[:10, :10] != 128).any()


def test_without_supervision_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install supervision, or the extra pair_detr\[demo\]"):
        require_supervision()
