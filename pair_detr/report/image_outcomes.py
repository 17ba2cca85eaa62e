"""Which images a detector does best and worst on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pair_detr.report.outcomes import Outcomes, ids_by_image


@dataclass(frozen=True)
class ImageOutcome:
    """What detections with at least a score make of an image.

    Attributes:
        image: its id.
        found: ids of the objects that are found.
        missed: ids of the others.
        correct: ids of the correct detections, best first.
        wrong: ids of the others, best first.
    """

    image: int
    found: tuple[int, ...]
    missed: tuple[int, ...]
    correct: tuple[int, ...]
    wrong: tuple[int, ...]

    @property
    def errors(self) -> int:
        """Objects that are missed, and detections that are wrong."""
        return len(self.missed) + len(self.wrong)

    @property
    def f1(self) -> float:
        """1 without an error, 0 without a correct detection; 1 where there is nothing, and nothing detected."""
        total = 2 * len(self.correct) + self.errors
        return 2 * len(self.correct) / total if total else 1.0


def image_outcomes(outcomes: Outcomes, images: Iterable[int], threshold: float) -> list[ImageOutcome]:
    """The outcome of each image at a threshold."""
    counts = outcomes.scores >= threshold
    order = np.argsort(-outcomes.scores, kind="stable")
    order = order[counts[order]]
    is_found = outcomes.object_scores >= threshold
    groups = [
        ids_by_image(outcomes.object_ids[is_found], outcomes.object_images[is_found]),
        ids_by_image(outcomes.object_ids[~is_found], outcomes.object_images[~is_found]),
        *(
            ids_by_image(outcomes.ids[chosen], outcomes.images[chosen])
            for chosen in (order[outcomes.correct[order]], order[~outcomes.correct[order]])
        ),
    ]
    return [ImageOutcome(image, *(tuple(group.get(image, ())) for group in groups)) for image in images]


def worst_and_best(outcomes: Iterable[ImageOutcome], count: int) -> tuple[list[ImageOutcome], list[ImageOutcome]]:
    """The images with the lowest F1, and those with the highest; at most ``count`` each, and none twice.

    Of images with the same F1, those with more errors are worse, and those with more correct detections are better.
    Images without objects and detections are neither.
    """
    shown = [outcome for outcome in outcomes if outcome.errors or outcome.correct]
    shown.sort(key=lambda outcome: (outcome.f1, -outcome.errors, len(outcome.correct), outcome.image))
    worst = [outcome for outcome in shown[:count] if outcome.errors]
    return worst, shown[len(worst) :][::-1][:count]
