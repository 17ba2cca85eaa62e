"""torchvision's colour jitter as an augmentation of Detectron2, whose own ones leave out the hue."""

from detectron2.data import transforms as T
from PIL import Image
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F

_ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


class RandomColorJitter(T.Augmentation):
    """Changes brightness, contrast, saturation and hue at random, in random order; boxes and masks stay.

    Args:
        brightness, contrast, saturation: factors are drawn from [1 - value, 1 + value]; 0 leaves it alone.
        hue: shifts are drawn from [-value, value], in turns of the colour circle; 0.5 at most.
        image_format: order of the channels, "RGB" or "BGR".
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float, image_format: str) -> None:
        super().__init__()
        self._jitter = ColorJitter(brightness, contrast, saturation, hue)
        self._reverse = image_format == "BGR"

    def get_transform(self, image: object) -> T.Transform:
        """Draws the changes, the same for any image."""
        jitter = self._jitter
        order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        steps = [(_ADJUST[index], factors[index]) for index in order.tolist() if factors[index] is not None]

        def change(pixels: Image.Image) -> Image.Image:
            pixels = _reversed(pixels) if self._reverse else pixels
            for adjust, factor in steps:
                pixels = adjust(pixels, factor)
            return _reversed(pixels) if self._reverse else pixels

        return T.PILColorTransform(change)


def _reversed(image: Image.Image) -> Image.Image:
    return Image.merge("RGB", image.split()[::-1])
