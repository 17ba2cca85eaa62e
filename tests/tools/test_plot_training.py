"""Curves of trainings and their figure."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, write_dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from tool_helpers import write_metrics

from pair_detr.engine import Trainer
from pair_detr.tools import plot_training
from pair_detr.visualization.training_curves import read_published, read_run, summarize
from pair_detr.visualization.training_figure import draw_training


def write_rows(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def axis_of(figure: Figure, title: str) -> Axes:
    (axis,) = [axis for axis in figure.axes if axis.get_title() == title]
    return axis


def test_curve_and_the_iteration_that_reaches_a_threshold(tmp_path: Path) -> None:
    curve = read_run(write_metrics(tmp_path / "a", {100: 0.1, 200: 0.4, 300: 0.8})).ap
    assert curve.steps.tolist() == [100, 200, 300]
    assert np.allclose(curve.values, [0.1, 0.4, 0.8])
    assert curve.reached(0.5) == pytest.approx(225)
    assert curve.reached(0.05) == 100
    assert math.isnan(curve.reached(0.9))


def test_summary_names_seeds_that_do_not_reach_the_threshold(tmp_path: Path) -> None:
    good = read_run(write_metrics(tmp_path / "a", {100: 0.0, 200: 1.0}))
    bad = read_run(write_metrics(tmp_path / "b", {100: 0.0, 200: 0.2}))
    none = read_run(write_rows(tmp_path / "c", [{"iteration": 19, "total_loss": 1.0}]))
    table = summarize({"both": [good, bad], "good": [good, good], "none": [none]}, 50)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows == [
        ["both", "150 / -", "not reached", "100.0 / 20.0", "60.0"],
        ["good", "150 / 150", "150", "100.0 / 100.0", "100.0"],
        ["none", "-", "-", "-", "-"],
    ]


def test_figure_shows_means_of_seeds_by_epoch_next_to_published_curves(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 1):
        rows = [{"iteration": i, "epoch": (i + 1) / 40, "total_loss": 4.0 + seed, "loss_box": seed} for i in (19, 39)]
        # As Detectron2 logs the evaluation after a training, one iteration late.
        rows += [{"iteration": 19, "bbox/AP": 10 + 20 * seed}, {"iteration": 40, "bbox/AP": 40}]
        seeds.append(read_run(write_rows(tmp_path / str(seed), rows)))
    assert [run.epoch_length for run in seeds] == [40, 40]
    # As Excel saves it.
    table = "epoch,train_loss,ap,ap50\r\n0,18.5,0.04,0.1\r\n1,13.9,0.09,0.2\r\n"
    (tmp_path / "some_detr.csv").write_bytes(table.encode("utf-8-sig"))
    published = read_published(tmp_path / "some_detr.csv")
    figure = draw_training({"ours": seeds}, [published], "", "bbox/AP", by_epoch=True)
    ours, theirs = axis_of(figure, "bbox/AP (percent)").lines
    np.testing.assert_allclose(ours.get_xydata(), [[0.5, 20], [1, 40]])
    np.testing.assert_allclose(theirs.get_xydata(), [[1, 4], [2, 9]])
    assert (ours.get_label(), theirs.get_label()) == ("ours (2 seeds)", "published: some detr")
    np.testing.assert_allclose(axis_of(figure, "total training loss").lines[0].get_xydata(), [[0.5, 4.5], [1, 4.5]])
    np.testing.assert_allclose(axis_of(figure, "total training loss").lines[1].get_ydata(), [18.5, 13.9])
    np.testing.assert_allclose(axis_of(figure, "loss_box").lines[0].get_ydata(), [0.5, 0.5])
    (band,) = axis_of(figure, "loss_box").collections
    assert band.get_paths()[0].get_extents().height == 1
    by_iteration = draw_training({"ours": seeds[:1]}, [], "", "bbox/AP", by_epoch=False)
    assert axis_of(by_iteration, "bbox/AP (percent)").lines[0].get_xdata().tolist() == [20, 40]


def test_a_resumed_or_running_training_is_read(tmp_path: Path) -> None:
    rows = [{"iteration": i, "total_loss": loss} for i, loss in ((19, 5.0), (39, 4.0), (39, 3.0), (59, 2.0))]
    folder = write_rows(tmp_path / "a", rows)
    with (folder / "metrics.json").open("a") as file:
        file.write('{"iteration": 79, "tot')
    run = read_run(folder)
    assert run.losses["total_loss"].steps.tolist() == [20, 40, 60]
    assert run.losses["total_loss"].values.tolist() == [5, 3, 2]
    assert run.ap is None
    # Stopped after 300 iterations, and resumed from a checkpoint of 150: its evaluations until then no longer count.
    evaluations = [(99, 10), (199, 20), (299, 30), (199, 25)]
    folder = write_rows(tmp_path / "b", [{"iteration": i, "bbox/AP": ap} for i, ap in evaluations])
    ap = read_run(folder).ap
    assert (ap.steps.tolist(), ap.values.tolist()) == ([100, 200], [0.1, 0.25])


def test_main_writes_png_and_svg(tmp_path: Path, shared_dir: Path) -> None:
    folders = [write_metrics(tmp_path / name, {100: 0.1, 200: 0.6}) for name in ("a", "b")]
    arguments = [f"model={folders[0]},{folders[1]}", str(folders[1]), "--output", str(tmp_path / "out" / "figure.png")]
    plot_training.main([*arguments, "--published", str(shared_dir / "published_curves"), "--epoch-length", "50"])
    assert min(Image.open(tmp_path / "out" / "figure.png").size) > 400
    assert "<svg" in (tmp_path / "out" / "figure.svg").read_text()
    assert len(list((tmp_path / "out").iterdir())) == 2
    with pytest.raises(ValueError, match=r"^model, .*/b: metrics\.json has no epochs.*--epoch-length"):
        plot_training.main([*arguments, "--published", str(shared_dir / "published_curves")])


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/metrics.json does not exist"):
        read_run(tmp_path / "nowhere")
    folder = write_metrics(tmp_path / "a", {100: 0.1})
    log = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text("{\n" + log)
    with pytest.raises(ValueError, match=r"metrics\.json, line 1: "):
        read_run(folder)
    (folder / "metrics.json").write_text("")
    with pytest.raises(ValueError, match=r"neither losses nor bbox/AP"):
        read_run(folder)
    uneven = [read_run(write_metrics(tmp_path / f"c{i}", {i: 0.5, 2 * i: 0.6})) for i in (10, 20)]
    with pytest.raises(ValueError, match="uneven were evaluated at different iterations"):
        draw_training({"uneven": uneven}, [], "", "bbox/AP", by_epoch=False)
    with pytest.raises(ValueError, match="occurs twice"):
        plot_training.main([str(tmp_path / "c10"), str(tmp_path / "c10")])
    (tmp_path / "x.csv").write_text("epoch,ap\n0,0.1\n")
    with pytest.raises(ValueError, match=r"x\.csv has no column train_loss"):
        read_published(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("epoch,train_loss,ap\n0,1,0.1\n1,,0.1\n")
    with pytest.raises(ValueError, match=r"x\.csv, line 3: "):
        read_published(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match=r"no \.csv files"):
        plot_training.main([str(tmp_path / "c10"), "--published", str(tmp_path / "a")])


def test_trainings_tell_their_epochs(tmp_path: Path) -> None:
    """8 images in batches of 4."""
    with restored_catalogs():
        entry = write_dataset(tmp_path, "plotted")
        Trainer(tiny_config(entry, tmp_path / "out")).train()
    assert read_run(tmp_path / "out").epoch_length == pytest.approx(2)
