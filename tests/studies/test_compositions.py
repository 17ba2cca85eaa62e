"""The study of compounds, on rows that compose and on rows that do not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pair_detr.open_vocabulary import Vocabulary
from pair_detr.studies import compositions
from pair_detr.studies.compositions import SUM, find_compounds, hits, median_rank, rank_compounds

NAMES = ("ski", "pole", "ski_pole", "tent", "tent pole", "flag", "flag-tent", "bat_(animal)", "ski bat", "lamp post")


def test_compounds_are_made_of_other_classes() -> None:
    assert find_compounds(NAMES) == {2: [0, 1], 4: [3, 1], 6: [5, 3]}
    assert find_compounds(NAMES, strip_senses=True) == {2: [0, 1], 4: [3, 1], 6: [5, 3], 8: [0, 7]}
    # Which of both bats it is, nothing says.
    assert find_compounds(("bat (animal)", "bat (club)", "ski", "ski bat"), strip_senses=True) == {}


def make_rows(rng: np.random.Generator) -> np.ndarray:
    rows = rng.normal(size=(len(NAMES), 64)) + 2
    for own, words in find_compounds(NAMES).items():
        rows[own] = rows[words].sum(0)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_sums_are_closest_to_their_words() -> None:
    rows = make_rows(np.random.default_rng(0))
    compounds = find_compounds(NAMES)
    assert rank_compounds(rows, compounds, SUM, centered=False).tolist() == [1, 1, 1]
    assert rank_compounds(rows, compounds, SUM, centered=True).tolist() == [1, 1, 1]


def test_ranks_leave_the_words_out() -> None:
    """By hand: the query is (1, 1, 0); the words' own rows and, among those left, one that is closer."""
    rows = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0.2, 0], [1, 0.9, 0], [0, 0, 1]])
    assert rank_compounds(rows, {2: [0, 1]}, SUM, centered=False).tolist() == [2]
    assert rank_compounds(rows, {2: [0, 1]}, "first word", centered=False).tolist() == [1]
    assert rank_compounds(rows, {2: [0, 1]}, "last word", centered=False).tolist() == [2]


def test_statistics_of_ranks() -> None:
    ranks = np.array([[1, 3, 20], [2, 4, 5]])
    assert median_rank(*ranks) == 3.5
    assert hits(3)(*ranks) == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_study_writes_a_figure_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, output = tmp_path / "texts.npy", tmp_path / "compositions.png"
    Vocabulary(NAMES, make_rows(np.random.default_rng(0))).save(texts)
    compositions.main(["--text-weights", str(texts), "--seeds", "3", "--output", str(output)])
    log = capsys.readouterr().out
    assert "3 compounds among 10 classes" in log
    assert "| less their mean | sum of the words | text rows     | 1 (1 to 1)" in log
    assert "Ranks: ski_pole 1, less the mean 1; tent pole 1" in log
    assert min(Image.open(output).size) > 300
    Vocabulary(("cat", "dog"), np.eye(2)).save(tmp_path / "few.npy")
    with pytest.raises(ValueError, match="0 of its names consist of names of other classes"):
        compositions.main(["--text-weights", str(tmp_path / "few.npy"), "--output", str(output)])
