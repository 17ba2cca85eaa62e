"""A small dataset to try recipes with: handwritten digits on photographs, ``python -m pair_detr.studies.digits``.

The digits are scikit-learn's (1,797 of 8x8 pixels, from the UCI repository), the photographs one's own.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pair_detr.images.reading import IMAGE_SUFFIXES
from pair_detr.tools.common import parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import MARK, require_outputs

logger = tool_logger("study_digits")

_WIDTH, _HEIGHT = 320, 240
_SIDES = (20, 70)
_MOST_DIGITS = 8
# Opacity of what counts as a part of a digit.
_INK = 0.3
# Of scikit-learn's digits, those on images to train on.
_TRAINING_DIGITS = 1200
_CLASSES = [str(digit) for digit in range(10)]


def make_digits(photos: Sequence[Path], output: Path, split: str, count: int, rng: np.random.Generator) -> None:
    """Writes images and labels of a split in YOLO's layout.

    Args:
        photos: files to take backgrounds from.
        output: folder to write ``<split>/images`` and ``<split>/labels`` to.
        split: "train" or "valid"; they share no digit.
        count: number of images.
        rng: of all random choices.
    """
    for kind in ("images", "labels"):
        (output / split / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        canvas, labels = _draw(Path(photos[rng.integers(len(photos))]), split, rng)
        Image.fromarray(canvas).save(output / split / "images" / f"{number:04d}.jpg", quality=95)
        (output / split / "labels" / f"{number:04d}.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")


@lru_cache
def _load_digits() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits are scikit-learn's: pip install scikit-learn") from error
    return load_digits()


def _draw(photo: Path, split: str, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    digits = _load_digits()
    numbers = range(_TRAINING_DIGITS) if split == "train" else range(_TRAINING_DIGITS, len(digits.target))
    canvas = np.array(_crop(photo, rng), np.float32)
    labels = []
    for x, y, side in _places(rng):
        number = rng.choice(numbers)
        ink = Image.fromarray((digits.images[number] * (255 / 16)).astype(np.uint8)).resize((side, side), Image.BICUBIC)
        opacity = np.asarray(ink, np.float32)[..., None] / 255
        area = canvas[y : y + side, x : x + side]
        area[:] = area * (1 - opacity) + rng.integers(0, 256, 3) * opacity
        rows, columns = (np.flatnonzero((opacity[..., 0] > _INK).any(axis)) for axis in (1, 0))
        x, y, width, height = x + columns[0], y + rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1
        cxcywh = (x + width / 2) / _WIDTH, (y + height / 2) / _HEIGHT, width / _WIDTH, height / _HEIGHT
        labels.append(" ".join([str(digits.target[number]), *(f"{value:.6f}" for value in cxcywh)]))
    return canvas.round().astype(np.uint8), labels


def _crop(photo: Path, rng: np.random.Generator) -> Image.Image:
    image = Image.open(photo).convert("RGB")
    scale = max(_WIDTH / image.width, _HEIGHT / image.height)
    image = image.resize((max(_WIDTH, round(image.width * scale)), max(_HEIGHT, round(image.height * scale))))
    x, y = rng.integers(image.width - _WIDTH + 1), rng.integers(image.height - _HEIGHT + 1)
    return image.crop((x, y, x + _WIDTH, y + _HEIGHT))


def _places(rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Squares that do not touch: left, top and side in pixels."""
    taken: list[tuple[int, int, int]] = []
    wanted = rng.integers(1, _MOST_DIGITS + 1)
    while len(taken) < wanted:
        side = int(rng.integers(*_SIDES, endpoint=True))
        x, y = int(rng.integers(_WIDTH - side)), int(rng.integers(_HEIGHT - side))
        if all(x + side <= a or a + other <= x or y + side <= b or b + other <= y for a, b, other in taken):
            taken.append((x, y, side))
            yield x, y, side


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool.

    Raises:
        FileNotFoundError: a folder has no photographs.
        ImportError: scikit-learn is not installed.
    """
    parser = tool_parser(
        "Makes a dataset of handwritten digits on photographs, in YOLO's layout.",
        "digits --train-photos photos/train --val-photos photos/val --output data/digits",
        package="pair_detr.studies",
    )
    parser.add_argument("--train-photos", type=Path, required=True, metavar="FOLDER", help="of the training set")
    parser.add_argument("--val-photos", type=Path, required=True, metavar="FOLDER", help="of the validation set")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="to write")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=100, metavar="N", help="validation images")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices")
    args = parse(parser, arguments)
    _load_digits()
    file = args.output / "data.yaml"
    require_outputs([file])
    for number, (split, folder, count) in enumerate(
        (("train", args.train_photos, args.train), ("valid", args.val_photos, args.val))
    ):
        photos = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not photos:
            raise FileNotFoundError(f"{folder} has no photographs: name a folder with images in it.")
        make_digits(photos, args.output, split, count, np.random.default_rng([args.seed, number]))
    content = {"train": "train/images", "val": "valid/images", "names": _CLASSES}
    file.write_text(f"# {MARK}\n{yaml.safe_dump(content, sort_keys=False)}", encoding="utf-8")
    logger.info("%d training and %d validation images are in %s.", args.train, args.val, args.output)


if __name__ == "__main__":
    run(main)
