"""Pictures of a few detections after each evaluation, for TensorBoard."""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from PIL import Image
from torch import nn

from pair_detr.data import load_dataset
from pair_detr.data.dataset_mapper import DetectionMapper
from pair_detr.drawing.supervision import require_supervision

logger = logging.getLogger(__name__)

_MIN_SCORE = 0.3
# Of a picture in pixels: the files of TensorBoard hold all of them.
_LONGEST_SIDE = 800


class DetectionPictures(HookBase):
    """Draws what a model detects in the first images of the first test set, each time that it is evaluated.

    Register it between the hooks that evaluate and that write, in the first process.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        """
        Args:
            cfg: has TEST.EVAL_PERIOD, and in TEST.PICTURES the number of images.
            model: that is evaluated.
        """
        self._period = cfg.TEST.EVAL_PERIOD
        self._model = model
        self._mapper = DetectionMapper(cfg, is_train=False)
        self._dataset = cfg.DATASETS.TEST[0]
        self._images = load_dataset(self._dataset)[: cfg.TEST.PICTURES]
        # Imported here, as Matplotlib comes with it, which nothing else of a training needs.
        from pair_detr.drawing.detections import draw_detections

        self._draw_detections = draw_detections
        try:
            require_supervision()
        except ImportError as error:
            logger.info("There will be no pictures of detections. %s", error)
            self._images = []

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period and done % self._period == 0 and done != self.trainer.max_iter:
            self._draw()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._draw()

    def _draw(self) -> None:
        metadata = self._metadata()
        for record in self._images:
            with torch.no_grad(), inference_context(self._model), torch.compiler.set_stance("force_eager"):
                (outputs,) = self._model([self._mapper(record)])
            picture = self._picture(read_image(record["file_name"], "BGR"), outputs, metadata)
            self.trainer.storage.put_image(f"{self._dataset}/{record['image_id']}", picture.transpose(2, 0, 1))

    def _picture(self, image: np.ndarray, outputs: dict[str, Any], metadata: Metadata) -> np.ndarray:
        """(h, w, 3) uint8 in RGB order, of a BGR image, smaller than this if it is large."""
        instances = outputs["instances"]
        outputs = {**outputs, "instances": instances[instances.scores >= _MIN_SCORE]}
        picture = Image.fromarray(self._draw_detections(image, outputs, metadata))
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        return np.asarray(picture)

    def _metadata(self) -> Metadata:
        """The classes of the model, which the dataset may have in another order."""
        known = MetadataCatalog.get(self._dataset)
        if known.get("stuff_classes"):
            return known
        names = getattr(self._model, "class_names", None)
        return Metadata(thing_classes=names or (["object"] if self._model.num_classes == 1 else known.thing_classes))
