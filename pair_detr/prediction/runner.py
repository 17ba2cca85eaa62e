"""Detects in images, videos and webcams, and writes pictures and results of them."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from pair_detr.drawing.detections import draw_detections
from pair_detr.images.inputs import as_format
from pair_detr.prediction.media import Frames, Source, VideoFile, is_video, open_source
from pair_detr.prediction.results import DetectedImage, ResultsWriter
from pair_detr.prediction.summary import Best, Summary
from pair_detr.prediction.tiles import BatchPredictor
from pair_detr.prediction.tracking import LOWEST_SCORE, VideoTracker
from pair_detr.utils.batched import predict_in_order
from pair_detr.utils.outputs import writing

logger = logging.getLogger(__name__)

# A container's number of frames is an estimate.
_MISSING_FRAMES = 0.05
# What ends an input, but not the run.
_PROBLEMS = (OSError, ValueError)
_Image = Image.Image | np.ndarray


@dataclass(frozen=True)
class Job:
    """An input, or webcam by its number.

    Attributes:
        source: where the images are.
        name: of the files of results about it, without a suffix.
        picture: the picture or video to draw; None for none.
    """

    source: Source | int
    name: str
    picture: Path | None = None


@dataclass
class _Detected:
    """An image, the model's outputs of it with the instances to keep, and the best of all instances."""

    image: _Image
    outputs: dict[str, Any]
    best: Best | None


class Runner:
    """Detects in one batch of images after the other; keeps what is above the confidence.

    Attributes:
        summary: of all images until now.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        confidence: float,
        writers: Sequence[ResultsWriter] = (),
        batch_size: int = 4,
        tracks: bool = False,
    ) -> None:
        """
        Args:
            predictor: detects.
            confidence: least score of a detection.
            writers: of the results.
            batch_size: images of one aspect ratio, or frames, to detect in at once.
            tracks: number the objects of videos, see :class:`pair_detr.prediction.tracking.VideoTracker`.
        """
        self.summary = Summary(predictor.metadata.thing_classes, confidence)
        self._predictor = predictor
        self._confidence = confidence
        self._writers = writers
        self._batch_size = batch_size
        self._tracks = tracks

    def run(self, jobs: Sequence[Job], limit: int | None = None) -> Iterator[str | None]:
        """Does jobs in their order, and yields for each what was wrong with it; None if nothing was.

        ``limit`` is the most frames of a video.
        """
        for are_videos, group in itertools.groupby(jobs, lambda job: is_video(job.source)):
            if not are_videos:
                yield from self.images(list(group))
                continue
            for job in group:
                try:
                    self.video(job, limit)
                except _PROBLEMS as error:
                    yield str(error)
                else:
                    yield None

    def images(self, jobs: Sequence[Job]) -> Iterator[str | None]:
        """Detects in images, and yields for each what was wrong with it; None if nothing was."""
        detected = self._detect([job.source for job in jobs], open_source, self._confidence)
        for job, found in zip(jobs, detected, strict=True):
            try:
                if isinstance(found, Exception):
                    raise found
                self._keep(job, found)
                if job.picture is not None:
                    picture = Image.fromarray(self._draw(found))
                    with writing(job.picture) as temporary:
                        picture.save(temporary, quality=92)
            except _PROBLEMS as error:
                yield str(error)
            else:
                yield None

    def video(self, job: Job, limit: int | None = None) -> None:
        """Detects in a video or webcam, frame by frame.

        Raises:
            OSError: it cannot be read, or not to its end.
        """
        frames = Frames(job.source)
        is_live = isinstance(job.source, int)
        total = frames.expected if limit is None else min(limit, frames.expected or limit)
        with nullcontext() if job.picture is None else writing(job.picture) as temporary:
            video = None if temporary is None else VideoFile(temporary, frames.fps)
            count = self._frames(job, frames, total, limit, video)
            if count == 0:
                raise OSError(f"{_name(job)} has no frames: replace it, or remove it from the inputs.")
        if total is not None and not is_live and count < (1 - _MISSING_FRAMES) * total:
            raise OSError(f"{_name(job)} ends after {count} of {total} frames, which were used: the file is damaged.")

    def _frames(self, job: Job, frames: Frames, total: int | None, limit: int | None, video: VideoFile | None) -> int:
        """Detects in the frames of a job, draws them, and returns how many there were."""
        is_live = isinstance(job.source, int)
        tracker = VideoTracker(self._confidence, frames.fps) if self._tracks else None
        least = min(LOWEST_SCORE, self._confidence) if tracker else self._confidence
        detected = self._detect(itertools.islice(frames, limit), lambda frame: frame, least, is_live)
        count = 0
        try:
            for found in tqdm(detected, _name(job), total, unit="frame", leave=False, disable=None):
                if isinstance(found, Exception):
                    raise found
                if tracker:
                    found.outputs["instances"] = tracker.update(found.outputs["instances"])
                self._keep(job, found, count)
                if video is not None:
                    video.write(self._draw(found))
                count += 1
        except KeyboardInterrupt:
            if not is_live:
                raise
            logger.info("Stopped after %d frames.", count)
        finally:
            if video is not None:
                video.close()
        return count

    def _detect(
        self, sources: Iterable[Any], read: Callable[[Any], _Image], least: float, is_live: bool = False
    ) -> Iterator[_Detected | Exception]:
        """Detects in images.

        Args:
            sources: of the images.
            read: called in threads: an image, or a BGR frame, of a source.
            least: score of a detection to keep.
            is_live: take a source only when the one before it is done with.

        Yields:
            Of each source what is detected there, with instances on the CPU; or what was wrong with it.
        """

        def prepare(source: Any) -> tuple[tuple[_Image, Any], tuple[int, int]]:
            image = read(source)
            prepared, size = self._predictor.prepare_sized(image)
            return (image, prepared), size

        def predict(batch: list[tuple[_Image, Any]]) -> list[_Detected]:
            images, prepared = zip(*batch, strict=True)
            with self.summary.in_model():
                results = self._predictor.predict(list(prepared))
                for outputs in results:
                    outputs["instances"] = outputs["instances"].to("cpu")
            detected = []
            for image, outputs in zip(images, results, strict=True):
                instances = outputs["instances"]
                scores = instances.scores
                best = int(scores.argmax()) if len(scores) else None
                # Masks of all queries, of many images, would fill the memory.
                outputs["instances"] = instances[scores >= least]
                found = None if best is None else Best(float(scores[best]), int(instances.pred_classes[best]))
                detected.append(_Detected(image, outputs, found))
            return detected

        size = 1 if is_live else self._batch_size
        # As many images at their full size are in memory.
        window = 1 if is_live else 2 * size
        return predict_in_order(sources, prepare, predict, size, window, returned_errors=_PROBLEMS)

    def _keep(self, job: Job, found: _Detected, frame: int | None = None) -> None:
        image = DetectedImage(_name(job), job.name, found.outputs["instances"], frame)
        self.summary.add(image, found.best)
        for writer in self._writers:
            writer.add(image)

    def _draw(self, found: _Detected) -> np.ndarray:
        return draw_detections(as_format(found.image, "BGR"), found.outputs, self._predictor.metadata)


def _name(job: Job) -> str:
    return f"webcam {job.source}" if isinstance(job.source, int) else str(job.source)
