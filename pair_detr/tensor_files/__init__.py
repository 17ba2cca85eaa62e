"""Files of tensors: read at one place, so that none of them runs code."""

from pair_detr.tensor_files.reading import TensorFileError, read_tensor_file

__all__ = ["TensorFileError", "read_tensor_file"]
