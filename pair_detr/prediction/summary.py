"""What to say at the end of a detection in many images: how much was found, how fast, and what was just missed."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pair_detr.prediction.results import DetectedImage


@dataclass(frozen=True)
class Best:
    """The best detection of an image, whether it is shown or not."""

    score: float
    label: int


class Summary:
    """Counts and times.

    Attributes:
        num_images: frames included.
        num_detections: in all of them.
    """

    def __init__(self, class_names: Sequence[str], confidence: float) -> None:
        self.num_images = 0
        self.num_detections = 0
        self._class_names = list(class_names)
        self._confidence = confidence
        self._best: Best | None = None
        self._where = ""
        self._start = time.perf_counter()
        self._seconds_in_model = 0.0

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Takes the time of the block, which waits for the device, for that of the model."""
        start = time.perf_counter()
        yield
        self._seconds_in_model += time.perf_counter() - start

    def add(self, image: DetectedImage, best: Best | None) -> None:
        """Counts an image."""
        self.num_images += 1
        self.num_detections += len(image.instances)
        if best is not None and (self._best is None or best.score > self._best.score):
            frame = "" if image.frame is None else f", frame {image.frame}"
            self._best, self._where = best, f"{image.source}{frame}"

    def describe_speed(self) -> str:
        """ "3.2 images a second, 312 ms an image, 250 ms of them in the model"; of the time since it was made."""
        if not self.num_images:
            return "no images"
        seconds = (time.perf_counter() - self._start) / self.num_images
        in_model = self._seconds_in_model / self.num_images
        return (
            f"{1 / seconds:.1f} images a second, {1000 * seconds:.0f} ms an image, "
            f"{1000 * in_model:.0f} ms of them in the model"
        )

    def describe_miss(self) -> str | None:
        """What to do where nothing was found in any image; None where something was, or there are no scores at all."""
        if self.num_detections or self._best is None:
            return None
        score = self._best.score
        message = (
            f"No detection reaches {self._confidence:g}; the best score is {score:.2g} "
            f"({self._class_names[self._best.label]} in {self._where})"
        )
        return f"{message}: try --confidence {_round_down(score)}" if score > 0 else message


def _round_down(score: float) -> str:
    """The score to its first digit, never above it: 0.31 -> 0.3."""
    digits = -math.floor(math.log10(score))
    return f"{math.floor(score * 10**digits) / 10**digits:.{max(digits, 0)}f}"
