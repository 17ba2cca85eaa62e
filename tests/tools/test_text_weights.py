"""Text weights taken from other text weights."""

from pathlib import Path

import pytest
import torch
from open_vocabulary_helpers import make_vocabulary

from pair_detr.open_vocabulary import UnnamedClassesError, Vocabulary
from pair_detr.tools import text_weights


def test_text_weights_from_a_file(tmp_path: Path) -> None:
    known = make_vocabulary(["cat", "traffic cone", "dog"])
    known.save(tmp_path / "known.npy")
    output = tmp_path / "some.npy"
    arguments = ["--from", str(tmp_path / "known.npy"), "--output", str(output), "--vocabulary"]
    text_weights.main([*arguments, "dog,traffic_cone"])
    found = Vocabulary.load(output)
    assert found.names == ("dog", "traffic_cone")
    torch.testing.assert_close(found.weights, known.weights[[2, 1]])
    assert found.metadata["encoder"] == "test"
    with pytest.raises(ValueError, match="has no owl"):
        text_weights.main([*arguments, "dog,owl"])
    # As published, without names.
    (tmp_path / "known.json").unlink()
    with pytest.raises(UnnamedClassesError):
        text_weights.main([*arguments, "dog"])
    text_weights.main([*arguments, "dog", "--from-vocabulary", "cat,traffic cone,dog"])
    torch.testing.assert_close(Vocabulary.load(output).weights, known.weights[2:])
