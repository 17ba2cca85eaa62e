"""Mosaic: four images in one, around a point drawn at random."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from fvcore.transforms.transform import PadTransform

from pair_detr.data.annotation_masks import decode_mask, mask_bounds
from pair_detr.data.dataset_mapper import DetectionMapper
from pair_detr.data.transforms import ResizeScale

_TILES = 4
# Of the canvas where no tile reaches: Detectron2's padding.
_GRAY = 128


class MosaicMapper:
    """With probability ``INPUT.MOSAIC.PROB`` puts an image together with three others, before all other augmentation.

    The canvas has twice the sides of the first image, and is divided at a point drawn from ``CENTER_RANGE`` of them.
    Every image is resized by a factor drawn from ``SCALE_RANGE``, where 1 lets it fit into the size of the first one;
    it touches the point with a corner, and a window drawn at random is cut out of one that is larger than its quarter
    of the canvas. Boxes and masks are cut off with it; with masks, boxes are the bounds of what is left of these.
    Crowds are left out. ``mapper`` maps what results, and images that stay alone.

    Source: YOLOv4, arXiv 2004.10934, section 3.3.
    """

    def __init__(self, cfg: CfgNode, mapper: DetectionMapper, dicts: Sequence[dict[str, Any]]) -> None:
        options = cfg.INPUT.MOSAIC
        self._prob = options.PROB
        self._center_range = tuple(options.CENTER_RANGE)
        self._scale_range = tuple(options.SCALE_RANGE)
        self._mapper = mapper
        self._dicts = dicts

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one entry, which stays unchanged; output and errors are those of :class:`DetectionMapper`.

        ``file_name``, ``image_id`` and the rest are those of this entry; ``height`` and ``width`` are the canvas's.
        """
        if np.random.uniform() >= self._prob:
            return self._mapper(dataset_dict)
        others = np.random.randint(len(self._dicts), size=_TILES - 1)
        parts = [self._mapper.read(x) for x in (dataset_dict, *(self._dicts[int(i)] for i in others))]
        height, width = parts[0][0].shape[:2]
        canvas = np.full((2 * height, 2 * width, *parts[0][0].shape[2:]), _GRAY, dtype=parts[0][0].dtype)
        center = [round(side * np.random.uniform(*self._center_range)) for side in canvas.shape[:2]]
        placed = []
        for number, (image, record) in enumerate(parts):
            transforms, (top, left, tile) = self._place(image, number, center, canvas.shape[:2], (height, width))
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            bounds = [left, top, left + tile.shape[1], top + tile.shape[0]]
            placed.append(_placed(record, transforms, bounds, masks=self._mapper.use_instance_mask))
        annotations = itertools.chain.from_iterable(placed)
        merged = {**parts[0][1], "height": canvas.shape[0], "width": canvas.shape[1], "annotations": annotations}
        return self._mapper.augment(canvas, merged)

    def _place(
        self, image: np.ndarray, number: int, center: Sequence[int], canvas: tuple[int, int], unit: tuple[int, int]
    ) -> tuple[T.TransformList, tuple[int, int, np.ndarray]]:
        """Transforms from an image to the canvas; top, left and pixels of its part there."""
        below, right = divmod(number, 2)
        quarter = tuple(
            side - middle if far else middle for side, middle, far in zip(canvas, center, (below, right), strict=True)
        )
        tile = T.AugInput(image)
        resize_and_crop = [ResizeScale(*self._scale_range, *unit), T.FixedSizeCrop(quarter, pad=False)]
        transforms = T.AugmentationList(resize_and_crop)(tile)
        height, width = tile.image.shape[:2]
        top = center[0] if below else center[0] - height
        left = center[1] if right else center[1] - width
        place = PadTransform(left, top, canvas[1] - left - width, canvas[0] - top - height)
        return transforms + place, (top, left, tile.image)


def _placed(
    record: dict[str, Any], transforms: T.TransformList, bounds: Sequence[int], masks: bool
) -> Iterator[dict[str, Any]]:
    """The annotations of an image on the canvas, as far as they are within its tile (xyxy).

    With masks these are drawn one by one, as each is as large as the canvas.
    """
    for annotation in record["annotations"]:
        if annotation.get("iscrowd", 0):
            continue
        if masks:
            mask = decode_mask(annotation["segmentation"], record["height"], record["width"])
            mask = transforms.apply_segmentation(mask)
            if mask.any():
                box = {"bbox": mask_bounds(mask), "bbox_mode": BoxMode.XYXY_ABS}
                yield annotation | box | {"segmentation": mask}
            continue
        corners = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        box = transforms.apply_box(np.array([corners]))[0]
        box = np.clip(box, [*bounds[:2]] * 2, [*bounds[2:]] * 2)
        if (box[2:] > box[:2]).all():
            yield annotation | {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS}
