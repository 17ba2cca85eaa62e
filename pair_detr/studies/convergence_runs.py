"""The runs of the studies of convergence: datasets, detectors and schedules, and the methods whose part is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from pair_detr.config.choices import STABLE_DECAY
from pair_detr.config_files import load_config

SCHEDULES = ("full", "half", "third")


class PlannedRun(NamedTuple):
    """A training.

    Attributes:
        data: key of DATASETS.
        variant: key of VARIANTS, or of :func:`ablations`.
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
        configs: the config of each detector, which has its recipe.
        schedules: options of each schedule: its length, and when it is evaluated.
    """

    title: str
    configs: Mapping[str, str]
    schedules: Mapping[str, Mapping[str, Any]]


DATASETS = {
    "shapes": Dataset(
        "generated shapes, on the pretrained network",
        {
            "detr": "detr/quickstart",
            "conditional_detr": "conditional_detr/quickstart",
            "pair_detr": "quickstart",
        },
        {
            "full": {"SOLVER.MAX_ITER": 600, "TEST.EVAL_PERIOD": 50},
            "half": {"SOLVER.MAX_ITER": 300, "TEST.EVAL_PERIOD": 50},
            "third": {"SOLVER.MAX_ITER": 200, "TEST.EVAL_PERIOD": 25},
        },
    ),
    "bccd": Dataset(
        "BCCD (blood cells), on MobileNetV2",
        {"detr": "detr/bccd", "conditional_detr": "conditional_detr/bccd", "pair_detr": "examples/bccd"},
        {
            "full": {"SOLVER.EPOCHS.MAX": 30, "SOLVER.EPOCHS.EVAL_PERIOD": 2},
            "half": {"SOLVER.EPOCHS.MAX": 15, "SOLVER.EPOCHS.EVAL_PERIOD": 1},
            "third": {"SOLVER.EPOCHS.MAX": 10, "SOLVER.EPOCHS.EVAL_PERIOD": 1},
        },
    ),
}


@dataclass(frozen=True)
class Variant:
    """A detector, and what it is trained with.

    Attributes:
        name: of the detector.
        recipe: the detector whose config it is trained with.
        options: that differ from that config.
    """

    name: str
    recipe: str
    options: Mapping[str, Any] = field(default_factory=dict)


# Conditional DETR with the branches of Pair DETR shows what the second decoder adds.
BASELINE, BRANCHES, OURS = "conditional_detr", "conditional_detr with branches", "pair_detr"
VARIANTS = {
    "detr": Variant("detr", "detr"),
    BASELINE: Variant("conditional_detr", "conditional_detr"),
    BRANCHES: Variant("conditional_detr", "pair_detr"),
    OURS: Variant("pair_detr", "pair_detr"),
}


@dataclass(frozen=True)
class Method:
    """A part of Pair DETR's recipe, or one that was tried.

    Attributes:
        on: options that turn it on, with what it cannot do without.
        off: options that turn it off in Pair DETR's recipe, with what cannot do without it; None for a method that is
            not in the recipe.
    """

    on: Mapping[str, Any]
    off: Mapping[str, Any] | None = None


def _detr(**options: Any) -> dict[str, Any]:
    return {f"MODEL.DETR.{key.replace('__', '.')}": value for key, value in options.items()}


def _solver(**options: Any) -> dict[str, Any]:
    return {f"SOLVER.{key}": value for key, value in options.items()}


_SELECTED = _detr(DENSE__ENABLED=True, DENSE__BOX_SIZE=0.25, QUERY_SELECTION="boxes")
_MUON = _solver(OPTIMIZER="MUON")

# For the configs of the shapes.
METHODS = {
    "second decoder": Method(
        {"MODEL.DETR.VARIANT": "pair_detr"}
        | _detr(PAIR__QUERIES_PER_OBJECT=4, PAIR__ONE_TO_MANY_WEIGHT=0.25)
        | _detr(PAIR__SHARED_DECODER=True, PAIR__CONTRASTIVE_WEIGHT=0.0),
        {"MODEL.DETR.VARIANT": "conditional_detr"},
    ),
    "dense head and selected boxes": Method(
        _SELECTED, _detr(DENSE__ENABLED=False, QUERY_SELECTION="none", RELATIVE_BOXES=False)
    ),
    "relative boxes": Method(_SELECTED | _detr(RELATIVE_BOXES=True), _detr(RELATIVE_BOXES=False)),
    "local attention": Method(_detr(LOCAL_ATTENTION=True), _detr(LOCAL_ATTENTION=False)),
    "zero residuals": Method(_detr(ZERO_INIT_RESIDUAL=True), _detr(ZERO_INIT_RESIDUAL=False)),
    "matchability-aware loss": Method(_detr(LOSS__CLASSIFICATION="mal"), _detr(LOSS__CLASSIFICATION="focal")),
    "loss weights and prior": Method(
        _detr(LOSS__GIOU=4.0, LOSS__PRIOR_PROB=0.05), _detr(LOSS__GIOU=2.0, LOSS__PRIOR_PROB=0.01)
    ),
    "Muon": Method(_MUON, _solver(OPTIMIZER="ADAMW")),
    "Muon for the backbone": Method(
        _MUON | _solver(MUON_BACKBONE_MULTIPLIER=40.0), _solver(MUON_BACKBONE_MULTIPLIER=0.0)
    ),
    "decay on a line": Method(
        _solver(LR_SCHEDULER_NAME=STABLE_DECAY, STEPS=0.7), _solver(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=0.875)
    ),
    "3 query groups": Method(_detr(QUERY_GROUPS=3)),
    "3 denoising groups": Method(_detr(DENOISING__GROUPS=3)),
    "look forward twice": Method(_detr(BOX_REFINEMENT="look_forward_twice")),
    "bias by both corners": Method(_detr(BOX_BIAS=True)),
    "average of the weights": Method(_solver(EMA_DECAY=0.95)),
    "contrastive loss": Method(_detr(PAIR__CONTRASTIVE_WEIGHT=0.2)),
    "the paper's second decoder": Method(
        _detr(PAIR__SHARED_DECODER=False, PAIR__QUERIES_PER_OBJECT=1, PAIR__CONTRASTIVE_WEIGHT=0.2)
    ),
}


_AT_THE_END = {"TEST.EVAL_PERIOD": 0}


def alone(method: str) -> str:
    """The variant that is Conditional DETR with a method."""
    return f"{BASELINE} with {method}"


def without(method: str) -> str:
    """The variant that is Pair DETR without a method, or, if that is not in it, with it."""
    return f"{OURS} {'with' if METHODS[method].off is None else 'without'} {method}"


def ablations() -> dict[str, Variant]:
    """Conditional DETR with each method of Pair DETR's recipe alone, and Pair DETR without it, or with one more."""
    found = {}
    for name, method in METHODS.items():
        if method.off is None:
            found[without(name)] = Variant("pair_detr", "pair_detr", method.on | _AT_THE_END)
            continue
        found[alone(name)] = Variant("conditional_detr", "conditional_detr", method.on | _AT_THE_END)
        found[without(name)] = Variant("pair_detr", "pair_detr", method.off | _AT_THE_END)
    return found


