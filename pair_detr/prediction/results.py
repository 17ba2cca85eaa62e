"""What is detected in many images, on its way into files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from detectron2.structures import Instances

# Of a detection that no track has yet; in Instances.track_ids.
NO_TRACK = -1


@dataclass(frozen=True)
class DetectedImage:
    """The detections of an image, or of a frame of a video.

    Attributes:
        source: its file or address.
        name: of the files that are written for it, without a suffix.
        instances: on the CPU; of a video that is tracked also with ``track_ids``, (N,) int64, where
            :data:`NO_TRACK` is none.
        frame: of a video or webcam, counted from 0.
    """

    source: str
    name: str
    instances: Instances
    frame: int | None = None

    @property
    def track_ids(self) -> list[int | None]:
        """The track of each detection; None if it has none."""
        if not self.instances.has("track_ids"):
            return [None] * len(self.instances)
        return [None if track == NO_TRACK else track for track in self.instances.track_ids.tolist()]


class ResultsWriter(ABC):
    """Writes files of one format, in a ``with`` block: they are complete at its end.

    If it ends with an error, files that hold results of all images are left as they were.

    Attributes:
        output: what it writes, relative to the folder, for messages.
    """

    output: ClassVar[str]

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        """
        Args:
            folder: to write to.
            class_names: of the labels.
            category_ids: of the classes in the files of their data, for formats that have them; None if not known.
        """
        self._folder = folder
        self._class_names = list(class_names)

    def __enter__(self) -> "ResultsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()

    @classmethod
    def files(cls, folder: Path, images: Sequence[str], videos: Sequence[str]) -> list[Path]:
        """What may be written there, of images and videos of these names."""
        return [folder / cls.output]

    @abstractmethod
    def add(self, image: DetectedImage) -> None:
        """Takes note of the detections of an image."""

    @abstractmethod
    def _finish(self) -> None:
        """Completes the files."""
