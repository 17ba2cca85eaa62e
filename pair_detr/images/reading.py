"""Image files: which they are, how large, and their pixels."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffTags

from pair_detr.utils.file_search import search_files, warn_of_hidden
from pair_detr.utils.messages import counted, join_some
from pair_detr.utils.path_manager import open_binary
from pair_detr.utils.text_files import require_regular_file

logger = logging.getLogger(__name__)

_Header = TypeVar("_Header")

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".tga", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

# Also images, but Pillow has no reader of them, or not everywhere.
_OTHER_IMAGES = frozenset({".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg"})


# Pillow converts to these from RGB alone, or nearly so.
_BY_RGB = ("HSV", "YCbCr")

# The values of EXIF's orientation that swap width and height.
_TRANSPOSED = frozenset({5, 6, 7, 8})

_READERS = 16
# All that Pillow raises for a file that is missing, truncated or not an image.
UNREADABLE = (OSError, SyntaxError, EOFError, Image.DecompressionBombError)


def find_images(folder: Path, recursive: bool = True, also: Collection[str] = ()) -> list[Path]:
    """The images in a folder, sorted; logs a warning about those that are hidden, and those of formats not read.

    Args:
        also: endings, in lower case, of other files to list.

    Raises:
        OSError: see :func:`pair_detr.utils.file_search.search_files`.
    """
    found = search_files(folder, IMAGE_SUFFIXES.union(also), recursive)
    warn_of_hidden(folder, found.hidden)
    if other := Counter(path.suffix for path in found.others if path.suffix.lower() in _OTHER_IMAGES):
        logger.warning(
            "%s: %s of formats that are not read, and left out: %s. Convert to JPEG or PNG.",
            folder,
            counted(other.total(), "image is", "images are"),
            join_some([f"{suffix} ({count})" for suffix, count in other.items()]),
        )
    return found.files


def image_sizes(files: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Width and height of each image as Detectron2 will load it, turned as its EXIF data say; None if it is none."""
    return map_headers(files, _upright_size)


def map_headers(files: Sequence[str | Path], read: Callable[[Image.Image], _Header]) -> list[_Header | None]:
    """What ``read`` makes of the header of each image; None for those that cannot be read."""

    def read_one(file: str | Path) -> _Header | None:
        try:
            require_regular_file(file)
            with Image.open(file) as image:
                return read(image)
        except (*UNREADABLE, ValueError):
            return None

    # Reading headers is waiting for the disk.
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read_one, files))


def read_pixels(file: str, image_format: str) -> np.ndarray:
    """Reads an image, turned as its EXIF data say; of any mode with 8 bits per channel.

    Returns:
        (H, W, C) uint8.

    Raises:
        OSError: it cannot be read; the message names the file.
        ValueError: it has more than 8 bits per channel.
    """
    return to_pixels(open_image(file), image_format, file)


def open_image(
    file: str, remedy: str = "Remove it from the dataset or replace the file.", content: bytes | None = None
) -> Image.Image:
    """Reads an image, turned as its EXIF data say.

    Args:
        remedy: what to do about a file that cannot be read, for the message.
        content: of a file that is elsewhere, and that messages call ``file``.

    Raises:
        OSError: it cannot be read; the message names the file.
        ValueError: it has more than 8 bits per channel.
    """
    with opened_image(file, "an image", remedy, content) as image:
        require_8_bits(image, file)
        # Loads the pixels, which may be truncated.
        return ImageOps.exif_transpose(image)


@contextmanager
def opened_image(file: str, kind: str, remedy: str, content: bytes | None = None) -> Iterator[Image.Image]:
    """Yields an image of which the header is read; the block has to load its pixels.

    ``kind``, what the file should be, and ``remedy`` are for the message; for ``content`` see :func:`open_image`.

    Raises:
        OSError: it, or a part that the block loads, cannot be read; the message names the file.
    """
    try:
        if content is None:
            require_regular_file(file)
        with open_binary(file) if content is None else BytesIO(content) as stream, Image.open(stream) as image:
            if image.format == "EPS":
                # Pillow would run Ghostscript.
                raise OSError("it is a PostScript program, which is not run; convert it to PNG where you trust it")
            yield image
    except UNREADABLE as error:
        raise OSError(f"{file} cannot be read as {kind} ({type(error).__name__}: {error}). {remedy}") from error


