"""Text weights composed of words, and those of the generated shapes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pair_detr.data.datasets.shape_classes import HOLDOUTS, WORDS
from pair_detr.open_vocabulary import Vocabulary, compose, random_text_weights, read_class_list
from pair_detr.open_vocabulary.shape_texts import STAND_INS, random_word_texts, texts_from_words, unrelated_texts

WORD_ROWS = Vocabulary(
    ("red", "blue", "Traffic_Cone"), np.array([[2, 0, 0], [0, 3, 0], [0, 0, 1.0]]), {"encoder": "own"}
)


def test_a_class_is_the_sum_of_its_words() -> None:
    classes = {
        "red cone": ["red", "traffic cone"],
        "cone": ("traffic-cone",),
        "very red cone": ["red", "red", "traffic cone"],
    }
    composed = compose(WORD_ROWS, classes)
    assert composed.names == ("red cone", "cone", "very red cone")
    half, fifth = 0.5**0.5, 0.2**0.5
    # Whatever lengths the words' rows were given in.
    expected = torch.tensor([[half, 0, half], [0, 0, 1], [2 * fifth, 0, fifth]])
    torch.testing.assert_close(composed.weights, expected)
    assert composed.metadata["encoder"] == "own"
    assert composed.metadata["words"]["red cone"] == ["red", "traffic cone"]
    torch.testing.assert_close(compose(WORD_ROWS, {"x": ["traffic cone", "red"]}).weights[0], expected[0])


def test_a_composition_is_saved_with_its_words(tmp_path: Path) -> None:
    compose(WORD_ROWS, {"red cone": ["red", "traffic cone"]}).save(tmp_path / "cones.npy")
    assert Vocabulary.load(tmp_path / "cones.npy").metadata["words"] == {"red cone": ["red", "traffic cone"]}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "no classes to compose"),
        ({"red cone": []}, 'class "red cone" is to be composed of \\[\\]: give the list'),
        ({"red": "red"}, "class \"red\" is to be composed of 'red': give the list"),
        ({"owl": ["red", "owl"]}, "has no owl among its 3 classes"),
    ],
)
def test_what_cannot_be_composed(classes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(WORD_ROWS, classes)


def test_words_that_cancel_each_other_out() -> None:
    opposite = Vocabulary(("hot", "cold"), np.array([[1.0, 0], [-1.0, 0]]))
    with pytest.raises(ValueError, match="zero in 1 rows: 0 \\(lukewarm\\)"):
        compose(opposite, {"lukewarm": ["hot", "cold"]})


@pytest.mark.parametrize("name", HOLDOUTS)
def test_texts_of_shapes_are_sums_of_random_words(name: str) -> None:
    holdout = HOLDOUTS[name]
    texts, words = random_word_texts(holdout, seed=3), random_text_weights(WORDS, seed=3)
    assert texts.names == holdout.class_names
    for row, own in zip(texts.weights, holdout.classes, strict=True):
        total = sum(words.weights[WORDS.index(word)] for word in own.name.split())
        torch.testing.assert_close(row, total / total.norm())
    assert not torch.equal(random_word_texts(holdout).weights, texts.weights)


@pytest.mark.parametrize("name", HOLDOUTS)
def test_unrelated_texts_know_nothing_of_words(name: str) -> None:
    """All pairs are as alike, whether they share words or not, and no direction is that of a word or a sum of words."""
    holdout = HOLDOUTS[name]
    texts = unrelated_texts(holdout)
    assert texts.names == holdout.class_names
    cosines = (texts.weights @ texts.weights.T)[~torch.eye(len(texts), dtype=torch.bool)]
    assert cosines.max() < 0.9 and (cosines.mean() - 0.8).abs() < 0.02
    assert (texts.weights @ random_text_weights(WORDS).weights.T).max() < 0.9
    assert (texts.weights @ random_word_texts(holdout).weights.T).max() < 0.95
    assert not torch.equal(unrelated_texts(holdout, seed=1).weights, texts.weights)


def test_rows_of_other_text_weights_stand_in_for_words(shared_dir: Path) -> None:
    file = shared_dir / "clip_text_weights" / "lvis_v1_clip_a+cname.npy"
    if not file.is_file():
        pytest.skip(f"no {file}")
    names, rows = list(read_class_list("lvis")), np.load(file).astype(np.float32)
    texts = texts_from_words(HOLDOUTS["color"], Vocabulary.load(file, names))
    stands = [rows[names.index(name)] for name in ("zebra", "blueberry", "triangle_(musical_instrument)")]
    expected = sum(row / np.linalg.norm(row) for row in stands)
    found = texts.weights[texts.names.index("striped blue triangle")]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
    assert texts.metadata["rows"] == STAND_INS


def test_words_themselves_come_before_stand_ins() -> None:
    known = random_text_weights((*STAND_INS.values(), "blue", "triangle"))
    texts = texts_from_words(HOLDOUTS["color"], known)
    assert texts.metadata["rows"] == STAND_INS | {"blue": "blue", "triangle": "triangle"}
    total = known.select(["blue", "triangle"]).weights.sum(0)
    torch.testing.assert_close(texts.weights[texts.names.index("blue triangle")], total / total.norm())
    with pytest.raises(ValueError, match="has no ball, box"):
        texts_from_words(HOLDOUTS["color"], random_text_weights(["red", "green"]))
