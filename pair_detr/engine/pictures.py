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
from torch import nn

from pair_detr.data import load_dataset
from pair_detr.data.dataset_mapper import DetectionMapper

logger = logging.getLogger(__name__)

_MIN_SCORE = 0.3
# Of a picture, about, in pixels: the files of TensorBoard hold all of them.
_LONGEST_SIDE = 512


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
        try:
            # It needs OpenCV, as nothing else of a training does.
            from detectron2.utils.visualizer import Visualizer
        except ImportError as error:
            logger.info("There will be no pictures of detections, which need OpenCV: %s", error)
            self._images = []
        else:
            self._visualizer = Visualizer

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
            picture = self._picture(read_image(record["file_name"], "RGB"), outputs, metadata)
            self.trainer.storage.put_image(f"{self._dataset}/{record['image_id']}", picture.transpose(2, 0, 1))

    def _picture(self, image: np.ndarray, outputs: dict[str, Any], metadata: Metadata) -> np.ndarray:
        """(H, W, 3) uint8 in RGB order, of an image in the same format."""
        visualizer = self._visualizer(image, metadata, scale=_LONGEST_SIDE / max(image.shape[:2]))
        if "panoptic_seg" in outputs:
            segments, info = outputs["panoptic_seg"]
            return visualizer.draw_panoptic_seg(segments.cpu(), info).get_image()
        instances = outputs["instances"].to("cpu")
        return visualizer.draw_instance_predictions(instances[instances.scores >= _MIN_SCORE]).get_image()

    def _metadata(self) -> Metadata:
        """The classes of the model, which the dataset may have in another order."""
        known = MetadataCatalog.get(self._dataset)
        if known.get("stuff_classes"):
            return known
        names = getattr(self._model, "class_names", None)
        return Metadata(thing_classes=names or (["object"] if self._model.num_classes == 1 else known.thing_classes))
