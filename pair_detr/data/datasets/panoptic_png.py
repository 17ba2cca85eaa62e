"""PNG files of panoptic data: the segment, or the class of stuff, of each pixel."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pair_detr.images.reading import map_headers, opened_image, require_8_bits

# Ids have as many bits as the colors of a pixel.
MAX_SEGMENT_ID = 256**3 - 1
_COLORS = ("RGB", "RGBA")
_PALETTE = ("P", "PA")
_ONE_CHANNEL = ("L", "LA", "1", "I", "I;16", "I;16B", "I;16L")
_REMEDY = (
    "Write ids as colors (id = R + 256 G + 256^2 B, as in COCO's files), or as the values of one channel of 8 or 16 "
    "bits."
)


class PngHeader(NamedTuple):
    """What a file says before its pixels are decoded: Pillow's name of their kind, and (width, height)."""

    mode: str
    size: tuple[int, int]


def read_headers(files: Sequence[str]) -> list[PngHeader | None]:
    """The header of each file; None for one that cannot be read."""
    return map_headers(files, lambda image: PngHeader(image.mode, image.size))


def holds_colors(header: PngHeader) -> bool:
    """Whether the ids of segments are colors, as in COCO's files, so that panopticapi can read them."""
    return header.mode in _COLORS


def mode_fault(mode: str) -> str | None:
    """Says why pixels of this kind cannot tell segments apart; None if they can."""
    if mode in (*_COLORS, *_PALETTE, *_ONE_CHANNEL):
        return None
    return f"has pixels of mode {mode}, which cannot tell segments apart. {_REMEDY}"


def rgb_to_id(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colors of a panoptic PNG file to (H, W) int32 ids of segments: R + 256 G + 256^2 B."""
    return pixels.astype(np.int32) @ np.array([1, 256, 256**2], dtype=np.int32)


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """The reverse of :func:`rgb_to_id`."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)


def read_segment_ids(file: str, expected: Collection[int]) -> np.ndarray:
    """Reads the segment of each pixel.

    Ids are the colors of the pixels or, in a file with one channel, their values. A palette may be that of the colors
    that are ids, or of colors to look at, so that the number of a color is the id: what fits the segments better
    counts. One-channel files may also have come from a program that makes gray pictures smaller.

    Returns:
        (H, W) int32; 0 is usually no segment.

    Raises:
        OSError: it cannot be read; the message names it.
        ValueError: its pixels are of a kind that cannot tell segments apart.
    """
    image = _open(file)
    if (fault := mode_fault(image.mode)) is not None:
        raise ValueError(f"{file} {fault}")
    if image.mode in _COLORS:
        return _colors(image)
    readings: tuple[Callable[[Image.Image], np.ndarray], ...] = (_values,)
    if image.mode in _PALETTE:
        readings = (_colors, _values)
    elif image.mode in ("L", "LA"):
        readings = (_values, _colors)
    wanted = np.array(list(expected), dtype=np.int64)
    # The first of equals.
    return max((read(image) for read in readings), key=lambda ids: np.isin(wanted, ids).sum())


def read_stuff(file: str, dtype: Any = np.uint8) -> np.ndarray:
    """Reads the (H, W) classes of stuff of the separated form: the values of one channel, or of a palette.

    Raises:
        OSError: it cannot be read; the message names it.
        ValueError: its pixels have several channels, which differ.
    """
    image = _open(file)
    if image.mode in (*_PALETTE, *_ONE_CHANNEL):
        return _values(image).astype(dtype)
    channels = np.asarray(image)
    if image.mode not in _COLORS or (channels[..., :3] != channels[..., :1]).any():
        raise ValueError(
            f"{file} has pixels of mode {image.mode}, which are no classes of stuff. Write the class of a pixel as the "
            "value of one channel."
        )
    return channels[..., 0].astype(dtype)


def _open(file: str) -> Image.Image:
    with opened_image(
        file, "a picture of segments", "Restore the file, or remove its image from the dataset."
    ) as image:
        try:
            if image.mode in _COLORS:
                # Of 16 bits Pillow would read the upper 8, which are other ids.
                require_8_bits(image, file)
            image.load()
        except ValueError as error:
            raise OSError(str(error)) from error
        return image


def _colors(image: Image.Image) -> np.ndarray:
    return rgb_to_id(np.asarray(image.convert("RGB")))


def _values(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.int32)
