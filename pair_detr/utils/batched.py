"""Batches of prepared inputs, results in the order of the input; of any runtime, for nothing but Python is imported."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
Size = tuple[int, int]

_WINDOWS = 4


def predict_in_order(
    items: Iterable[Item],
    prepare: Callable[[Item], tuple[Prepared, Size]],
    predict: Callable[[list[Prepared]], Sequence[Result]],
    batch_size: int = 8,
    window: int | None = None,
    num_threads: int = 2,
    max_padding: float = 0.0,
    returned_errors: tuple[type[Exception], ...] = (),
) -> Iterator[Result | Exception]:
    """Prepares items in threads, predicts them in batches of like sizes, and gives out results one by one.

    A batch has the first item that waits for its result, and those after it, within the window, that fit its size. So
    the next result is always there after one batch, and no item waits for more like it.

    Args:
        items: any number; they are taken as results are, by the thread that takes these.
        prepare: called in threads: returns what ``predict`` takes of an item, and its height and width there.
        predict: called in the thread that takes the results: returns a result for each of a batch.
        batch_size: the most items of a batch.
        window: the most items that are taken, but whose results are not given out yet, in whatever state: so much may
            be in memory. None is four batches; with 1, an item is taken when the result before it has been used, as a
            live source needs.
        num_threads: that prepare.
        max_padding: the largest share of a batch, 0 to 1, that may be padding, as everything is padded to the largest
            height and width. With 0 only equal sizes, those of images of one aspect ratio, are in a batch.
        returned_errors: errors of ``prepare`` and ``predict`` to give out in the place of results. All others are
            raised in the place of the result, after all results before it.

    Raises:
        ValueError: an argument is out of its range.
    """
    window = _WINDOWS * batch_size if window is None else window
    for name, value in (("batch_size", batch_size), ("window", window), ("num_threads", num_threads)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")
    if not 0 <= max_padding < 1:
        raise ValueError(f"max_padding is {max_padding}; it must be from 0 to below 1.")

    def results() -> Iterator[Result | Exception]:
        source = _Source(items)
        waiting: deque[_Entry[Prepared, Result]] = deque()
        executor = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
        try:
            while True:
                for item in source.take(window - len(waiting)):
                    waiting.append(_Entry(executor.submit(prepare, item)))
                if not waiting:
                    break
                if not waiting[0].is_done:
                    _predict_batch(_choose(waiting, batch_size, max_padding), predict)
                first = waiting.popleft()
                if first.error is not None and not isinstance(first.error, returned_errors):
                    raise first.error
                yield first.result if first.error is None else first.error
            if source.error is not None:
                raise source.error
        finally:
            executor.shutdown(cancel_futures=True)

    return results()


class _Source(Generic[Item]):
    """The items; an error in making one ends them, and is kept for after the results of the others."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self.error: Exception | None = None

    def take(self, count: int) -> Iterator[Item]:
        """At most so many more."""
        for _ in range(count if self.error is None else 0):
            try:
                item = next(self._items)
            except StopIteration:
                return
            except Exception as error:
                self.error = error
                return
            yield item


@dataclass
class _Entry(Generic[Prepared, Result]):
    """An item on its way.

    Attributes:
        preparation: pending, or what it has become; None once it is not needed.
        result: of the prediction, if it is done.
        error: that there is in its place.
    """

    preparation: Future[tuple[Prepared, Size]] | None
    result: Any = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a result or an error."""
        return self.preparation is None

    def finish(self, result: Result | None = None, error: Exception | None = None) -> None:
        """Sets one of them, and lets go of what was prepared."""
        self.preparation, self.result, self.error = None, result, error

    def prepared_size(self) -> Size | None:
        """Height and width, once it is prepared, which is waited for; None if that failed, with which it is done."""
        try:
            return self.preparation.result()[1]
        except Exception as error:
            self.finish(error=error)
            return None


def _choose(
    waiting: Iterable[_Entry[Prepared, Result]], batch_size: int, max_padding: float
) -> list[_Entry[Prepared, Result]]:
    """The first entry that is not done, and others that fit it, in their order; none if preparing the first failed."""
    batch: list[_Entry[Prepared, Result]] = []
    height = width = area = 0
    for entry in waiting:
        if entry.is_done:
            continue
        size = entry.prepared_size()
        if size is None:
            if not batch:
                break
            continue
        grown_height, grown_width, grown_area = max(height, size[0]), max(width, size[1]), area + size[0] * size[1]
        padded_area = (len(batch) + 1) * grown_height * grown_width
        if padded_area - grown_area > max_padding * padded_area:
            continue
        batch.append(entry)
        height, width, area = grown_height, grown_width, grown_area
        if len(batch) == batch_size:
            break
    return batch


def _predict_batch(
    batch: Sequence[_Entry[Prepared, Result]], predict: Callable[[list[Prepared]], Sequence[Result]]
) -> None:
    if not batch:
        return
    try:
        results = predict([entry.preparation.result()[0] for entry in batch])
    except Exception as error:
        for entry in batch:
            entry.finish(error=error)
        return
    for entry, result in zip(batch, results, strict=True):
        entry.finish(result)
