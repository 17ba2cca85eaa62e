"""What is said at the end."""

import pytest
from prediction_helpers import make_instances

from pair_detr.prediction.results import DetectedImage
from pair_detr.prediction.summary import Best, Summary


def add(summary: Summary, source: str, best: Best | None, count: int = 0, frame: int | None = None) -> None:
    found = make_instances((9, 9), [[0, 0, 5, 5]] * count, [0] * count)
    summary.add(DetectedImage(source, source, found, frame), best)


@pytest.mark.parametrize(
    ("score", "said", "suggested"),
    [
        (0.31, "0.31", "0.3"),
        (0.3, "0.3", "0.3"),
        (0.0499, "0.05", "0.04"),
        (0.9, "0.9", "0.9"),
        (0.00123, "0.0012", "0.001"),
    ],
)
def test_the_best_score_is_said_where_none_is_enough(score: float, said: str, suggested: str) -> None:
    summary = Summary(["cat", "dog"], 0.95)
    add(summary, "a.jpg", None)
    add(summary, "b.jpg", Best(score, 1))
    add(summary, "c.jpg", Best(score / 2, 0))
    assert summary.describe_miss() == (
        f"No detection reaches 0.95; the best score is {said} (dog in b.jpg): try --confidence {suggested}"
    )
    assert float(suggested) <= score


def test_nothing_is_said_of_it_where_something_is_found() -> None:
    summary = Summary(["cat"], 0.5)
    assert summary.describe_miss() is None
    assert summary.describe_speed() == "no images"
    add(summary, "clip.mp4", Best(0.0, 0), frame=3)
    assert summary.describe_miss().endswith("the best score is 0 (cat in clip.mp4, frame 3)")
    add(summary, "b.jpg", Best(0.9, 0), count=1)
    assert summary.describe_miss() is None
    assert (summary.num_images, summary.num_detections) == (2, 1)


def test_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images in 4 seconds, of which 1 is the model's."""
    times = iter([10.0, 11.0, 12.0, 14.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    summary = Summary(["cat"], 0.5)
    with summary.in_model():
        pass
    add(summary, "a.jpg", None)
    add(summary, "b.jpg", None)
    assert summary.describe_speed() == "0.5 images a second, 2000 ms an image, 500 ms of them in the model"
