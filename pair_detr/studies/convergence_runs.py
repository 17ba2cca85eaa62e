"""The runs of :mod:`pair_detr.studies.convergence`: datasets, detectors, schedules and the recipe of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple


class PlannedRun(NamedTuple):
    """A training.

    Attributes:
        data: key of DATASETS.
        variant: key of VARIANTS.
        schedule: one of SCHEDULES.
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
    """What is trained on, and for how long.

    Attributes:
        title: for people.
        config: its name.
        schedules: options of each schedule: its length, and when it is evaluated.
        recipe: options of all runs.
    """

    title: str
    config: str
    schedules: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any]


SCHEDULES = ("full", "half", "third")

DATASETS = {
    "shapes": Dataset(
        "generated shapes, on the pretrained network",
        "quickstart",
        {
            "full": {"SOLVER.MAX_ITER": 600, "TEST.EVAL_PERIOD": 50},
            "half": {"SOLVER.MAX_ITER": 300, "TEST.EVAL_PERIOD": 50},
            "third": {"SOLVER.MAX_ITER": 200, "TEST.EVAL_PERIOD": 25},
        },
        {"MODEL.WEIGHTS": "shapes://backbone.pth", "SOLVER.BASE_LR": 1e-3},
    ),
    "bccd": Dataset(
        "BCCD (blood cells), on MobileNetV2",
        "examples/bccd",
        {
            "full": {"SOLVER.EPOCHS.MAX": 30, "SOLVER.EPOCHS.EVAL_PERIOD": 2},
            "half": {"SOLVER.EPOCHS.MAX": 15, "SOLVER.EPOCHS.EVAL_PERIOD": 1},
            "third": {"SOLVER.EPOCHS.MAX": 10, "SOLVER.EPOCHS.EVAL_PERIOD": 1},
        },
        {},
    ),
}

_OFF: Mapping[str, Any] = {
    "MODEL.DETR.LOSS.CLASSIFICATION": "auto",
    "MODEL.DETR.DENSE.ENABLED": False,
    "MODEL.DETR.QUERY_SELECTION": "none",
    "MODEL.DETR.QUERY_GROUPS": 1,
    "MODEL.DETR.DENOISING.GROUPS": 0,
    "MODEL.DETR.BOX_REFINEMENT": "none",
    "MODEL.DETR.RELATIVE_BOXES": False,
    "MODEL.DETR.BOX_BIAS": False,
    "MODEL.DETR.LOCAL_ATTENTION": False,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.EMA_DECAY": 0.0,
}

# What was best so far, see docs/convergence.md.
_BRANCHES: Mapping[str, Any] = {
    "MODEL.DETR.LOSS.CLASSIFICATION": "mal",
    "MODEL.DETR.DENSE.ENABLED": True,
    "MODEL.DETR.QUERY_SELECTION": "boxes",
    "MODEL.DETR.RELATIVE_BOXES": True,
    "MODEL.DETR.LOCAL_ATTENTION": True,
    "SOLVER.OPTIMIZER": "MUON",
}


@dataclass(frozen=True)
class Variant:
    """A detector, and what it is trained with.

    Attributes:
        options: what it is.
        drop: the part of each schedule after which the learning rate drops, by dataset: the best of those tried.
    """

    options: Mapping[str, Any]
    drop: Mapping[str, float]


def _variant(name: str, *parts: Mapping[str, Any], shapes: float, bccd: float) -> Variant:
    options = dict(_OFF)
    for part in parts:
        options |= part
    return Variant({"MODEL.DETR.VARIANT": name, **options}, {"shapes": shapes, "bccd": bccd})


VARIANTS = {
    "detr": _variant("detr", shapes=0.83, bccd=0.8),
    "conditional_detr": _variant("conditional_detr", shapes=0.83, bccd=0.8),
    "conditional_detr with branches": _variant("conditional_detr", _BRANCHES, shapes=0.875, bccd=0.8),
    "pair_detr": _variant("pair_detr", _BRANCHES, shapes=0.875, bccd=0.8),
}


def plan(
    data: Sequence[str], variants: Sequence[str], schedules: Sequence[str], seeds: Sequence[int]
) -> list[PlannedRun]:
    """All runs of the given names, the seeds of one after the other."""
    runs = []
    for of_data, variant, schedule, seed in product(data, variants, schedules, seeds):
        dataset, detector = DATASETS[of_data], VARIANTS[variant]
        options = dict(dataset.recipe) | dict(detector.options) | dict(dataset.schedules[schedule])
        unit = "SOLVER.EPOCHS." if "SOLVER.EPOCHS.MAX" in options else "SOLVER."
        length = options.get("SOLVER.EPOCHS.MAX") or options["SOLVER.MAX_ITER"]
        options[f"{unit}STEPS"] = f"({round(length * detector.drop[of_data])},)"
        options["SEED"] = seed
        listed = [str(part) for option in options.items() for part in option]
        runs.append(PlannedRun(of_data, variant, schedule, seed, dataset.config, listed))
    return runs
