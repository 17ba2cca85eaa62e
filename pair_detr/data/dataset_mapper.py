"""From an entry of a dataset to the input of the model."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    SizeMismatchError,
    annotations_to_instances,
    check_image_size,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BitMasks
from fvcore.transforms.transform import CropTransform

from pair_detr.data.annotation_masks import decode_mask
from pair_detr.data.datasets.panoptic_masks import draw_segment_masks
from pair_detr.data.transforms import ChannelPermutation, build_augmentation
from pair_detr.images.reading import read_pixels


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper with DETR's augmentation, for boxes, for masks, and for panoptic data in both of their forms.

    Maps a dict of the standard format to one with ``image``, a (3, H, W) uint8 tensor, and in training ``instances``
    with ``gt_boxes`` (xyxy in pixels of the augmented image, clipped to it) and ``gt_classes``. Crowds, and boxes that
    the crop leaves empty, are not among them. ``file_name``, ``image_id``, ``height`` and ``width`` (of the original
    image) stay; ``unclassified`` says whether the colors were exchanged, so that the classes are not to be learned.

    With MODEL.MASK_ON they also have ``gt_masks``: ``BitMasks`` (n, H, W), whatever they are annotated as and
    whatever INPUT.MASK_FORMAT says. A mask is drawn in the original image and follows its pixels from there on, as in
    DETR. An instance whose mask becomes empty is left out, and one in a cropped image has the box of what is left of
    its mask. For segments of panoptic data see :mod:`pair_detr.data.datasets.panoptic_masks`.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        augmentations = build_augmentation(cfg, is_train)
        options = super().from_config(cfg, is_train)
        return options | {"augmentations": augmentations}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one entry, which stays unchanged; for errors see :meth:`read`."""
        return self.augment(*self.read(dataset_dict))

    def read(self, dataset_dict: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """The (H, W, C) pixels of an entry, and a copy of it, with size and, in training, complete annotations.

        These may be drawn as they are iterated over: once.

        Raises:
            OSError: the image cannot be read; the message names the file.
            ValueError: it has more than 8 bits per channel.
            SizeMismatchError: it is of another size than its annotations say; the message names the file.
        """
        record = copy.deepcopy(dataset_dict)
        if self.is_train:
            record = draw_segment_masks(record, masks=self.use_instance_mask)
        image = read_pixels(record["file_name"], self.image_format)
        try:
            check_image_size(record, image)
        except SizeMismatchError as error:
            # Detectron2's message names the file and both sizes.
            raise SizeMismatchError(
                f"{error} It is <size> in Pascal VOC's XML, width and height of images in COCO's JSON, of the image "
                "turned as its EXIF data say; the boxes must also be those of the turned image."
            ) from error
        return image, record

    def augment(self, image: np.ndarray, record: dict[str, Any]) -> dict[str, Any]:
        """The model's input made of :meth:`read`'s, or of what was put together from several; the record is changed."""
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        # A copy: Pillow's arrays cannot be written to, which torch warns of.
        record["image"] = torch.from_numpy(np.array(augmented.image.transpose(2, 0, 1), order="C"))
        if self.is_train:
            record["unclassified"] = _contains(transforms, ChannelPermutation)
            self._transform_annotations(record, transforms, augmented.image.shape[:2])
        else:
            for key in ("annotations", "sem_seg_file_name"):
                record.pop(key, None)
        return record

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        # Detectron2's takes no masks that are decoded.
        objects = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0):
                continue
            segmentation = annotation.pop("segmentation", None)
            annotation.pop("keypoints", None)
            objects.append(transform_instance_annotations(annotation, transforms, image_shape))
            if self.use_instance_mask:
                mask = decode_mask(segmentation, dataset_dict["height"], dataset_dict["width"])
                annotation["segmentation"] = transforms.apply_segmentation(mask)
        instances = filter_empty_instances(annotations_to_instances(objects, image_shape, "bitmask"))
        if self.use_instance_mask:
            if not instances.has("gt_masks"):
                instances.gt_masks = BitMasks(torch.zeros(0, *image_shape, dtype=torch.bool))
            if _contains(transforms, CropTransform):
                instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = instances


def _contains(transforms: T.TransformList, kind: type[T.Transform]) -> bool:
    return any(
        _contains(t, kind) if isinstance(t, T.TransformList) else isinstance(t, kind) for t in transforms.transforms
    )
