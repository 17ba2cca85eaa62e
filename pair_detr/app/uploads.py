"""Images that visitors of the page send, which may be anything."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pair_detr.images.reading import open_image, opened_image

# Of photographs of the largest cameras; one pixel takes 3 bytes, and in the model's float copies more.
MAX_PIXELS = 50_000_000
# Sides of the picture that the page shows, and in whose pixels it draws.
_SHOWN_SIDE = 1600
_REMEDY = "Choose another file."


@dataclass(frozen=True)
class Upload:
    """An image that can be detected in.

    Attributes:
        image: upright, of any mode with 8 bits per channel.
        note: what of the file was left out, "" if nothing was.
    """

    image: Image.Image
    note: str

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height to draw it in: its own, unless it is larger than a screen."""
        scale = min(1.0, _SHOWN_SIDE / max(self.image.size))
        return tuple(max(1, round(side * scale)) for side in self.image.size)


def read_upload(path: str) -> Upload:
    """Reads a file that was uploaded.

    Raises:
        OSError: it is no image, or damaged; the message has the name of the file without its folder.
        ValueError: it has too many pixels, or more than 8 bits per channel.
    """
    try:
        with opened_image(path, "an image", _REMEDY) as header:
            width, height = header.size
            frames = getattr(header, "n_frames", 1)
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{path} has {width} x {height} pixels: the page takes up to {MAX_PIXELS // 10**6} million. Make it "
                "smaller."
            )
        image = open_image(path, _REMEDY)
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise OSError(f"{Path(path).name} is no image, or of a kind that is not read. {_REMEDY}") from error
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(without_folders(str(error), path)) from error
    return Upload(image, f"Only the first of its {frames} images was looked at." if frames > 1 else "")


def without_folders(message: str, *paths: str) -> str:
    """A message in which files of this machine are named without the folders that they are in."""
    for path in filter(None, paths):
        message = message.replace(path, Path(path).name)
    return message
