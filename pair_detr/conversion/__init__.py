"""Weights of other code bases in, weights for other code bases out.

``reading`` reads files, ``checkpoint`` finds the weights in them, and ``wrappers`` removes from their names what
torch.compile, DataParallel and Lightning add. ``names`` holds what a table of names is; ``official``, ``mmdet``,
``detrex``, ``huggingface`` and ``resnets`` are the tables; ``sources`` puts them together and recognises a file's.
``architecture`` reads a model's sizes from its tensors, so that no key is missing unnoticed. ``classes`` knows COCO's
ids. ``convert`` and ``export`` are the two directions.
"""

from pair_detr.conversion.architecture import misfits, needs_of
from pair_detr.conversion.checkpoint import METADATA, Checkpoint, checkpoint_of
from pair_detr.conversion.convert import AUTHOR, Converted, convert, describe
from pair_detr.conversion.errors import ConversionError
from pair_detr.conversion.export import Exported, export_official, export_transformers
from pair_detr.conversion.native import PREFIX, is_ours
from pair_detr.conversion.reading import read_checkpoint, read_state_dict
from pair_detr.conversion.sources import LAYOUTS, SOURCES, TORCHVISION_PIXELS

__all__ = [
    "AUTHOR",
    "LAYOUTS",
    "METADATA",
    "PREFIX",
    "SOURCES",
    "TORCHVISION_PIXELS",
    "Checkpoint",
    "ConversionError",
    "Converted",
    "Exported",
    "checkpoint_of",
    "convert",
    "describe",
    "export_official",
    "export_transformers",
    "is_ours",
    "misfits",
    "needs_of",
    "read_checkpoint",
    "read_state_dict",
]
