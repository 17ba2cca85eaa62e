"""Wording of messages: numbers with what they count."""

import pytest

from pair_detr.utils.messages import counted


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (0, ("object",), "0 objects"),
        (1, ("object",), "1 object"),
        (2, ("object",), "2 objects"),
        (1, ("box", "boxes"), "1 box"),
        (3, ("class has", "classes have"), "3 classes have"),
    ],
)
def test_numbers_agree_with_what_they_count(count: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(count, *words) == expected
