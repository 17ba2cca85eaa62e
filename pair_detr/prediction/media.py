"""Images and videos by file, folder and glob; frames in and out of videos."""

import logging
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image

from pair_detr.images.downloads import download_image, is_url
from pair_detr.images.inputs import open_file
from pair_detr.images.reading import IMAGE_SUFFIXES, find_images
from pair_detr.prediction.opencv import require_opencv
from pair_detr.utils.file_search import is_hidden, match_files
from pair_detr.utils.outputs import is_made_here

logger = logging.getLogger(__name__)

_VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
_DEFAULT_FPS = 25.0


# A file, or an address of the web.
Source = Path | str


def is_video(source: Source) -> bool:
    """Whether a file is a video, by its name; what an address leads to is an image."""
    return isinstance(source, Path) and source.suffix.lower() in _VIDEOS


def open_source(source: Source) -> Image.Image:
    """The image of a source, upright; an OSError or a ValueError says in a line why there is none."""
    return open_file(source) if isinstance(source, Path) else download_image(source)


def find_media(
    inputs: Sequence[str], recursive: bool = False, allow_urls: bool = False, output: Path | None = None
) -> list[Source]:
    """Images and videos that are named, lie in folders that are named, or match patterns such as "photos/**/*.jpg".

    A file that is named is taken at its word. Of folders and patterns, other files are left out, and so are hidden ones
    (see :func:`pair_detr.utils.file_search.search_files`) unless a pattern asks for them.

    Args:
        inputs: what is named.
        recursive: of folders, also what lies in the folders in them.
        allow_urls: also take addresses of images in the web.
        output: of folders and patterns, pictures that the program has made in this folder are left out: an earlier
            run's are no inputs of the next.

    Raises:
        FileNotFoundError: an input names nothing.
        ValueError: it is an address, which are not allowed.
    """
    files: dict[Source, None] = {}
    for text in inputs:
        if is_url(text):
            if not allow_urls:
                raise ValueError(f"--input {text}: it is an address; to download what it leads to, add --allow-urls.")
            files[text] = None
            continue
        path = Path(text).expanduser()
        if path.is_dir():
            found = _without_outputs(find_images(path, recursive, also=_VIDEOS), output)
            remedy = "it has no images or videos" + (
                "" if recursive else "; --recursive also takes those of its folders"
            )
        elif path.is_file():
            found, remedy = [path], ""
        elif path.exists():
            raise FileNotFoundError(f"--input {text}: it is a pipe or a device, not a file; name an image or a video.")
        else:
            found = _without_outputs(_matches(path), output)
            remedy = "there is no such file or folder, and no image or video matches it; correct the path"
        if not found:
            raise FileNotFoundError(f"--input {text}: {remedy}.")
        files.update(dict.fromkeys(found))
    return list(files)


def _without_outputs(files: list[Path], output: Path | None) -> list[Path]:
    if output is None:
        return files
    folder = output.resolve()
    kept = [file for file in files if not (file.resolve().is_relative_to(folder) and is_made_here(file))]
    if len(kept) < len(files):
        logger.info("Left out what an earlier run has drawn in %s (%d).", output, len(files) - len(kept))
    return kept


def _matches(pattern: Path) -> list[Path]:
    media = [file for file in match_files(pattern) if file.suffix.lower() in IMAGE_SUFFIXES | _VIDEOS]
    asked_for = [part for part in pattern.parts if is_hidden(part)]
    found = [
        file
        for file in media
        if all(any(fnmatch(part, asked) for asked in asked_for) for part in filter(is_hidden, file.parts))
    ]
    if len(found) < len(media):
        logger.warning("%s: left out hidden files that match it (%d).", pattern, len(media) - len(found))
    return found


class Frames:
    """Frames of a video or a webcam: iterate over it for (H, W, 3) uint8 arrays in BGR order.

    Attributes:
        expected: number of frames as the file says; None if it doesn't, as a webcam.
        fps: frames a second.
    """

    def __init__(self, source: Path | int) -> None:
        """``source`` is a file, or the number of a webcam.

        Raises:
            OSError: it cannot be opened.
            ImportError: OpenCV is not installed.
        """
        cv2 = require_opencv()
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"{source} does not exist or is no file: correct the path.")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            if isinstance(source, int):
                raise OSError(f"There is no webcam {source}, or another program uses it: connect one, or give --input.")
            raise OSError(f"{source} cannot be read as a video: replace it, or convert it to MP4.")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.expected = count if count > 0 else None
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else _DEFAULT_FPS

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                is_there, frame = self._capture.read()
                if not is_there:
                    return
                yield frame
        finally:
            self._capture.release()


class VideoFile:
    """An MP4 file that is written frame by frame; its size is that of the first."""

    def __init__(self, file: Path, fps: float) -> None:
        self._file = file
        self._fps = fps
        self._writer = None

    def write(self, frame: np.ndarray) -> None:
        """Appends an (H, W, 3) uint8 frame in RGB order."""
        cv2 = require_opencv()
        height, width = (side - side % 2 for side in frame.shape[:2])  # The codec has no odd sizes.
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._file), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(
                    "No video can be written: this OpenCV has no codec for MP4. Install opencv-python-headless anew, "
                    "or leave out pictures and videos with --no-pictures."
                )
        self._writer.write(np.ascontiguousarray(frame[:height, :width, ::-1]))

    def close(self) -> None:
        """Completes the file."""
        if self._writer is not None:
            self._writer.release()
