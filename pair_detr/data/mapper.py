"""From an entry of a data set to the input of the model."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BitMasks
from fvcore.transforms.transform import CropTransform
from PIL import Image

from pair_detr.data.augmentation import build_augmentation
from pair_detr.data.masks import compressed
from pair_detr.data.panoptic import annotate


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper with DETR's augmentation, for boxes, for masks, and for panoptic data in both of their forms.

    Maps a dict of the standard format to one with ``image``, a (3, H, W) uint8 tensor, and in training ``instances``
    with ``gt_boxes`` (xyxy in pixels of the augmented image, clipped to it) and ``gt_classes``. Crowds, and boxes that
    the crop leaves empty, are not among them. ``file_name``, ``image_id``, ``height`` and ``width`` (of the original
    image) stay.

    With MODEL.MASK_ON they have ``gt_masks``, too: ``BitMasks`` (n, H, W), whatever they are annotated as and
    whatever INPUT.MASK_FORMAT says. A mask is drawn in the original image and follows its pixels from there on, as in
    DETR. An instance whose mask becomes empty is left out, and one in a cropped image has the box of what is left of
    its mask. For segments of panoptic data see :mod:`pair_detr.data.panoptic`.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        augmentations = build_augmentation(cfg, is_train)
        options = super().from_config(cfg, is_train)
        return options | {"augmentations": augmentations, "instance_mask_format": "bitmask"}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one entry, which stays unchanged.

        Raises:
            OSError: the image cannot be read; the message names the file.
            SizeMismatchError: it is of another size than its annotations say; the message names the file.
        """
        if self.is_train:
            dataset_dict = annotate(dataset_dict, masks=self.use_instance_mask)
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

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        if self.use_instance_mask:
            for annotation in dataset_dict["annotations"]:
                if not annotation.get("iscrowd", 0):
                    annotation["segmentation"] = compressed(
                        annotation["segmentation"], dataset_dict["height"], dataset_dict["width"]
                    )
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        if not self.use_instance_mask:
            return
        instances = dataset_dict["instances"]
        if not instances.has("gt_masks"):
            instances.gt_masks = BitMasks(torch.zeros(0, *image_shape, dtype=torch.bool))
        if _is_cropped(transforms):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()


def _is_cropped(transforms: T.TransformList) -> bool:
    return any(
        _is_cropped(t) if isinstance(t, T.TransformList) else isinstance(t, CropTransform)
        for t in transforms.transforms
    )
