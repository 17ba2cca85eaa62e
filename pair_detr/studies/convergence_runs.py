"""The runs of :mod:`pair_detr.studies.convergence`: datasets, detectors, schedules and the recipe of each."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class PlannedRun(NamedTuple):
    """A training.

    Attributes:
        data: key of DATASETS.
        variant: key of VARIANTS.
        schedule: "full" or "third".
        seed: of the run.
        config: name of the config.
        options: that it is trained with, as on the command line.
    """

    data: str
    variant: str
    schedule: str
    seed: int
    config: str
    options: list[str]

    @property
    def folder(self) -> str:
        """Of its output, below that of the study."""
        return f"{self.data}/{self.variant.replace(' ', '_')}/{self.schedule}_{self.seed}"


@dataclass(frozen=True)
class Dataset:
    """What is trained on.

    Attributes:
        title: for people.
        config: name of the config, without the training-only branches.
        schedules: options of each schedule, its length and when it is evaluated.
        common: options of all runs.
    """

    title: str
    config: str
    schedules: dict[str, dict[str, Any]]
    common: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A detector and the recipe that was best for it.

    Attributes:
        options: what it is.
        recipes: by dataset and schedule, how it is trained; "" is for all of a dataset.
    """

    options: dict[str, Any]
    recipes: dict[tuple[str, str], dict[str, Any]]
