"""Probes of text rows: what they find where the answer is known, and their statistics against other libraries."""

import numpy as np
import pytest
from scipy.stats import spearmanr, t

from pair_detr.studies import text_probes
from pair_detr.studies.text_probes import (
    MEAN,
    METHODS,
    RANDOM,
    REAL,
    SHUFFLED,
    interval,
    noise_of_mean,
    predict_left_out,
    r_squared,
    r_squared_gain,
    random_rows,
    require_sklearn,
    score_probe,
    spearman,
    squared_errors,
)

pytest.importorskip("sklearn", reason="needs scikit-learn")


def make_rows(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)) + 3


def test_a_property_that_is_linear_in_the_rows_is_found_and_controls_find_nothing() -> None:
    rows = make_rows(60)
    values = rows @ np.random.default_rng(1).normal(size=(8, 2))
    predicted = predict_left_out(rows, values, folds=5, seeds=5)
    assert list(predicted) == list(METHODS)
    for number in range(2):
        scores = score_probe(values[:, number], {method: own[..., number] for method, own in predicted.items()})
        assert scores[REAL].r_squared.low > 0.99
        assert scores[REAL].spearman.value > 0.99
        for control in (SHUFFLED, RANDOM, MEAN):
            assert scores[control].r_squared.value < 0.1
            assert scores[control].gain.low > 0.8
            assert scores[control].beaten == 1
        assert np.isnan([scores[MEAN].spearman.value, scores[REAL].gain.value, scores[REAL].beaten]).all()


def test_a_property_that_the_rows_do_not_know_is_not_found() -> None:
    values = np.random.default_rng(3).normal(size=(60, 1))
    predicted = predict_left_out(make_rows(60), values, folds=5, seeds=10)
    score = score_probe(values[:, 0], {method: own[..., 0] for method, own in predicted.items()})
    assert score[REAL].r_squared.value < 0.05
    assert score[MEAN].gain.low < 0


def test_a_class_left_out_does_not_tell_its_own_property() -> None:
    rows, values = make_rows(20), np.random.default_rng(1).normal(size=(20, 1))
    other = values.copy()
    other[7] += 100
    before, after = (predict_left_out(rows, own, folds=4, seeds=3) for own in (values, other))
    for method in METHODS:
        np.testing.assert_array_equal(before[method][:, 7], after[method][:, 7])
        assert (before[method] != after[method]).sum() > 0


def test_fewer_classes_to_train_on() -> None:
    """The mean of powers of two says how many they are."""
    values = 2.0 ** np.arange(20)[:, None]
    predicted = predict_left_out(make_rows(20), values, folds=2, seeds=2, train_classes=4)[MEAN]
    assert {int(own).bit_count() for own in (4 * predicted).ravel()} == {4}


def test_many_properties_with_one_penalty_are_those_of_the_fit_in_full() -> None:
    """Turned into as many dimensions as there are classes, against scikit-learn on the properties themselves."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    rows, rng = make_rows(20), np.random.default_rng(1)
    values = rows @ rng.normal(size=(8, 50)) + rng.normal(size=(20, 50))
    predicted = predict_left_out(rows, values, folds=4, seeds=1, shared_penalty=True)
    assert predicted[REAL].shape == (1, 20, 50)
    for train, test in KFold(4, shuffle=True, random_state=0).split(rows):
        model = RidgeCV(text_probes._PENALTIES).fit(rows[train], values[train])
        np.testing.assert_allclose(predicted[REAL][0, test], model.predict(rows[test]), atol=1e-8)
        np.testing.assert_allclose(predicted[MEAN][0, test], values[train].mean(0, keepdims=True).repeat(5, 0))


def test_random_rows_have_mean_and_covariance_of_the_real_ones() -> None:
    rows, rng = make_rows(12, 4), np.random.default_rng(0)
    rows[:, 1] += 2 * rows[:, 0]
    many = np.concatenate([random_rows(rows, rng) for _ in range(4000)])
    np.testing.assert_allclose(many.mean(0), rows.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(many.T), np.cov(rows.T), atol=0.15)


def test_statistics_against_other_libraries() -> None:
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    values = rng.normal(size=30).round(1)
    predictions = (values + rng.normal(size=(3, 30))).round(1)
    expected = np.mean([r2_score(values, own) for own in predictions])
    errors = squared_errors(values, predictions)
    assert r_squared(values, errors) == pytest.approx(expected)
    control = squared_errors(values, values.mean()[None])
    assert r_squared_gain(values, errors, control) == pytest.approx(expected)
    ranks = np.mean([spearmanr(values, own)[0] for own in predictions])
    assert spearman(values, *predictions) == pytest.approx(ranks)
    assert np.isnan(spearman(values, np.zeros(30)))


def test_interval_of_a_mean_is_that_of_students_t() -> None:
    values = np.random.default_rng(0).normal(size=100)
    found = interval(lambda sample, axis: sample.mean(axis), values)
    low, high = t.interval(0.95, 99, values.mean(), values.std(ddof=1) / 10)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.errors == pytest.approx((found.value - found.low, found.high - found.value))
    assert interval(lambda sample, axis: sample.mean(axis), np.ones(9)).errors == (0, 0)
    assert found.at(1) == f"{values.mean():.1f} ({found.low:.1f} to {found.high:.1f})"


def test_noise_of_a_mean() -> None:
    """Of one object per image it is the variance over the count; objects of an image that are alike count once."""
    values = np.random.default_rng(0).normal(size=(10, 2))
    np.testing.assert_allclose(noise_of_mean(values, np.arange(10)), values.var(0, ddof=1) / 10)
    np.testing.assert_allclose(noise_of_mean(values.repeat(3, 0), np.arange(10).repeat(3)), values.var(0, ddof=1) / 10)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_probes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        require_sklearn()
