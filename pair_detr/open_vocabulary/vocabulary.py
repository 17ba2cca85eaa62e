"""The classes of an open-vocabulary model: their names, each with the embedding of its text."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.tensor_files import METADATA, TensorFileError, read_tensor_file
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.json_files import read_json, write_json
from pair_detr.utils.messages import counted, join_some
from pair_detr.utils.outputs import require_outputs

_MAKE = 'make new ones with "python -m pair_detr.tools.text_weights"'
_NAMED_IN_A_MESSAGE = 5
# Of two random texts, on average: that of COCO's class names.
_RANDOM_COSINE = 0.8


class UnnamedClassesError(ValueError):
    """Text weights do not say what their ``count`` classes are."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """C classes and their text embeddings.

    Attributes:
        names: of the classes, in the order of the model's labels.
        weights: (C, D) fp32 on the CPU, of length 1; whatever length, precision and kind of array they are given in.
        metadata: how the weights were made: "encoder", "prompts", "synonyms", as far as it is known.
        source: what error messages call the vocabulary, its file for example.
    """

    names: tuple[str, ...]
    weights: Tensor
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = "The vocabulary"

    def __post_init__(self) -> None:
        """Normalizes the weights; a ValueError if they are not a finite matrix with a row, not zero, for each name."""
        if isinstance(self.names, str):
            raise ValueError(f"{self.source}: names is the text {self.names!r}; give a list of class names.")
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "weights", self._validated(self.weights))

    def _validated(self, weights: Any) -> Tensor:
        try:
            if np.iscomplexobj(weights):
                raise TypeError("they are complex")
            weights = torch.as_tensor(weights, dtype=torch.float32, device="cpu").detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.source}: the text weights are not numbers ({error}); {_MAKE}.") from error
        if weights.dim() != 2 or 0 in weights.shape:
            raise ValueError(
                f"{self.source}: the text weights have the shape {tuple(weights.shape)}; they must be a matrix with a "
                f"row for each class (C, D); {_MAKE}."
            )
        if len(weights) != len(self.names):
            raise ValueError(
                f"{self.source}: {len(weights)} text weights do not agree with {_describe(self.names)}: each class "
                f"needs a row, in the order of the classes. Choose the list that the weights belong to, or {_MAKE}."
            )
        for rows, fault in ((~weights.isfinite().all(1), "not finite"), (~weights.any(1), "zero")):
            if rows.any():
                faulty = [f"{i} ({self.names[i]})" for i in rows.nonzero()[:, 0].tolist()]
                raise ValueError(
                    f"{self.source}: text weights are {fault} in {len(faulty)} rows: "
                    f"{join_some(faulty, _NAMED_IN_A_MESSAGE)}. The file may be damaged: fetch it again, or {_MAKE}."
                )
        return F.normalize(weights, dim=1)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """D, the width of the text embeddings."""
        return self.weights.shape[1]

    @classmethod
    def load(cls, path: str | os.PathLike, names: Sequence[str] | None = None) -> "Vocabulary":
        """Reads text weights, as published or as :meth:`save` writes them.

        Args:
            path: .npy file, a (C, D) matrix. A .json file of the same name next to it tells the names of the classes,
                and the checksum of the .npy file. Or a checkpoint (.pth), which has the texts of its training.
            names: of the classes, for a file that has no .json file next to it; checked against it if it has.

        Raises:
            FileNotFoundError: there is no such file.
            UnnamedClassesError: the names of its classes are not known.
            ValueError: it cannot be read, is not what its .json file describes, or is not valid text weights.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"Text weights {path} do not exist. Correct the path (MODEL.CLIP.TEXT_WEIGHTS in a config), or {_MAKE}."
            )
        if path.suffix == ".pth":
            return cls._from_checkpoint(path)
        try:
            weights = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError) as error:
            raise ValueError(f"{path} cannot be read as a .npy file ({error}); {_MAKE}.") from error
        if not isinstance(weights, np.ndarray) or weights.ndim != 2:
            raise ValueError(f"{path} does not hold a single matrix with a row for each class; {_MAKE}.")
        description = path.with_suffix(".json")
        metadata = _read_description(description, path) if description.is_file() else {}
        own_names = metadata.pop("names", None)
        if names is None and own_names is None:
            raise UnnamedClassesError(
                f"The classes of the {len(weights)} text weights in {path} are not known, as there is no "
                f"{description.name} next to it. Name them with MODEL.CLIP.VOCABULARY (coco, lvis, voc, or a file with "
                f"one class per line), or {_MAKE}.",
                len(weights),
            )
        if names is not None and own_names is not None:
            require_same_names(names, own_names, "The list of class names (MODEL.CLIP.VOCABULARY)", str(description))
        return cls(tuple(own_names or names), weights, metadata, str(path))

    @classmethod
    def _from_checkpoint(cls, path: Path) -> "Vocabulary":
        try:
            content = read_tensor_file(path, mmap=True)
            own = content[METADATA]["vocabulary"]
            return cls(tuple(map(str, own["names"])), own["weights"].clone(), {}, str(path))
        except (TensorFileError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no checkpoint with a vocabulary ({error}); {_MAKE}.") from error

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Writes the weights to ``path`` (.npy), and names, metadata and checksum to a .json file next to it.

        Text weights that this method wrote are replaced, others if ``overwrite``.

        Raises:
            ValueError: ``path`` has another ending.
            FileExistsError: there are other text weights, or a .json file of that name that is of something else.
            OSError: it cannot be written.
        """
        path = Path(path)
        require_output(path, overwrite)
        with atomic_write(path) as temporary:
            np.save(temporary, self.weights.numpy())
            content = {
                "names": list(self.names),
                **self.metadata,
                "dimension": self.dim,
                "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
            }
        # Should this one not be reached, the checksum tells that the old one does not belong to the weights.
        write_json(content, path.with_suffix(".json"))

    def find(self, names: Sequence[str]) -> list[int | None]:
        """The class of each name, None where there is none; case, underscores and hyphens do not matter."""
        index = {normalize_name(name): i for i, name in reversed(list(enumerate(self.names)))}
        return [index.get(normalize_name(name)) for name in names]

    def select(self, names: Sequence[str]) -> "Vocabulary":
        """The classes with these names, in their order.

        Raises:
            ValueError: there is no class of one of the names.
        """
        found = self.find(names)
        unknown = [name for name, i in zip(names, found, strict=True) if i is None]
        if unknown:
            raise ValueError(f"{self.source} has no {', '.join(unknown)} among its {_describe(self.names)}.")
        metadata = {key: value for key, value in self.metadata.items() if key != "synonyms"}
        return Vocabulary(tuple(names), self.weights[found], metadata, f"A choice from {self.source}")


def random_text_weights(names: Sequence[str], dim: int = 64, seed: int = 0) -> Vocabulary:
    """Directions that have nothing to do with the names, as alike as CLIP's texts are; the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    common, *own = F.normalize(torch.randn(1 + len(names), dim, generator=generator), dim=1)
    weights = _RANDOM_COSINE**0.5 * common + (1 - _RANDOM_COSINE) ** 0.5 * torch.stack(own)
    return Vocabulary(tuple(names), weights, {"encoder": "random"})


def require_output(path: Path, overwrite: bool = False) -> None:
    """Makes sure that text weights may be written to ``path``; as :meth:`Vocabulary.save`, also for the errors."""
    if path.suffix != ".npy":
        raise ValueError(f"text weights go to a .npy file, not to {path}: change its name")
    description = path.with_suffix(".json")
    if not overwrite and description.is_file():
        content = read_json(description)
        if not isinstance(content, dict) or not {"names", "sha256"} <= content.keys():
            raise FileExistsError(
                f"{description} would be overwritten, and does not belong to text weights: choose another name than "
                f"{path.name}."
            )
    require_outputs([path], "text weights", overwrite=overwrite)


def require_same_names(names: Sequence[str], expected: Sequence[str], owner: str, source: str) -> None:
    """Raises a ValueError that says how ``names`` of ``owner`` differ from those of ``source``, if they do."""
    if len(names) == len(expected):
        differing = [
            (i, a, b)
            for i, (a, b) in enumerate(zip(names, expected, strict=True))
            if normalize_name(a) != normalize_name(b)
        ]
        if not differing:
            return
        index, name, other = differing[0]
        number = counted(len(differing), "name differs or is", "names differ or are")
        detail = f'{number} in another order, first class {index}: "{name}" and "{other}"'
    else:
        detail = f"{_describe(names)} and {_describe(expected)}"
    raise ValueError(
        f"{owner} does not agree with {source}: {detail}. Rows of text weights are classes by their position: give the "
        f"weights of these classes in this order (MODEL.CLIP.TEXT_WEIGHTS in a config), or {_MAKE}."
    )


def _describe(names: Sequence[str]) -> str:
    return f"{counted(len(names), 'class', 'classes')} ({join_some(names, _NAMED_IN_A_MESSAGE)})"


def _read_description(path: Path, weights: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        names = content["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are not a list of texts")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not describe the text weights next to it ({type(error).__name__}: {error}). Remove it, and "
            "name the classes with MODEL.CLIP.VOCABULARY; or write both files anew."
        ) from error
    checksum = content.pop("sha256", None)
    if checksum is not None and checksum != hashlib.sha256(weights.read_bytes()).hexdigest():
        raise ValueError(
            f"{weights} is not the file that {path.name} describes: its checksum differs. Copy both files again, or "
            f"{_MAKE}."
        )
    content.pop("dimension", None)
    return content
