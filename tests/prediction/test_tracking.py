"""Tracks of objects by ByteTrack."""

import sys

import pytest
import torch
from prediction_helpers import make_instances

from pair_detr.prediction.tracking import VideoTracker, require_trackers


def test_without_the_package_it_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ImportError, match=r"^Tracking needs the package trackers .*: pip install trackers"):
        require_trackers()


def test_objects_keep_their_numbers() -> None:
    """Two that pass each other, one of them with low scores for a while, and one that is always unsure."""
    pytest.importorskip("trackers")
    tracker = VideoTracker(0.5, fps=25)
    numbers: dict[int, set[int]] = {0: set(), 1: set()}
    for frame in range(12):
        boxes = [[10 + 8 * frame, 10, 40 + 8 * frame, 40], [110 - 8 * frame, 60, 140 - 8 * frame, 90], [5, 95, 9, 99]]
        unsure = frame in (5, 6)
        found = make_instances((100, 200), boxes, [0, 1, 2], [0.9, 0.2 if unsure else 0.8, 0.2])
        tracked = tracker.update(found)
        assert tracked.pred_classes.tolist() == ([0] if unsure else [0, 1])
        assert torch.equal(tracked.pred_boxes.tensor, found.pred_boxes.tensor[: len(tracked)])
        for label, track in zip(tracked.pred_classes.tolist(), tracked.track_ids.tolist(), strict=True):
            if frame >= 1:
                numbers[label].add(track)
    assert all(len(found) == 1 for found in numbers.values())
    assert numbers[0] != numbers[1]
    assert min(numbers[0] | numbers[1]) >= 0
    nothing = tracker.update(make_instances((100, 200), torch.zeros(0, 4).tolist(), []))
    assert nothing.track_ids.shape == (0,)
    assert VideoTracker(0.5, 25).update(make_instances((9, 9), [], [])).track_ids.tolist() == []
