"""Weights of other code bases in, weights for other code bases out; and this package's own checkpoints."""

from pair_detr.checkpoint.architecture import config_mismatches, required_config
from pair_detr.checkpoint.convert import AUTHOR, convert, describe
from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.export import Exported, export_official, export_transformers
from pair_detr.checkpoint.formats.native import PREFIX, is_native
from pair_detr.checkpoint.formats.registry import SOURCES, TORCHVISION_PIXELS
from pair_detr.checkpoint.reading import read_checkpoint, read_state_dict
from pair_detr.checkpoint.state_dicts import METADATA, Checkpoint

__all__ = [
    "AUTHOR",
    "METADATA",
    "PREFIX",
    "SOURCES",
    "TORCHVISION_PIXELS",
    "Checkpoint",
    "ConversionError",
    "Exported",
    "config_mismatches",
    "convert",
    "describe",
    "export_official",
    "export_transformers",
    "is_native",
    "read_checkpoint",
    "read_state_dict",
    "required_config",
]
