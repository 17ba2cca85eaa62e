"""Tracks of objects through the frames of a video, by ByteTrack (arXiv 2110.06864) of the package trackers."""

from types import ModuleType

import numpy as np
import torch
from detectron2.structures import Instances

from pair_detr.drawing.supervision import require_supervision
from pair_detr.prediction.results import NO_TRACK
from pair_detr.prediction.supervision_results import to_supervision

# Scores from which a detection can go on a track that would be lost otherwise.
LOWEST_SCORE = 0.1


def require_trackers() -> ModuleType:
    """The module ``trackers``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    require_supervision()
    try:
        import trackers
    except ImportError as error:
        raise ImportError(
            f"Tracking needs the package trackers ({error}): pip install trackers, or the extra pair_detr[track].",
            name="trackers",
        ) from error
    return trackers


class VideoTracker:
    """Gives the detections of a video's frames, one after the other, the numbers of their tracks.

    A track starts with two frames in which an object is detected with the confidence; detections below it only go on
    with one.
    """

    def __init__(self, confidence: float, fps: float) -> None:
        """
        Args:
            confidence: least score of detections to return.
            fps: frames a second.
        """
        self._confidence = confidence
        self._tracker = require_trackers().ByteTrackTracker(
            frame_rate=fps, track_activation_threshold=confidence, high_conf_det_threshold=confidence
        )

    def update(self, instances: Instances) -> Instances:
        """Tracks the detections of the next frame.

        Args:
            instances: on the CPU, also with scores below the confidence.

        Returns:
            Those of at least the confidence, in their order, with ``track_ids``, (N,) int64, where
            :data:`pair_detr.prediction.results.NO_TRACK` is that of a detection without one.
        """
        detections = to_supervision(instances)
        # Neither is needed to track, and the tracker changes the order.
        detections.mask, detections.data = None, {"row": np.arange(len(instances))}
        tracked = self._tracker.update(detections)
        found = instances.scores >= self._confidence
        tracks = torch.full((len(instances),), NO_TRACK)
        if len(tracked):
            tracks[torch.from_numpy(tracked.data["row"])] = torch.from_numpy(np.asarray(tracked.tracker_id, np.int64))
        instances = instances[found]
        instances.track_ids = tracks[found]
        return instances
