"""Image files: which they are, how large, and their pixels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
# The values of EXIF's orientation that swap width and height.
_TRANSPOSED = frozenset({5, 6, 7, 8})
_READERS = 16


def image_sizes(files: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Width and height of each image as Detectron2 will load it, turned as its EXIF data say; None if it is none."""
    # Reading headers is waiting for the disk.
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(_image_size, files))


def read_pixels(file: str, image_format: str) -> np.ndarray:
    """Reads an image, turned as its EXIF data say; of any mode with 8 bits a channel, where transparency is dropped.

    Args:
        file: path, or an address that Detectron2's PathManager knows.
        image_format: "RGB", "BGR", or a mode of Pillow's.

    Returns:
        (H, W, C) uint8.

    Raises:
        OSError: it cannot be read; the message names the file.
        ValueError: it has more than 8 bits a channel.
    """
    try:
        with PathManager.open(file, "rb") as stream:
            image = Image.open(stream)
            if image.mode == "F" or image.mode.startswith("I"):
                # Pillow would clip them at 255: almost everything becomes white.
                raise ValueError(
                    f"{file} has more than 8 bits a channel (mode {image.mode}): scale it to 0..255 and convert it."
                )
            return convert_PIL_to_numpy(ImageOps.exif_transpose(image), image_format)
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # All that Pillow raises for a file that is missing, truncated or not an image.
        raise OSError(
            f"{file} cannot be read as an image ({type(error).__name__}: {error}). Remove it from the data set or "
            "replace the file."
        ) from error


def _image_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSED
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)
