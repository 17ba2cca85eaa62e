"""What image files must not be: pipes, which would be waited for, and pixels that lose most of their bits unnoticed."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, TiffTags

_BITS_PER_SAMPLE = next(tag for tag, info in TiffTags.TAGS_V2.items() if info.name == "BitsPerSample")
# Before the tiles of a JPEG 2000 image: the start of its codestream, and of the marker that describes it.
_CODESTREAM = b"\xff\x4f\xff\x51"
_SEARCHED_BYTES = 65536
# From there to the number of components, and to the depth of the first; each takes so many bytes.
_COMPONENTS, _DEPTH, _COMPONENT = 40, 42, 3


def require_regular_file(file: str | Path) -> None:
    """Makes sure that opening a file returns at once, as it does not with a pipe that nobody writes to.

    Args:
        file: path, where links are followed; one of nothing is left to the reader to complain about.

    Raises:
        OSError: it is something else than a file.
    """
    path = Path(file)
    if path.exists() and not path.is_file():
        raise OSError(f"{file} is a folder, a pipe or a device, not a file")


def require_8_bits(image: Image.Image, name: str) -> None:
    """Makes sure that an image has at most 8 bits a channel.

    Of colours with 16 bits Pillow keeps the upper 8, which are next to nothing where a camera fills the lower 12 alone;
    grey it would clip at 255, so that almost everything is white.

    Args:
        image: as ``Image.open`` returns it; once its pixels are loaded, their depth in the file is not known any more.
        name: of the image, for the message.

    Raises:
        ValueError: it has more.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        found = f"mode {image.mode}"
    elif (bits := _bits_in_file(image)) > 8:
        found = f"{image.format} of {bits} bits"
    else:
        return
    raise ValueError(f"{name} has more than 8 bits a channel ({found}): scale it to 0..255 and save it with 8 bits.")


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