def to_pixels(image: Image.Image, image_format: str, name: str) -> np.ndarray:
    """Pixels of an image of any mode with 8 bits per channel.

    Args:
        image_format: one of ``IMAGE_CHANNELS``. Formats without transparency drop it, RGBA and LA take images without
            it as opaque, L and LA make colors gray.

    Returns:
        (H, W, C) uint8.

    Raises:
        ValueError: it has more than 8 bits per channel, or no pixels.
    """
    require_8_bits(image, name)
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels: its size is {image.width}x{image.height}.")
    if image_format in (*_BY_RGB, "BGR"):
        image = image.convert("RGB")
    pixels = np.asarray(image if image_format == "BGR" else image.convert(image_format))
    if image_format == "BGR":
        return pixels[:, :, ::-1]
    return pixels.reshape(*pixels.shape[:2], -1)


def to_rgb(pixels: np.ndarray, image_format: str) -> np.ndarray:
    """(H, W, C) uint8 of a format as (H, W, 3) uint8 in RGB order, to look at."""
    if image_format in ("RGB", "BGR"):
        return pixels if image_format == "RGB" else pixels[..., ::-1]
    height, width = pixels.shape[:2]
    return np.asarray(Image.frombytes(image_format, (width, height), pixels.tobytes()).convert("RGB"))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSED else (width, height)


_BITS_PER_SAMPLE = next(tag for tag, info in TiffTags.TAGS_V2.items() if info.name == "BitsPerSample")

# Before the tiles of a JPEG 2000 image: the start of its codestream, and of the marker that describes it.
_CODESTREAM = b"\xff\x4f\xff\x51"

_SEARCHED_BYTES = 65536

# From there to the number of components, and to the depth of the first; each takes so many bytes.
_COMPONENTS, _DEPTH, _COMPONENT = 40, 42, 3


def require_8_bits(image: Image.Image, name: str) -> None:
    """Makes sure that an image has at most 8 bits per channel.

    Of colors with 16 bits Pillow keeps the upper 8, which are next to nothing where a camera fills the lower 12 alone;
    gray it would clip at 255, so that almost everything is white.

    Args:
        image: as ``Image.open`` returns it; once its pixels are loaded, their depth in the file is not known any more.

    Raises:
        ValueError: it has more.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        found = f"mode {image.mode}"
    elif (bits := _bits_in_file(image)) > 8:
        found = f"{image.format} of {bits} bits"
    else:
        return
    raise ValueError(f"{name} has more than 8 bits per channel ({found}): scale it to 0..255 and save it with 8 bits.")


def _bits_in_file(image: Image.Image) -> int:
    """Bits of a channel as the header says; 8 for formats that have no more, and where it is not known."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return 8
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,)))
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(image.fp)
    arguments = image.tile[0][3]
    if image.format == "PNG":
        # "RGB;16B"
        return 16 if str(arguments).endswith("16B") else 8
    if image.format == "PPM" and isinstance(arguments, tuple):
        # The mode, and the highest value.
        return max(value for value in arguments if isinstance(value, int)).bit_length()
    return 8


def _bits_of_jpeg2000(file: Any) -> int:
    position = file.tell()
    file.seek(0)
    start = file.read(_SEARCHED_BYTES)
    file.seek(position)
    offset = start.find(_CODESTREAM)
    if offset < 0:
        return 8
    count = int.from_bytes(start[offset + _COMPONENTS : offset + _DEPTH], "big")
    depths = start[offset + _DEPTH :: _COMPONENT][:count]
    # One less, and a bit for the sign.
    return max(((depth & 0x7F) + 1 for depth in depths), default=8)
