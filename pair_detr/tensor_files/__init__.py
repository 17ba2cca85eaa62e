"""Files of tensors: read at one place, so that none of them runs code."""

from pair_detr.tensor_files.reading import TensorFileError, read_tensor_file

__all__ = ["METADATA", "TensorFileError", "read_tensor_file"]

# Key of a checkpoint of this package under which lies what is known about its weights.
METADATA = "pair_detr"
