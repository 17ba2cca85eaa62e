"""From an entry of a data set to the input of the model."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from pair_detr.data.augmentation import build_augmentation


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper with DETR's augmentation.

    Maps a dict of the standard format to one with ``image``, a (3, H, W) uint8 tensor, and in training ``instances``
    with ``gt_boxes`` (xyxy in pixels of the augmented image, clipped to it) and ``gt_classes``. Crowds, and boxes that
    the crop leaves empty, are not among them. ``file_name``, ``image_id``, ``height`` and ``width`` (of the original
    image) stay.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        augmentations = build_augmentation(cfg, is_train)
        return super().from_config(cfg, is_train) | {"augmentations": augmentations}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one entry, which stays unchanged.

        Raises:
            OSError: the image cannot be read; the message names the file.
            SizeMismatchError: it is of another size than its annotations say; the message names the file.
        """
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            # Detectron2's message names the file and both sizes.
            raise SizeMismatchError(
                f"{error} It is <size> in Pascal VOC's XML, width and height of images in COCO's JSON, of the image "
                "turned as its EXIF data say; the boxes must be those of the turned image, too."
            ) from error
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            # All that Pillow raises for a file that is missing, truncated or not an image.
            raise OSError(
                f"{dataset_dict['file_name']} cannot be read as an image ({type(error).__name__}: {error}). Remove it "
                "from the data set or replace the file."
            ) from error
