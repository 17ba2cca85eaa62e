"""Batched prediction in order, on items that are no images."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pair_detr.utils import batched
from pair_detr.utils.batched import Size, predict_in_order

A, B = (3, 4), (4, 3)


class Recorder:
    """Doubles numbers that are prepared as themselves, and takes note of the batches."""

    def __init__(self, sizes: dict[int, Size] | None = None) -> None:
        self.sizes = sizes or {}
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def prepare(self, item: int) -> tuple[int, Size]:
        self.threads.add(threading.current_thread().name)
        if item < 0:
            raise OSError(f"{item} cannot be read")
        return item, self.sizes.get(item, A)

    def predict(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        return [2 * item for item in batch]


def test_batches_have_one_size_and_results_the_order_of_the_input() -> None:
    recorder = Recorder({1: B, 4: B, 5: B})
    results = predict_in_order(range(7), recorder.prepare, recorder.predict, batch_size=3, window=6)
    assert list(results) == [0, 2, 4, 6, 8, 10, 12]
    assert recorder.batches == [[0, 2, 3], [1, 4, 5], [6]]
    assert all(name.startswith("prepare") for name in recorder.threads)


def test_the_order_does_not_depend_on_how_long_preparing_takes() -> None:
    recorder = Recorder()

    def prepare(item: int) -> tuple[int, Size]:
        time.sleep(0.01 * (item % 3 == 0))
        return recorder.prepare(item)

    results = predict_in_order(range(10), prepare, recorder.predict, batch_size=4, num_threads=3)
    assert list(results) == list(range(0, 20, 2))
    assert recorder.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_padding_is_bounded() -> None:
    """Of (3, 4) and (4, 3), padded to (4, 4), a quarter is padding."""
    for max_padding, expected in ((0.24, [[0, 2], [1, 3]]), (0.25, [[0, 1], [2, 3]])):
        recorder = Recorder({1: B, 3: B})
        list(predict_in_order(range(4), recorder.prepare, recorder.predict, 2, max_padding=max_padding))
        assert recorder.batches == expected


def test_no_more_than_the_window_is_ahead() -> None:
    taken = []

    def source() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    recorder = Recorder({i: (i + 1, 1) for i in range(100)})
    results = predict_in_order(source(), recorder.prepare, recorder.predict, batch_size=2, window=5)
    assert taken == []
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    assert len(taken) == 3 + 5 - 1
    results.close()
    assert not any(thread.name.startswith("prepare") for thread in threading.enumerate())
    taken.clear()
    live = predict_in_order(source(), recorder.prepare, recorder.predict, batch_size=1, window=1)
    for count, _ in zip(range(1, 4), live, strict=False):
        assert len(taken) == count


def test_errors_come_in_their_turn() -> None:
    recorder = Recorder()
    results = predict_in_order([1, 2, -3, 4], recorder.prepare, recorder.predict)
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(OSError, match="-3 cannot be read"):
        next(results)
    results = predict_in_order([-1, 2, -3, 4], recorder.prepare, recorder.predict, returned_errors=(OSError,))
    assert [str(x) for x in results] == ["-1 cannot be read", "4", "-3 cannot be read", "8"]

    def fail(batch: list[int]) -> list[int]:
        raise ValueError(f"cannot predict {batch}")

    results = predict_in_order([1, 2], recorder.prepare, fail, returned_errors=(ValueError,))
    assert [str(x) for x in results] == ["cannot predict [1, 2]"] * 2
    with pytest.raises(ValueError, match="cannot predict"):
        list(predict_in_order([1, 2], recorder.prepare, fail, returned_errors=(OSError,)))


def test_items_that_cannot_be_made_end_the_results_after_those_before() -> None:
    def source() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the disk is gone")

    recorder = Recorder()
    results = predict_in_order(source(), recorder.prepare, recorder.predict, returned_errors=(OSError,))
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_arguments_out_of_range() -> None:
    recorder = Recorder()
    for name, value in (("batch_size", 0), ("window", 0), ("num_threads", 0), ("max_padding", 1)):
        with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
            predict_in_order([], recorder.prepare, recorder.predict, **{name: value})
    assert list(predict_in_order([], recorder.prepare, recorder.predict)) == []


def test_it_needs_nothing_but_python() -> None:
    """``-I -S`` is a Python without installed packages."""
    code = f"import runpy; runpy.run_path({str(Path(batched.__file__))!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
