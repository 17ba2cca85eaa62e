"""The tool that makes the open-vocabulary shapes: which files it writes, and whose text weights stay."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pair_detr.data.datasets.shape_classes import HOLDOUTS, WORDS
from pair_detr.open_vocabulary import Vocabulary, random_text_weights
from pair_detr.open_vocabulary.shape_texts import random_word_texts, texts_from_words, unrelated_texts
from pair_detr.tools import make_open_shapes as tool

SMALL = ["--train", "2", "--photos", "4", "--val", "1"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DETECTRON2_DATASETS."""
    # It would keep the log of later tests from caplog.
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def test_all_holdouts_by_default(root: Path) -> None:
    tool.main(SMALL)
    assert sorted(path.name for path in (root / "open_shapes").iterdir()) == sorted(HOLDOUTS)
    for name, holdout in HOLDOUTS.items():
        folder = root / "open_shapes" / name
        content = ["annotations", "open_shapes.json", "photos", "texts.json", "texts.npy", "train", "val"]
        assert sorted(path.name for path in folder.iterdir()) == content
        texts = Vocabulary.load(folder / "texts.npy")
        assert texts.names == holdout.class_names
        torch.testing.assert_close(texts.weights, random_word_texts(holdout).weights)


def test_kinds_of_text_weights(root: Path, tmp_path: Path) -> None:
    words = random_text_weights(WORDS, dim=16, seed=9)
    words.save(tmp_path / "words.npy")
    arguments = [*SMALL, "--output", str(tmp_path / "own"), "--holdout", "color"]
    folder, holdout = tmp_path / "own" / "color", HOLDOUTS["color"]

    def weights(name: str) -> torch.Tensor:
        return Vocabulary.load(folder / name, holdout.class_names).weights

    tool.main([*arguments, "--seed", "5"])
    tool.main(
        [*arguments, "--texts", "unrelated", "--seed", "5", "--texts-output", str(folder / "texts_unrelated.npy")]
    )
    tool.main(
        [*arguments, "--words-from", str(tmp_path / "words.npy"), "--texts-output", str(folder / "texts_own.npy")]
    )
    torch.testing.assert_close(weights("texts.npy"), random_word_texts(holdout, 5).weights)
    torch.testing.assert_close(weights("texts_unrelated.npy"), unrelated_texts(holdout, 5).weights)
    torch.testing.assert_close(weights("texts_own.npy"), texts_from_words(holdout, words).weights)
    # Whoever says nothing of text weights does not lose those that are there, and whoever does gets his.
    tool.main(arguments)
    torch.testing.assert_close(weights("texts.npy"), random_word_texts(holdout, 5).weights)
    tool.main([*arguments, "--texts", "words"])
    torch.testing.assert_close(weights("texts.npy"), random_word_texts(holdout, 0).weights)
    assert not root.exists()


def test_text_weights_of_others_stay(root: Path) -> None:
    texts = root / "open_shapes" / "shape" / "texts.npy"
    arguments = ["--holdout", "shape", *SMALL]
    tool.main(arguments)
    np.save(texts, np.ones((3, 3)))
    with pytest.raises(FileExistsError, match=r"texts\.npy exists, and was not made"):
        tool.main(arguments)
    tool.main([*arguments, "--overwrite"])
    assert Vocabulary.load(texts).names == HOLDOUTS["shape"].class_names
    # Of other classes, and made by this program.
    random_text_weights(["cat"]).save(texts)
    tool.main(arguments)
    assert Vocabulary.load(texts).names == HOLDOUTS["shape"].class_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts-output", "texts.npy"], "give one --holdout"),
        (["--words-from", "words.npy"], r"words\.npy are not known.*--words-vocabulary"),
        (["--words-from", "words.npy", "--words-vocabulary", "cat,dog"], "has no ball, box"),
        (["--train", "0"], "0 training images"),
    ],
)
def test_what_cannot_be_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("words.npy", np.eye(2))
    with pytest.raises(ValueError, match=message):
        tool.main([*SMALL, *arguments])
    assert not list(root.glob("open_shapes/*/*"))
    with pytest.raises(SystemExit):
        tool.main([*SMALL, "--texts", "words", "--words-from", "words.npy"])
