"""Texts of the classes of an open-vocabulary model, as matrices of NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.json_files import read_json

_MAKE = 'make text weights with "python -m pair_detr.tools.text_weights" and give their file'


@dataclass(frozen=True)
class Texts:
    """C classes.

    Attributes:
        names: of the classes.
        weights: (C, D) fp32 text embeddings.
    """

    names: list[str]
    weights: np.ndarray

    @classmethod
    def read(cls, path: Path, names: list[str] | None = None) -> "Texts":
        """Reads a .npy file; without ``names`` they are in the .json file next to it.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: it is damaged, or holds something else.
        """
        if not path.is_file():
            raise FileNotFoundError(f"Text weights {path} do not exist: correct the path, or {_MAKE}.")
        try:
            weights = np.load(path, allow_pickle=False)
            found = read_json(path.with_suffix(".json"))["names"] if names is None else names
        except (ValueError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read as text weights with names ({error}); {_MAKE}.") from error
        return cls.of(found, weights, str(path))

    @classmethod
    def of(cls, names: Sequence[str], weights: Any, source: str) -> "Texts":
        """Checks that there is a finite row, not zero, for each name; a ValueError that names ``source`` if not."""
        weights = np.asarray(weights, dtype=np.float32)
        if weights.ndim != 2 or len(weights) != len(names) or 0 in weights.shape:
            raise ValueError(
                f"{source}: text weights of the shape {weights.shape} do not fit {len(names)} names; {_MAKE}."
            )
        if not np.isfinite(weights).all() or not weights.any(axis=1).all():
            raise ValueError(f"{source}: rows of the text weights are zero or not finite; {_MAKE}.")
        return cls(list(names), np.ascontiguousarray(weights))

    def resolve(self, vocabulary: Any, weights: Any = None) -> "Texts":
        """What :meth:`pair_detr.runtime.Detector.set_vocabulary` is given, with these texts as those that are known."""
        texts = self._resolve(vocabulary, weights)
        if texts.weights.shape[1] != self.weights.shape[1]:
            raise ValueError(
                f"The text weights have {texts.weights.shape[1]} columns, but the model takes {self.weights.shape[1]}: "
                "make them with the text encoder of its training."
            )
        return texts

    def _resolve(self, vocabulary: Any, weights: Any) -> "Texts":
        if weights is not None:
            return Texts.of(list(vocabulary), weights, "The vocabulary")
        if hasattr(vocabulary, "names") and hasattr(vocabulary, "weights"):
            return Texts.of(list(vocabulary.names), np.asarray(vocabulary.weights), "The vocabulary")
        if isinstance(vocabulary, PathLike) or (isinstance(vocabulary, str) and vocabulary.endswith(".npy")):
            return Texts.read(Path(vocabulary).expanduser())
        if isinstance(vocabulary, str):
            raise ValueError(f"vocabulary is the text {vocabulary!r}; give a list of class names or a .npy file.")
        index = {normalize_name(name): i for i, name in reversed(list(enumerate(self.names)))}
        names = list(vocabulary)
        if unknown := [name for name in names if normalize_name(name) not in index]:
            raise ValueError(
                f"{', '.join(unknown)}: not among the {len(self.names)} classes that the model was exported with. "
                f"There is no text encoder here: {_MAKE}."
            )
        return Texts.of(names, self.weights[[index[normalize_name(name)] for name in names]], "The vocabulary")
