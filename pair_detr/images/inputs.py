"""Images as people have them - files, PIL images, arrays - as pixels in a model's format."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pair_detr.images.reading import open_image, require_8_bits, to_pixels

ImageInput = str | Path | Image.Image | np.ndarray

# Arrays that are not in BGR order, by the format of the model: what their shapes may be, for a message.
_OTHER_ARRAYS = {"L": ", or (height, width), gray", "RGBA": ", or (height, width, 4), in BGRA order"}


def as_format(image: ImageInput, image_format: str) -> np.ndarray:
    """Pixels of an image, upright.

    Args:
        image: a file or a PIL image, of any 8-bit mode and turned as its EXIF data say. Or an array of uint8, as OpenCV
            and ``detectron2.data.detection_utils.read_image(file, "BGR")`` read it: (H, W, 3) in BGR order for any
            format, which is converted to it; for L also (H, W) or (H, W, 1), and for RGBA (H, W, 4) in BGRA order.
        image_format: one of :data:`pair_detr.config.choices.IMAGE_CHANNELS`, as INPUT.FORMAT.

    Returns:
        (H, W, C) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is not an image, or truncated; the message names it.
        TypeError: ``image`` is something else.
        ValueError: an array of another shape or type, an image without pixels, or more than 8 bits per channel.
    """
    if isinstance(image, (str, Path)):
        return to_pixels(open_file(image), image_format, str(image))
    if isinstance(image, Image.Image):
        require_8_bits(image, "the image")
        return to_pixels(ImageOps.exif_transpose(image), image_format, "the image")
    if not isinstance(image, np.ndarray):
        raise TypeError(f"the image is of type {type(image).__name__}; give a path, a PIL image or a NumPy array")
    return _convert(image, image_format)


def open_file(file: str | Path) -> Image.Image:
    """The image in a file, upright; for errors see :func:`as_format`."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file: correct the path.")
    return open_image(str(path), remedy="Replace or remove the file.")


def _convert(image: np.ndarray, image_format: str) -> np.ndarray:
    is_bgr = image.ndim == 3 and image.shape[2] == 3
    is_gray = image_format == "L" and (image.ndim == 2 or image.shape[2:] == (1,))
    is_bgra = image_format == "RGBA" and image.shape[2:] == (4,)
    if not (is_bgr or is_gray or is_bgra):
        raise ValueError(
            f"the image has the shape {image.shape}; it must be (height, width, 3), in BGR order"
            + _OTHER_ARRAYS.get(image_format, "")
        )
    if image.dtype != np.uint8:
        raise ValueError(f"the image has the type {image.dtype}; it must be uint8, 0 to 255")
    if image.size == 0:
        raise ValueError(f"the image has no pixels: its shape is {image.shape}")
    if is_gray:
        return image.reshape(*image.shape[:2], 1)
    if is_bgra:
        return image[:, :, [2, 1, 0, 3]]
    if image_format == "BGR":
        return image
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    return rgb if image_format == "RGB" else to_pixels(Image.fromarray(rgb), image_format, "the image")
