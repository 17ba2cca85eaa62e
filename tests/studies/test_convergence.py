"""The study of convergence: its runs, how it goes on, and what it makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from pair_detr.config.validation import check_config
from pair_detr.config_files import config_file, load_config
from pair_detr.studies import convergence
from pair_detr.studies.convergence_runs import DATASETS, SCHEDULES, VARIANTS, PlannedRun, plan
from pair_detr.visualization.training_curves import Curve, Run


@pytest.mark.parametrize("run", plan(["shapes"], VARIANTS, SCHEDULES, [3]), ids=lambda run: run.folder)
def test_a_run_is_a_config_without_contradictions(run: PlannedRun) -> None:
    cfg = load_config(str(config_file(run.config)), run.options)
    check_config(cfg)
    assert cfg.SEED == 3 and cfg.MODEL.WEIGHTS == "shapes://backbone.pth"
    (step,) = cfg.SOLVER.STEPS
    assert 0 < step < cfg.SOLVER.MAX_ITER == {"full": 600, "half": 300, "third": 200}[run.schedule]
    assert run.variant.startswith(cfg.MODEL.DETR.VARIANT)
    has_branches = "branches" in run.variant or run.variant == "pair_detr"
    assert has_branches == cfg.MODEL.DETR.DENSE.ENABLED
    # The rates go down after 70% with a decay on a line, and after 83% by a step.
    assert step / cfg.SOLVER.MAX_ITER == pytest.approx(0.7 if has_branches else 5 / 6, abs=0.01)


@pytest.mark.parametrize(
    ("variant", "steps"),
    [("pair_detr", ["(21,)", "(10,)", "(7,)"]), ("conditional_detr", ["(24,)", "(12,)", "(8,)"])],
)
def test_epochs_are_compressed_alike(variant: str, steps: list[str]) -> None:
    lengths = {
        run.schedule: dict(zip(run.options[::2], run.options[1::2], strict=True))
        for run in plan(["bccd"], {name: VARIANTS[name] for name in (variant,)}, SCHEDULES, [1])
    }
    assert [lengths[name]["SOLVER.EPOCHS.MAX"] for name in SCHEDULES] == ["30", "15", "10"]
    assert [lengths[name]["SOLVER.EPOCHS.STEPS"] for name in SCHEDULES] == steps


def test_each_run_has_a_folder_of_its_own() -> None:
    runs = plan(list(DATASETS), VARIANTS, SCHEDULES, [1, 2])
    assert len({run.folder for run in runs}) == len(runs) == 2 * len(DATASETS) * len(VARIANTS) * len(SCHEDULES)


def test_complete_runs_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the same config: of another, as before an upgrade, they would be compared with what they are not."""
    folder, (planned,) = tmp_path / "run", plan(["shapes"], {"detr": VARIANTS["detr"]}, ["third"], [1])
    with monkeypatch.context() as patch:
        patch.setattr(convergence.engine, "run", lambda args: (folder / "model_final.pth").touch())
        convergence.train(planned, folder)
    monkeypatch.setattr(convergence.engine, "run", lambda args: pytest.fail("it trains"))
    convergence.train(planned, folder)
    other = planned._replace(options=[*planned.options, "SOLVER.BASE_LR", "0.002"])
    with pytest.raises(ValueError, match="it has a run with another config: remove the folder, or choose another"):
        convergence.train(other, folder)
    (folder / "planned.yaml").unlink()
    with pytest.raises(ValueError, match="another config"):
        convergence.train(planned, folder)


def test_an_interrupted_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(convergence.engine, "run", given.append)
    convergence.train(plan(["shapes"], {"detr": VARIANTS["detr"]}, ["third"], [1])[0], tmp_path / "run")
    (args,) = given
    assert args.resume and args.opts[-2:] == ["OUTPUT_DIR", str(tmp_path / "run")]


def made_run(values: list[float], seconds: float) -> Run:
    return Run(Curve(np.array([100, 200]), np.array(values)), {}, None, Curve(np.array([20]), np.array([seconds])))


def test_the_table_has_means_and_ranges() -> None:
    """AP 30 is reached after 150 and 175 iterations: 162.5 of 0.6 seconds are 1.6 minutes."""
    runs = [made_run([0.2, 0.4], 0.6), made_run([0.0, 0.4], 0.6)]
    table = convergence.summarize({("shapes", "detr", "third"): runs})
    row = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    assert row == ["detr", "third", "200", "40.0 (40.0-40.0)", "162 (1.6)", "-", "-", "2"]


def test_the_figure_has_a_line_for_each_schedule() -> None:
    runs = [made_run([0.2, 0.4], 0.6)]
    figure = convergence.draw({("shapes", "detr", name): runs for name in SCHEDULES})
    styles = [line.get_linestyle() for line in figure.axes[0].get_lines()]
    assert styles == ["-", "--", ":"]


def test_the_study_reads_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(runs: list[PlannedRun], output: Path, jobs: int) -> None:
        for run in runs:
            rows = [{"iteration": 19, "total_loss": 1.0, "time": 0.5}, {"iteration": 199, "bbox/AP": 10.0 * run.seed}]
            (output / run.folder).mkdir(parents=True)
            (output / run.folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))

    monkeypatch.setattr(convergence, "train_all", pretend)
    arguments = ["--variants", "detr", "--schedules", "third", "--seeds", "1", "3", "--runs", str(tmp_path / "runs")]
    convergence.main([*arguments, "--output", str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").is_file()
    assert "20.0 (10.0-30.0)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--seeds", "1", "1"], ["--seeds", "-1"]])
def test_numbers_that_make_no_sense(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        convergence.main(arguments)
