"""Checkpoints that are whole or absent, and weights that fit or stop the run."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from pair_detr.checkpoint import METADATA
from pair_detr.checkpoint.search import FINAL_CHECKPOINT, LAST_CHECKPOINT, find_candidates, named_checkpoint
from pair_detr.checkpoint.self_description import describe_model
from pair_detr.checkpoint.warm_start import MisfitError, require_agreement
from pair_detr.checkpoint.weights import CheckpointError, load_weights, log_exchanged_classes, read_weights
from pair_detr.data.class_matching import ClassMismatchError, describe_classes, match_order
from pair_detr.modeling.divergence import DIVERGED
from pair_detr.tensor_files import TensorFileError, read_tensor_file
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.disk_space import explain_full_disk
from pair_detr.utils.finiteness import describe_non_finite
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

# The weights that a training goes on with, where those of the model are their average.
TRAINED = "trained_model"


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, safe against interruption and against weights of another model.

    A checkpoint is written to a temporary file, flushed to the disk, and then renamed. ``last_checkpoint`` follows in
    the same way, so whatever moment the process is killed at, it names a complete file.

    What a model detects, and the config that it is built from, are saved with its weights. The final checkpoint has
    the weights alone: the training is resumed from the one before, which is written if need be.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        required_config: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        average: Any = None,
        config_text: str = "",
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: see Detectron2's class, also for ``save_dir`` and ``checkpointables``.
            required_config: config entries to save with the weights, see :func:`pair_detr.checkpoint.required_config`.
            training: what to save about the training, see :func:`pair_detr.engine.resume.training_config`.
            config_text: the whole config of the model, in YAML, with which the checkpoint needs no file beside it.
            average: of the weights, see :class:`pair_detr.engine.weight_average.WeightAverage`: saved as the model's
                weights, next to those that the training goes on with; None without one.
        """
        super().__init__(model, save_dir, **checkpointables)
        self._required_config = required_config or {}
        self._training = training
        self._average = average
        self._config_text = config_text
        # The checkpoint that was written or loaded last.
        self._newest = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes the model, all checkpointables and ``kwargs`` to ``<name>.pth`` in ``save_dir``.

        Of the final checkpoint, ``kwargs`` are in its metadata, and the checkpointables in another file.

        Raises:
            FloatingPointError: a tensor holds NaN or infinity. Nothing is written: a training is resumed from the
                checkpoint before.
            DiskFullError: there is no space for it; the checkpoints before it are whole.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if f"{name}.pth" == FINAL_CHECKPOINT:
            resumable = f"model_{kwargs['iteration']:07d}" if "iteration" in kwargs else ""
            if self.checkpointables and resumable and self._newest != f"{resumable}.pth":
                self.save(resumable, **kwargs)
            self.save_weights(name, **kwargs)
            return
        state = {"model": self.model.state_dict()}
        if self._average is not None:
            averaged = self._average.state_dict()
            state = {"model": averaged["weights"], TRAINED: state["model"], "average_steps": averaged["steps"]}
        state |= {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        self._newest = self._write(name, state, self._metadata()).name
        self.tag_last_checkpoint(self._newest)

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Writes what is evaluated, the model or the average of its weights, alone: no training resumes from it.

        ``kwargs`` are in its metadata.

        Raises:
            FloatingPointError, DiskFullError: see :meth:`save`.
        """
        if self.save_dir and self.save_to_disk:
            weights = self.model.state_dict() if self._average is None else self._average.state_dict()["weights"]
            self._write(name, {"model": weights}, self._metadata() | kwargs)

    def _write(self, name: str, state: dict[str, Any], metadata: dict[str, Any]) -> Path:
        path = Path(self.save_dir) / f"{name}.pth"
        if fault := describe_non_finite(state):
            raise FloatingPointError(f"{path} is not written: {fault}. {DIVERGED}")
        self.logger.info("Saving checkpoint to %s", path)
        with explain_full_disk(path, partial(_after_full_disk, self.save_dir)), _replace(path) as file:
            torch.save({**state, METADATA: metadata}, file)
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the file that a resumed run starts from."""
        path = Path(self.save_dir) / LAST_CHECKPOINT
        with explain_full_disk(path, partial(_after_full_disk, self.save_dir)), _replace(path) as file:
            file.write(last_filename_basename.encode())

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from, be it damaged."""
        return next(self._candidates(), None) is not None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads a checkpoint that :meth:`save` wrote, and returns what it holds beyond that.

        Raises:
            CheckpointError: the file cannot be read, holds NaN or infinity, or lacks parameters of the model.
        """
        try:
            loaded = super().load(path, checkpointables)
            self._newest = Path(path).name
            return loaded
        finally:
            # Detectron2 leaves it set when loading fails, and refuses the next load.
            self._parsed_url_during_load = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resumes from the newest usable checkpoint in ``save_dir``; without one, loads the weights in ``path``.

        Raises:
            FileNotFoundError, CheckpointError: the weights cannot be read or do not fit the model, none of the
                checkpoints can be read, or the newest has other classes or another order of them.
        """
        if not resume or not self.has_checkpoint():
            if resume:
                final = Path(self.save_dir, FINAL_CHECKPOINT)
                others = sorted(path.name for path in Path(self.save_dir).glob("earlier_*"))
                others += [f"{final.name}, which has weights alone and may be MODEL.WEIGHTS"] if final.is_file() else []
                logger.warning(
                    "There is no checkpoint to resume from in %s%s; starting anew.",
                    self.save_dir,
                    f" (but see {', '.join(others)} there)" if others else "",
                )
            if path:
                load_weights(self.model, read_weights(path, getattr(self.model, "num_classes", None)))
            return {}
        errors = []
        for candidate in self._candidates():
            try:
                _say_what_is_resumed(candidate)
                loaded = self.load(str(candidate))
                metadata = loaded.get(METADATA, {})
                if getattr(self.model, "vocabulary", None) is None:
                    own = getattr(self.model, "class_names", None)
                    require_class_order(own, metadata.get("class_names"), candidate)
                log_exchanged_classes(self.model, metadata.get("class_names"), str(candidate))
                return loaded
            except _UnreadableError as error:
                logger.warning("%s Trying the checkpoint before it.", error)
                errors.append(str(error))
        raise _unreadable(self.save_dir, errors)

    def _candidates(self) -> Iterator[Path]:
        return find_candidates(self.save_dir, to_train=bool(self.checkpointables))

    def _metadata(self) -> dict[str, Any]:
        known = describe_model(self.model, self._config_text) | {"config": self._required_config}
        return known if self._training is None else {**known, "training": self._training}

    def _load_file(self, filename: str) -> dict[str, Any]:
        # Detectron2's method would unpickle files that are called .pkl.
        loaded = _read(Path(filename))
        if fault := describe_non_finite({key: loaded.get(key) for key in ("model", TRAINED, *self.checkpointables)}):
            raise _UnreadableError(f"{filename} is of a training that has diverged: {fault}.")
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        averaged, steps = checkpoint["model"], checkpoint.pop("average_steps", None)
        trained = checkpoint.pop(TRAINED, averaged)
        # A training goes on with its own weights; what is evaluated is their average.
        checkpoint["model"] = trained if self.checkpointables else averaged
        try:
            require_agreement(self.model.state_dict(), checkpoint["model"])
        except MisfitError as error:
            raise CheckpointError(str(error)) from error
        incompatible = super()._load_model(checkpoint)
        lacking = set(incompatible.missing_keys) | {key for key, *_ in incompatible.incorrect_shapes}
        parameters = [name for name, _ in self.model.named_parameters()]
        absent = [name for name in parameters if name in lacking]
        if absent:
            raise CheckpointError(
                f"The checkpoint is not of this model: {len(absent)} of its {len(parameters)} parameters are not in it "
                f"or have another shape there, such as {join_some(absent, 3)}. Resume with the config that it was "
                "trained with, or set another OUTPUT_DIR."
            )
        if self._average is not None:
            # Without an average, the one of the training to come starts at the weights that there are.
            self._average.load_state_dict({"weights": averaged, "steps": steps or 0})
        return incompatible


def require_class_order(own: Sequence[str] | None, class_names: Sequence[str] | None, path: Path) -> None:
    """Makes sure that the rows of a linear classifier still are the classes that they were trained as.

    Raises:
        CheckpointError: the model has other classes (``own``) than the checkpoint, or the same in another order; where
            one of the two is not known, nothing is checked.
    """
    if own is None or class_names is None:
        return
    try:
        order = match_order(own, class_names)
    except ClassMismatchError as error:
        difference = str(error)
    else:
        if order is None:
            return
        difference = "they are in another order"
    raise CheckpointError(
        f"The data of the config have {describe_classes(own)}, but {path} was trained with "
        f"{describe_classes(class_names)} ({difference}). Resume with the categories that it was trained with; or take "
        f"its weights alone, without --resume, by MODEL.WEIGHTS {path}: these are matched by the names of classes."
    )


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint, with its "class_names", "config" and "training"; files of other programs have no metadata."""

    path: Path
    metadata: Mapping[str, Any]


def find_checkpoint(save_dir: str, *, to_train: bool = True) -> SavedCheckpoint | None:
    """The newest readable checkpoint, from which :meth:`AtomicCheckpointer.resume_or_load` resumes; None without any.

    Its tensors are not loaded. Final weights, which have no state of the training, count where ``to_train`` is false.

    Raises:
        CheckpointError: there are checkpoints, but none can be read.
    """
    errors = []
    for path in find_candidates(save_dir, to_train=to_train):
        try:
            return SavedCheckpoint(path, _read(path, mmap=True).get(METADATA) or {})
        except _UnreadableError as error:
            errors.append(str(error))
    if not errors:
        return None
    raise _unreadable(save_dir, errors)


def final_iteration(save_dir: str) -> int | None:
    """The iteration that the final weights in a folder are of; None if there are none, or they are damaged."""
    try:
        content = _read(Path(save_dir, FINAL_CHECKPOINT), mmap=True)
    except _UnreadableError:
        return None
    # Those of an earlier release are a checkpoint to resume from as well.
    return {**content, **(content.get(METADATA) or {})}.get("iteration")


class _UnreadableError(CheckpointError):
    pass


def _unreadable(save_dir: str, errors: list[str]) -> CheckpointError:
    return CheckpointError(
        "\n".join([*errors, f"No checkpoint in {save_dir} can be read. Start anew without --resume."])
    )


def _say_what_is_resumed(candidate: Path) -> None:
    named = named_checkpoint(candidate.parent)
    if named is None:
        names_none = " that names one" if (candidate.parent / LAST_CHECKPOINT).exists() else ""
        logger.warning(
            "%s has no file last_checkpoint%s; trying its newest checkpoint, %s.",
            candidate.parent,
            names_none,
            candidate,
        )
    elif not named.is_file():
        logger.warning("The last checkpoint, %s, does not exist; trying the newest other, %s.", named, candidate)


def _after_full_disk(save_dir: str) -> str:
    """What to do when a checkpoint could not be written."""
    earlier = next(find_candidates(save_dir), None)
    if earlier is None:
        return "There is no earlier checkpoint. Free space, then start anew."
    return f"The checkpoint before, {earlier}, is whole: free space, then add --resume to the command to continue."


def _read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    try:
        content = read_tensor_file(path, mmap=mmap)
    except (TensorFileError, OSError) as error:
        raise _UnreadableError(str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        raise _UnreadableError(f"{path} is not a checkpoint of a training: it has no entry 'model'.")
    if not isinstance(content.get(METADATA) or {}, Mapping):
        raise _UnreadableError(f"{path} is not a checkpoint of a training: its entry '{METADATA}' has no keys.")
    return content


@contextmanager
def _replace(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that takes the place of ``path`` once it is complete and on the disk."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
