"""What the figures of images share."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle


def draw_box(axis: Axes, box: np.ndarray, color: object, linewidth: float = 2, linestyle: str = "-") -> None:
    """Outlines a box, (4,) xyxy in pixels."""
    x1, y1, x2, y2 = box
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=linewidth, linestyle=linestyle)
    )


def frame_image(axis: Axes, image: np.ndarray) -> None:
    """Shows the pixels of an image, (H, W, ...), and nothing around them, whatever else is drawn."""
    axis.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
