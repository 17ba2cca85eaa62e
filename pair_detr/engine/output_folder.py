"""What a run must not replace in OUTPUT_DIR: its own input, and files of the user."""

import itertools
import logging
import os
import shutil
from pathlib import Path

from detectron2.config import CfgNode

from pair_detr.checkpoint.search import LAST_CHECKPOINT, checkpoint_files
from pair_detr.config.validation import flatten
from pair_detr.engine.checkpoint_hooks import EVALUATIONS
from pair_detr.evaluation.results_file import RESULTS_FILE
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.outputs import MARK, is_made_here
from pair_detr.utils.text_files import read_text

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
# What the config of an earlier run is called until it is moved with its checkpoints.
SET_ASIDE = "config_before.yaml"

# What a run writes before its config, or with its first checkpoint: the config next to it is that run's.
_TRACES = ("log.txt", "metrics.json", "last_checkpoint")
_WEIGHTS = ("MODEL.WEIGHTS", "MODEL.TIMM.WEIGHTS", "MODEL.CLIP.TEXT_WEIGHTS", "MODEL.CLIP.CHECKPOINT")
_CHECKPOINTS = "model_*.pth"
_FIRST_LINE = f"# {MARK}: the config of a run, replaced by that of the next."


def require_inputs_elsewhere(cfg: CfgNode) -> None:
    """Makes sure that a training does not start from weights that it will move away or write over.

    Raises:
        FileExistsError: they are among the checkpoints in OUTPUT_DIR.
    """
    folder = Path(cfg.OUTPUT_DIR)
    entries = flatten(cfg)
    for key in _WEIGHTS:
        if (file := entries[key]) and _is_checkpoint_in(Path(file), folder):
            raise FileExistsError(
                f"{key} {file} lies in OUTPUT_DIR {folder}, whose checkpoints this training would replace: set "
                "OUTPUT_DIR to another folder, or continue the training of that folder with --resume."
            )


def require_own_config(folder: str | Path) -> None:
    """Makes sure that the config in a folder, if there is one, is one that a run wrote, and that no file is a pipe.

    Raises:
        FileExistsError: it is not, or one is.
    """
    # Others may have made the folder; opening a pipe waits for whoever reads it.
    if pipe := next((path for name in _TRACES if (path := Path(folder, name)).is_fifo()), None):
        raise FileExistsError(f"{pipe} is a pipe, not a file of a run: remove it, or set OUTPUT_DIR to another folder.")
    file = Path(folder, CONFIG_FILE)
    if not file.exists() or any(Path(folder, name).exists() for name in _TRACES):
        return
    if not file.is_file() or not is_made_here(file):
        raise FileExistsError(
            f"{file} was not written by a run, and the config of this one would replace it: set OUTPUT_DIR to another "
            "folder, or rename the file."
        )


def set_aside_config(folder: str | Path) -> None:
    """Copies the config of an earlier run in a folder, if its checkpoints are there, before that of a new run comes.

    Both are kept together when the new run moves the checkpoints. A copy of a run that failed before that stays, as the
    checkpoints are still of the run before it.
    """
    config, aside = Path(folder, CONFIG_FILE), Path(folder, SET_ASIDE)
    if config.is_file() and not aside.exists() and any(Path(folder).glob(_CHECKPOINTS)):
        # Other processes may be about to read the config that it is a copy of.
        with atomic_write(aside) as temporary:
            shutil.copyfile(config, temporary)


def write_config(cfg: CfgNode, notes: str = "") -> None:
    """Writes the config of a run into OUTPUT_DIR, marked as such.

    Args:
        cfg: the config.
        notes: for whoever reads it, above the entries; see :func:`read_notes`.
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in notes.splitlines())
    with atomic_write(Path(cfg.OUTPUT_DIR, CONFIG_FILE)) as temporary:
        temporary.write_text(f"{_FIRST_LINE}\n{comment}{cfg.dump()}", "utf-8")


def read_notes(config_file: str | Path, folder: str | Path) -> str:
    """The notes in a config, if it is the one in a run's folder, which is about to be written again."""
    own = Path(folder, CONFIG_FILE)
    if not config_file or not own.is_file() or not own.samefile(config_file):
        return ""
    first, *lines = read_text(own).splitlines() or [""]
    if first != _FIRST_LINE:
        return ""
    return "\n".join(line[2:] for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


def archive_previous_run(folder: Path) -> None:
    """Moves an earlier run in OUTPUT_DIR into a folder of its own there: ``--resume`` would continue that run."""
    last = folder / LAST_CHECKPOINT
    moved = [path for path in (last, folder / EVALUATIONS, *checkpoint_files(folder)) if path.exists()]
    if not moved:
        return
    number = next(number for number in itertools.count(1) if not (folder / f"earlier_{number}").exists())
    target = folder / f"earlier_{number}"
    target.mkdir()
    moved += [path for path in (folder / RESULTS_FILE,) if path.exists()]
    # First the one that says which of the others to resume from.
    for path in moved:
        path.rename(target / path.name)
    if (config := folder / SET_ASIDE).exists():
        config.rename(target / CONFIG_FILE)
    metrics = folder / "metrics.json"
    if metrics.exists():
        # Detectron2 has opened it already, to append.
        shutil.copy2(metrics, target)
        os.truncate(metrics, 0)
    logger.warning("%s has checkpoints and metrics of an earlier run, which were moved to %s.", folder, target)


def _is_checkpoint_in(file: Path, folder: Path) -> bool:
    # A link in the folder would be replaced, and the target of one that is elsewhere.
    return any(
        path.match(_CHECKPOINTS) and path.parent.exists() and path.parent.samefile(folder)
        for path in (file, file.resolve())
    )
