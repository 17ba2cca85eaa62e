"""What size images are resized to: the arithmetic of Detectron2's transforms, which Pillow then carries out."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Resizing:
    """How images are brought to the size of a model; either of two ways.

    Attributes:
        shortest: pixels of the shorter side afterwards, 0 to keep the size.
        longest: at most so many of the longer side.
        within: height and width that the image is made to fit into as large as possible, and is then padded to; None
            for the other way.
    """

    shortest: int = 0
    longest: int = 0
    within: tuple[int, int] | None = None

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, at least a pixel each, that an image is resized to."""
        if self.within is not None:
            scale = min(self.within[0] / height, self.within[1] / width)
            resized = np.round(np.multiply((height, width), scale)).astype(int)
        elif self.shortest == 0:
            return height, width
        else:
            # Step by step as Detectron2 does it: another order of the products rounds otherwise.
            scale = self.shortest / min(height, width)
            sides = (self.shortest, scale * width) if height < width else (scale * height, self.shortest)
            if max(sides) > self.longest:
                scale = self.longest / max(sides)
                sides = sides[0] * scale, sides[1] * scale
            resized = [int(side + 0.5) for side in sides]
        return max(int(resized[0]), 1), max(int(resized[1]), 1)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8 -> (h, w, C) uint8, interpolated as Detectron2's ``ResizeTransform`` does."""
        height, width = self.size_of(*pixels.shape[:2])
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)
