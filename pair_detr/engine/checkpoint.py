"""Checkpoints that are whole or absent, and weights that fit or stop the run."""

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

logger = logging.getLogger(__name__)

_TEMPORARY_NAME = ".checkpoint.tmp"

_REMEDIES = (
    "Download the file on a machine with internet access and set MODEL.WEIGHTS to its path here, or set "
    'MODEL.WEIGHTS "" to start from random weights.'
)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not belong to the model."""


def require_weights(weights: str) -> None:
    """Fetches ``MODEL.WEIGHTS`` and reads them once, so that a run without them stops before minutes of set-up.

    Args:
        weights: local path, URL or name that Detectron2 resolves (``detectron2://...``); "" needs nothing.

    Raises:
        FileNotFoundError: it does not exist or cannot be reached.
        CheckpointError: the file cannot be read.
    """
    if not weights:
        return
    path = _fetch(weights)
    reader = AtomicCheckpointer(nn.Module())
    # Detectron2 looks there for options behind a "?".
    reader._parsed_url_during_load = urlparse(weights)
    try:
        reader._load_file(path)
    except _UnreadableError as error:
        raise CheckpointError(f"MODEL.WEIGHTS: {error}") from error


def _fetch(weights: str) -> str:
    """Local path of MODEL.WEIGHTS."""
    path = weights.partition("?")[0]
    try:
        path = PathManager.get_local_path(path)
    except Exception as error:  # each of the handlers of PathManager has exceptions of its own
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights} cannot be fetched ({error}). {_REMEDIES}") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights} does not exist. {_REMEDIES}")
    return path


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, safe against interruption and against weights of another model.

    A checkpoint is written to a temporary file, flushed to the disk, and then renamed. ``last_checkpoint`` follows in
    the same way, so whatever moment the process is killed at, it names a complete file.

    A model's ``vocabulary``, the names of its classes, is saved beside its weights. It need not be that of the model
    that loads them: the log says which classes are new.
    """

    _complete = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes the model, all checkpointables and ``kwargs`` to ``<name>.pth`` in ``save_dir``."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: item.state_dict() for key, item in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        with _replace(path) as file:
            torch.save({"model": self.model.state_dict(), **self._vocabulary(), **state, **kwargs}, file)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the file that a resumed run starts from."""
        with _replace(Path(self.save_dir) / "last_checkpoint") as file:
            file.write(last_filename_basename.encode())

    def load(self, path: str, checkpointables: list[str] | None = None, *, complete: bool = False) -> dict[str, Any]:
        """Loads weights and, unless ``checkpointables`` says otherwise, all the state that was saved with them.

        Args:
            path: as in :func:`require_weights`.
            checkpointables: names of the states to load; None loads all.
            complete: require every parameter of the model, as an evaluation or a resumed run has to. Otherwise some are
                enough, say those of the backbone.

        Returns:
            What the file held beyond that.

        Raises:
            FileNotFoundError: the file cannot be fetched.
            CheckpointError: the file cannot be read, or its weights are another model's.
        """
        if path:
            _fetch(path)
        self._complete = complete
        try:
            rest = super().load(path, checkpointables)
            self._report_new_classes(rest.get("vocabulary"))
            return rest
        finally:
            # Detectron2 leaves it set when loading fails, and refuses the next load.
            self._parsed_url_during_load = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resumes from the newest readable checkpoint in ``save_dir``; without one, loads the weights in ``path``.

        Raises:
            FileNotFoundError, CheckpointError: as :meth:`load`, or none of the checkpoints can be read.
        """
        if not resume or not self.has_checkpoint():
            if resume:
                logger.warning("There is no checkpoint to resume from in %s; starting anew.", self.save_dir)
            return self.load(path, checkpointables=[])
        errors = []
        for candidate in self._candidates():
            try:
                return self.load(str(candidate), complete=True)
            except _UnreadableError as error:
                logger.warning("%s Trying the checkpoint before it.", error)
                errors.append(str(error))
        raise CheckpointError(
            "\n".join([*errors, f"No checkpoint in {self.save_dir} can be read. Start anew without --resume."])
        )

    def _vocabulary(self) -> dict[str, list[str]]:
        names = getattr(self.model, "vocabulary", None)
        return {} if names is None else {"vocabulary": list(names)}

    def _report_new_classes(self, trained: list[str] | None) -> None:
        names = self._vocabulary().get("vocabulary")
        if names is None or trained is None or names == trained:
            return
        new = [name for name in names if name not in set(trained)]
        logger.info(
            "The weights were saved with %d classes, the model has %d; %d of these were not among them%s.",
            len(trained),
            len(names),
            len(new),
            f": {', '.join(new[:20])}{', ...' if len(new) > 20 else ''}" if new else "",
        )

    def _candidates(self) -> list[Path]:
        last = Path(self.get_checkpoint_file())
        others = [path for path in Path(self.save_dir).glob("model_*.pth") if path != last]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [path for path in (last, *others) if path.is_file()]

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except pickle.UnpicklingError as error:
            raise _UnreadableError(
                f"{filename} holds more than tensors, or is damaged ({str(error).splitlines()[0]}). If you trust it, "
                "save its weights alone: torch.save({'model': torch.load(FILE, weights_only=False)['model']}, NEW)."
            ) from error
        except Exception as error:  # damaged bytes make pickle raise anything
            raise _UnreadableError(f"{filename} cannot be read; it may be incomplete ({error!r}).") from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        lacking = set(incompatible.missing_keys) | {key for key, *_ in incompatible.incorrect_shapes}
        parameters = [name for name, _ in self.model.named_parameters()]
        absent = [name for name in parameters if name in lacking]
        if absent and (self._complete or absent == parameters):
            raise CheckpointError(
                f"The weights do not fit the model: {len(absent)} of its {len(parameters)} parameters are not in the "
                f"checkpoint or have another shape there, such as {', '.join(absent[:3])}. Use the config "
                "that the checkpoint was trained with (MODEL.DETR.VARIANT, MODEL.BACKBONE.NAME, "
                "MODEL.DETR.NUM_CLASSES, text weights of the same width), or other MODEL.WEIGHTS."
            )
        return incompatible


class _UnreadableError(CheckpointError):
    pass


@contextmanager
def _replace(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that takes the place of ``path`` once it is complete and on the disk."""
    # One name for all: what a killed process left is overwritten by the next one.
    temporary = path.parent / _TEMPORARY_NAME
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
