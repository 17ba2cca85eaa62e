"""Images as people have them - files, PIL images, arrays - as one kind of array."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pair_detr.data.image_checks import require_8_bits

ImageInput = str | Path | Image.Image | np.ndarray


def as_bgr(image: ImageInput) -> np.ndarray:
    """Pixels of an image, upright.

    Args:
        image: a file or a PIL image, of any 8-bit mode and turned as its EXIF data say; transparency is dropped. Or
            an array, (H, W, 3) uint8 in BGR order, as OpenCV and ``detectron2.data.detection_utils.read_image(file,
            "BGR")`` read it.

    Returns:
        (H, W, 3) uint8 in BGR order.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is not an image, or truncated; the message names it.
        TypeError: ``image`` is something else.
        ValueError: an array of another shape or type, or more than 8 bits a channel.
    """
    if isinstance(image, (str, Path)):
        return _read(Path(image).expanduser())
    if isinstance(image, Image.Image):
        return _to_bgr(image, "the image")
    if not isinstance(image, np.ndarray):
        raise TypeError(f"the image is a {type(image).__name__}; give a path, a PIL image or a NumPy array")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image has the shape {image.shape}; it must be (height, width, 3), in BGR order")
    if image.dtype != np.uint8:
        raise ValueError(f"the image has the type {image.dtype}; it must be uint8, 0 to 255")
    return image


def _read(file: Path) -> np.ndarray:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist or is no file: correct the path.")
    try:
        with Image.open(file) as image:
            return _to_bgr(image, str(file))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # All that Pillow raises for a file that is truncated or not an image.
        raise OSError(
            f"{file} cannot be read as an image ({type(error).__name__}: {error}). Replace or remove the file."
        ) from error


def _to_bgr(image: Image.Image, name: str) -> np.ndarray:
    require_8_bits(image, name)
    return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[:, :, ::-1])
