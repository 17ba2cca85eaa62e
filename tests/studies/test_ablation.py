"""The study of what each method adds: its runs and its table."""

import json
from pathlib import Path

import numpy as np
import pytest

from pair_detr.config.validation import check_config, flatten
from pair_detr.config_files import load_config
from pair_detr.studies import ablation
from pair_detr.studies.convergence_runs import (
    BASELINE,
    METHODS,
    OURS,
    VARIANTS,
    PlannedRun,
    ablations,
    alone,
    plan,
    without,
)

RUNS = {run.variant: run for run in plan(["shapes"], ablations() | VARIANTS, ["third"], [1])}


def values(run: PlannedRun) -> dict[str, object]:
    cfg = load_config(run.config, run.options)
    check_config(cfg)
    return flatten(cfg)


@pytest.mark.parametrize("name", METHODS)
def test_each_run_differs_from_its_base_by_the_method(name: str) -> None:
    method = METHODS[name]
    for variant, base, changes in ((alone(name), BASELINE, method.on), (without(name), OURS, method.off or method.on)):
        if variant not in RUNS:
            assert method.off is None
            continue
        own, of_base = values(RUNS[variant]), values(RUNS[base])
        changed = {key for key, value in own.items() if value != of_base[key]}
        unseen = {"TEST.EVAL_PERIOD", "SOLVER.STEPS"}
        # What is the default of the base already does not differ.
        assert changed - unseen == {key for key in changes if own[key] != of_base[key]} - unseen
        assert changed - {"TEST.EVAL_PERIOD"}


def test_alone_and_left_out_are_opposites() -> None:
    """What Pair DETR's recipe has beyond Conditional DETR's is turned on by some method."""
    ours, base = values(RUNS[OURS]), values(RUNS[BASELINE])
    recipe = {key for key, value in ours.items() if value != base[key]}
    in_it = [method for method in METHODS.values() if method.off is not None]
    explained = {key for method in in_it for key in method.on} | {"OUTPUT_DIR", "MODEL.DETR.DROPOUT", "SOLVER.STEPS"}
    assert recipe - explained == set()


def test_the_table() -> None:
    final = {BASELINE: [20.0, 22.0], OURS: [70.0, 74.0], alone("Muon"): [30.0, 31.0], without("Muon"): [60.0, 63.0]}
    final |= {without("contrastive loss"): [72.0, 72.0]}
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in ablation.summarize({name: np.array(x) for name, x in final.items()}).splitlines()[2:]
    ]
    assert rows == [
        ["all, or none", "21.0 (20.0-22.0)", "", "72.0 (70.0-74.0)", ""],
        ["Muon", "30.5 (30.0-31.0)", "+9.5", "61.5 (60.0-63.0)", "-10.5"],
        ["with contrastive loss", "", "", "72.0 (72.0-72.0)", "+0.0"],
    ]


def test_it_trains_and_reads_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(runs: list[PlannedRun], output: Path, jobs: int) -> None:
        for run in runs:
            (output / run.folder).mkdir(parents=True)
            row = {"iteration": 199, "bbox/AP": 10.0 * run.seed + len(run.variant)}
            (output / run.folder / "metrics.json").write_text(json.dumps(row))

    monkeypatch.setattr(ablation, "train_all", pretend)
    ablation.main(["--methods", "Muon", "--seeds", "1", "3", "--runs", str(tmp_path)])
    assert "| Muon " in (output := capsys.readouterr().out) and "contrastive" not in output
    assert len(list(tmp_path.rglob("metrics.json"))) == 2 * 4
    with pytest.raises(SystemExit):
        ablation.main(["--methods", "magic"])
    with pytest.raises(SystemExit):
        ablation.main(["--jobs", "0"])
