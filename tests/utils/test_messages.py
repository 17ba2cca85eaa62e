"""Messages: numbers with what they count, and records that are held until it is known where to write them."""

import logging

import pytest

from pair_detr.utils.messages import counted, held_records, replay


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


def test_what_is_held_is_said_once_and_later(caplog: pytest.LogCaptureFixture) -> None:
    package, inner = logging.getLogger("held_package"), logging.getLogger("held_package.inner")
    with held_records("held_package") as records:
        inner.info("early")
        inner.debug("too detailed")
    assert not caplog.messages
    with caplog.at_level(logging.INFO, "held_package"):
        replay(records)
        inner.info("late")
    assert caplog.messages == ["early", "late"]
    assert [record.name for record in caplog.records] == ["held_package.inner"] * 2
    assert (package.handlers, package.propagate) == ([], True)


def test_an_error_leaves_the_logger_as_it_was() -> None:
    logger = logging.getLogger("held_package")
    logger.setLevel(logging.ERROR)
    with pytest.raises(ValueError, match="wrong"), held_records("held_package"):
        raise ValueError("wrong")
    assert (logger.handlers, logger.propagate, logger.level) == ([], True, logging.ERROR)
