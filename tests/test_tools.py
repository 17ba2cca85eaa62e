"""The tools that compare runs and time steps."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pair_detr.data import make_shapes
from pair_detr.tools import benchmark, compare_runs


def write_metrics(folder: Path, points: dict[int, float]) -> Path:
    """A log in Detectron2's form: iterations count from 0 and AP is in percent."""
    folder.mkdir()
    rows = [{"iteration": i - 1, "bbox/AP": ap * 100, "total_loss": 1.0} for i, ap in points.items()]
    rows.insert(1, {"iteration": rows[0]["iteration"] + 5, "total_loss": 2.0})
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_curve_and_the_iteration_that_reaches_a_threshold(tmp_path: Path) -> None:
    curve = compare_runs.read_curve(write_metrics(tmp_path / "a", {100: 0.1, 200: 0.4, 300: 0.8}))
    assert curve.iterations.tolist() == [100, 200, 300]
    assert np.allclose(curve.ap, [0.1, 0.4, 0.8])
    assert curve.reached(0.5) == pytest.approx(225)
    assert curve.reached(0.05) == 100
    assert math.isnan(curve.reached(0.9))


def test_summary_names_seeds_that_do_not_reach_the_threshold(tmp_path: Path) -> None:
    good = compare_runs.read_curve(write_metrics(tmp_path / "a", {100: 0.0, 200: 1.0}))
    bad = compare_runs.read_curve(write_metrics(tmp_path / "b", {100: 0.0, 200: 0.2}))
    table = compare_runs.summarise({"both": [good, bad], "good": [good, good]}, 0.5)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows == [
        ["both", "150 / -", "not by all", "1.000 / 0.200", "0.600"],
        ["good", "150 / 150", "150", "1.000 / 1.000", "1.000"],
    ]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_main_writes_a_figure(tmp_path: Path, suffix: str) -> None:
    folders = [write_metrics(tmp_path / name, {100: 0.1, 200: 0.6}) for name in ("a", "b")]
    output = tmp_path / f"figure.{suffix}"
    compare_runs.main([f"model={folders[0]},{folders[1]}", "--output", str(output)])
    assert output.stat().st_size > 1000
    assert not output.with_suffix(".tmp").exists()


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/metrics.json does not exist"):
        compare_runs.read_curve(tmp_path / "nowhere")
    folder = write_metrics(tmp_path / "a", {100: 0.1})
    log = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(log + log)
    with pytest.raises(ValueError, match="several runs"):
        compare_runs.read_curve(folder)
    # Detectron2 logs the evaluation after a training one iteration late.
    rows = [{"iteration": 19, "total_loss": 1.0}, {"iteration": 9, "bbox/AP": 10}, {"iteration": 20, "bbox/AP": 30}]
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare_runs.read_curve(folder).iterations.tolist() == [10, 20]
    (folder / "metrics.json").write_text('{"iteration": 1, "total_loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"TEST\.EVAL_PERIOD"):
        compare_runs.read_curve(folder)
    with pytest.raises(ValueError, match="different iterations"):
        curves = [compare_runs.read_curve(write_metrics(tmp_path / f"c{i}", {i: 0.5, 2 * i: 0.6})) for i in (10, 20)]
        compare_runs.draw({"uneven": curves}, "", tmp_path / "x.png")


def test_measure_times_in_turn_and_leaves_the_warm_up_out() -> None:
    calls: list[str] = []
    seconds = benchmark.measure([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3, device="cpu")
    assert calls == ["a", "b"] * 5
    assert seconds.shape == (3, 2)
    assert (seconds > 0).all()


def test_random_batch_has_boxes_inside_of_the_image() -> None:
    batch = benchmark.make_batch(2, (40, 80), boxes=5, num_classes=3)
    for item in batch:
        boxes = item["instances"].gt_boxes
        assert item["image"].shape == (3, 40, 80)
        assert len(boxes) == 5
        assert boxes.nonempty().all()
        assert boxes.inside_box((40, 80)).all()
        assert item["instances"].gt_classes.max() < 3


@pytest.mark.parametrize("options", [[], ["--inference"]])
def test_benchmark_reports_ratios(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Not caplog: Detectron2's setup_logger stops the propagation that it needs.
    messages: list[str] = []
    monkeypatch.setattr(benchmark.logger, "info", lambda text, *values: messages.append(text % values))
    arguments = ["--config-file", "quickstart", "--size", "32", "32", "--images", "1", "--repeats", "1", "--boxes", "2"]
    variants = ["--variants", "conditional_detr", "pair_detr"]
    benchmark.main([*arguments, *options, *variants])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in messages[0].splitlines()[3:]]
    assert [row[0] for row in rows] == ["conditional_detr", "pair_detr"]
    assert rows[0][2] == "1.00"
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["compare_runs", "benchmark", "make_shapes", "check_dataset"])
def test_a_tool_run_as_a_program_logs_what_it_found(tool: str, tmp_path: Path) -> None:
    folder = write_metrics(tmp_path / "run", {100: 0.1, 200: 0.6})
    arguments, expected = {
        "compare_runs": ([f"model={folder}", "--output", str(tmp_path / "x.png")], "| model |"),
        "benchmark": (["--help"], "--variants"),
        "make_shapes": (
            ["--output", str(tmp_path / "shapes"), "--train", "2", "--val", "1"],
            "2 training and 1 validation",
        ),
        "check_dataset": (["shapes_val"], "shapes_val: 1 images"),
    }[tool]
    if tool == "check_dataset":
        make_shapes(tmp_path / "shapes", 2, 1, 0)
    run = subprocess.run(
        [sys.executable, "-m", f"pair_detr.tools.{tool}", *arguments],
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in run.stdout
