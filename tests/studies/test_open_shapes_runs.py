"""Trainings on the open-vocabulary shapes: rows of the classes, options, and what is read of them."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pair_detr.config.validation import check_config
from pair_detr.config_files import load_config
from pair_detr.data.datasets.shape_classes import HOLDOUTS, WORDS
from pair_detr.open_vocabulary import Vocabulary, compose, random_text_weights
from pair_detr.studies import image_labels, text_queries
from pair_detr.studies.convergence_runs import PlannedRun
from pair_detr.studies.open_shapes_runs import BOXES, LABELS, TEXTS, Result, gain, load_words, plan_run, write_texts
from pair_detr.visualization.training_curves import Curve

HOLDOUT = HOLDOUTS["composition"]
ENCODED = random_text_weights(WORDS, dim=128, seed=7)


def rows_of(kind: str, seed: int, folder: Path) -> np.ndarray:
    vocabulary = Vocabulary.load(write_texts(kind, HOLDOUT, ENCODED, seed, folder))
    assert vocabulary.names == HOLDOUT.class_names
    return vocabulary.weights.numpy()


def test_real_rows_are_composed(tmp_path: Path) -> None:
    expected = compose(ENCODED, {own.name: own.words for own in HOLDOUT.classes}).weights
    for seed in (1, 2):
        torch.testing.assert_close(torch.from_numpy(rows_of("real", seed, tmp_path)), expected)


def test_shuffled_rows_are_all_of_other_classes(tmp_path: Path) -> None:
    real, shuffled = rows_of("real", 0, tmp_path), rows_of("shuffled", 3, tmp_path)
    where = (shuffled @ real.T).argmax(1)
    assert sorted(where) == list(range(len(real)))
    assert (where != np.arange(len(real))).all()
    np.testing.assert_allclose(shuffled, real[where], atol=1e-6)


def test_random_rows_are_like_the_real_ones(tmp_path: Path) -> None:
    """In mean and spectrum, and not in which classes are alike."""
    real = rows_of("real", 0, tmp_path)
    cosines = [rows_of("random", seed, tmp_path) for seed in range(5)]
    off_diagonal = ~np.eye(len(real), dtype=bool)
    mean = np.mean([(rows @ rows.T)[off_diagonal].mean() for rows in cosines])
    assert mean == pytest.approx((real @ real.T)[off_diagonal].mean(), abs=0.02)
    correlation = [np.corrcoef((rows @ rows.T)[off_diagonal], (real @ real.T)[off_diagonal])[0, 1] for rows in cosines]
    assert abs(np.mean(correlation)) < 0.2


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind != "real"])
def test_each_seed_has_rows_of_its_own(kind: str, tmp_path: Path) -> None:
    assert not np.allclose(rows_of(kind, 1, tmp_path), rows_of(kind, 2, tmp_path))
    assert np.array_equal(rows_of(kind, 1, tmp_path), rows_of(kind, 1, tmp_path))


def test_real_rows_need_a_file() -> None:
    args = argparse.Namespace(texts=["words", "unrelated"], words_from=None, words_vocabulary=None)
    assert load_words(args) is None
    args.texts = ["random"]
    with pytest.raises(ValueError, match=r"--words-from.*--texts words unrelated"):
        load_words(args)


@pytest.mark.parametrize("config", [BOXES, LABELS])
@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_options_of_a_run(config: str, holdout: str, tmp_path: Path) -> None:
    file = write_texts("words", HOLDOUTS[holdout], None, 0, tmp_path)
    planned = plan_run(holdout, "none words", config, 5, file, ["MODEL.CLIP.QUERIES", "content"])
    cfg = load_config(planned.config, planned.options)
    check_config(cfg)
    assert cfg.SEED == 5
    assert cfg.DATASETS.TRAIN[0] == f"open_shapes_{holdout}_train_boxes"
    assert (cfg.DATASETS.TRAIN[1:] == (f"open_shapes_{holdout}_train_image_labels",)) == (config == LABELS)
    assert (f"open_shapes_{holdout}_val",) == cfg.DATASETS.TEST
    assert f"shapes://open_{holdout}.pth" == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.CLIP.QUERIES == "content"
    assert planned.folder == f"{holdout}/none_words/boxes_5"
    assert (cfg.INPUT.CHANNEL_PERMUTATION > 0) == (holdout == "color")
    assert (holdout == "color" and config == LABELS) == cfg.MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS


@pytest.mark.parametrize(("steps", "expected"), [(0, (160, (112,))), (320, (320, (224,)))])
def test_continuation_and_control_take_as_many_steps(
    steps: int, expected: tuple[int, tuple[int]], tmp_path: Path
) -> None:
    start = tmp_path / "start.pth"
    plans = [
        image_labels.plan("shape", choice, "words", 1, tmp_path / "t.npy", start, steps)
        for choice in ("max_size", "boxes only")
    ]
    labels, control = (load_config(planned.config, planned.options) for planned in plans)
    assert (labels.SOLVER.MAX_ITER, tuple(labels.SOLVER.STEPS)) == expected
    assert labels.MODEL.DETR.IMAGE_LABELS.LOSS == "max_size"
    for key in ("MAX_ITER", "STEPS", "BASE_LR"):
        assert labels.SOLVER[key] == control.SOLVER[key]
    assert labels.MODEL.WEIGHTS == control.MODEL.WEIGHTS == str(start)
    assert len(control.DATASETS.TRAIN) == 1


def test_gain_is_paired_by_seed() -> None:
    found = gain([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found.value == pytest.approx(2)
    assert 1 <= found.low <= 2 <= found.high <= 3
    assert np.isnan(gain([3.0], [1.0]).low)


def result(base: float, novel: float) -> Result:
    """That reaches half of both after 60 iterations, and the rest by 120."""
    steps = np.array([60, 120])
    return Result(Curve(steps, np.array([base / 2, base])), Curve(steps, np.array([novel / 2, novel])))


def test_tables() -> None:
    found = text_queries.summarize(
        {("none", "real"): [result(80, 10), result(90, 20)], ("content", "real"): [result(82, 40), result(94, 40)]}, 60
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()[2:]]
    assert rows[0][:4] == ["none", "real", "85.0 (80.0-90.0)", "15.0 (10.0-20.0)"]
    assert rows[1][5].startswith("3.0 (")
    assert rows[1][6].startswith("25.0 (")
    # 60 lies between 40 and 80, and between 45 and 90: after 90 and 80 iterations.
    assert rows[0][4] == "85"

    found = image_labels.summarize(
        {
            ("boxes only", "real", "shape"): [result(90, 5), result(91, 7)],
            ("objectness", "real", "shape"): [result(89.5, 45), result(90.5, 57)],
        }
    )
    assert "| 45.0 / 57.0" in found
    assert "45.0 (40.0 to 50.0)" in found
    assert "-0.5 (-0.5 to -0.5)" in found


@pytest.mark.parametrize("study", [text_queries, image_labels])
def test_studies_from_runs_to_tables(study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trainings that only leave their evaluations behind."""
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    trained: list[PlannedRun] = []

    def train_all(runs: list[PlannedRun], output: Path, jobs: int) -> None:
        for planned in runs:
            trained.append(planned)
            folder = output / planned.folder
            folder.mkdir(parents=True)
            row = {"iteration": 59, "bbox/AP50-base": 90.0 + planned.seed, "bbox/AP50-novel": 10.0}
            (folder / "metrics.json").write_text(json.dumps(row | {"total_loss": 1.0}) + "\n")

    monkeypatch.setattr(study, "train_all", train_all)
    told: list[str] = []
    monkeypatch.setattr(study.logger, "info", lambda *args: told.append(args[0] % args[1:]))
    arguments = ["--texts", "unrelated", "--seeds", "1", "2", "--runs", str(tmp_path / "runs")]
    if study is text_queries:
        study.main([*arguments, "--output", str(tmp_path / "figure.png")])
        assert (tmp_path / "figure.png").stat().st_size > 1000
        assert len(trained) == 8
    else:
        steps = ["--start-steps", "40", "--label-steps", "1"]
        study.main([*arguments, "--holdout", "shape", "--choices", "objectness", *steps])
        assert [planned.variant for planned in trained] == [
            *["start unrelated"] * 2,
            *["boxes only unrelated"] * 2,
            *["objectness unrelated"] * 2,
        ]
        solvers = [load_config(planned.config, planned.options).SOLVER for planned in trained]
        expected = [*[(40, (28,))] * 2, *[(1, (1,))] * 4]
        assert [(solver.MAX_ITER, tuple(solver.STEPS)) for solver in solvers] == expected
    assert "91.0" in told[-1]