def plan(
    data: Sequence[str], variants: Mapping[str, Variant], schedules: Sequence[str], seeds: Sequence[int]
) -> list[PlannedRun]:
    """All runs of the given names, the seeds of one after the other."""
    return [
        _plan(of_data, name, variants[name], schedule, seed)
        for of_data, name, schedule, seed in product(data, variants, schedules, seeds)
    ]


def _plan(data: str, name: str, variant: Variant, schedule: str, seed: int) -> PlannedRun:
    dataset = DATASETS[data]
    config = dataset.configs[variant.recipe]
    options = {"MODEL.DETR.VARIANT": variant.name} | dataset.schedules[schedule] | variant.options
    solver = load_config(config).SOLVER
    recipe, unit = (solver.EPOCHS, "SOLVER.EPOCHS.") if solver.EPOCHS.MAX else (solver, "SOLVER.")
    length = options.get("SOLVER.EPOCHS.MAX") or options["SOLVER.MAX_ITER"]
    # A recipe says after which part of the training the rate goes down.
    part = options.pop("SOLVER.STEPS", None) or recipe.STEPS[0] / (recipe.get("MAX") or recipe.MAX_ITER)
    options |= {f"{unit}STEPS": f"({round(length * part)},)", "SEED": seed}
    return PlannedRun(data, name, schedule, seed, config, [str(x) for option in options.items() for x in option])
