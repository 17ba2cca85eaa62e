"""What the evaluation of panoptic data needs beside Detectron2's evaluators."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from PIL import Image
from pycocotools.cocoeval import COCOeval

from pair_detr.data.catalog import panoptic_classes
from pair_detr.data.json_files import read_json


class ThingsEvaluator(COCOEvaluator):
    """Detectron2's evaluator for data sets with stuff: it evaluates things alone, as COCO's AP does.

    Detections and annotations of stuff are left out.
    """

    def __init__(self, dataset_name: str, **options: Any) -> None:
        super().__init__(dataset_name, **options)
        self._num_things = sum(panoptic_classes(dataset_name).is_thing)
        # panopticapi converts segments of stuff to annotations, too.
        things, content = self._metadata.thing_dataset_id_to_contiguous_id, self._coco_api.dataset
        content["categories"] = [category for category in content["categories"] if category["id"] in things]
        if "annotations" in content:
            content["annotations"] = [a for a in content["annotations"] if a["category_id"] in things]
        # pycocotools prints.
        with redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As Detectron2's."""
        detections = [output["instances"] for output in outputs]
        super().process(inputs, [{"instances": x[x.pred_classes < self._num_things]} for x in detections])

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        # In the standard form thing_classes are all classes.
        return super()._derive_coco_results(coco_eval, iou_type, class_names and class_names[: self._num_things])


def read_classes(file: str, dtype: Any) -> np.ndarray:
    """(H, W) classes of a PNG file of the separated form; Detectron2's own function fails with NumPy 2."""
    with Image.open(file) as image:
        return np.array(image, dtype=dtype)


def require_panoptic_quality(name: str) -> None:
    """Makes sure that the panoptic quality of a data set can be computed.

    Raises:
        ImportError: panopticapi is not installed.
        FileNotFoundError: its file or folder of ground truth does not exist.
        ValueError: it shows no thing, or no stuff, so that one of the means would be over nothing; or the file lacks
            something that is needed.
    """
    if find_spec("panopticapi") is None:
        raise ImportError(
            f'The panoptic quality of {name} is computed by panopticapi: run "pip install --no-deps '
            'panopticapi-lite==0.2.0", the same code under another name, or install it from '
            "github.com/cocodataset/panopticapi. To do without, set MODEL.DETR.PANOPTIC.ENABLED to False.",
            name="panopticapi",
        )
    classes = panoptic_classes(name)
    metadata = MetadataCatalog.get(name)
    file, folder = metadata.get("panoptic_json"), metadata.get("panoptic_root")
    if not file or not folder:
        raise ValueError(f'{name} has no panoptic_json and panoptic_root in its metadata; set TEST.EVALUATOR "coco".')
    for path, exists in ((file, Path(file).is_file()), (folder, Path(folder).is_dir())):
        if not exists:
            raise FileNotFoundError(f'Test set "{name}": {path} does not exist. Restore it, or correct the path.')
    if not sum(classes.is_thing) < len(classes.is_thing):
        raise ValueError(f'{name} has no classes of stuff: set TEST.EVALUATOR "coco".')
    things = metadata.thing_dataset_id_to_contiguous_id
    kinds = set()
    for annotation in read_json(file)["annotations"]:
        for segment in annotation["segments_info"]:
            if missing := [key for key in ("area", "iscrowd") if key not in segment]:
                raise ValueError(
                    f"{file}: segment {segment['id']} of image {annotation['image_id']} has no {', '.join(missing)}, "
                    "which panopticapi needs. Add it to all segments."
                )
            if not segment["iscrowd"]:
                kinds.add(segment["category_id"] in things)
    for kind, what in ((True, "thing"), (False, "stuff")):
        if kind not in kinds:
            raise ValueError(
                f"{file} has no segment of any {what} class, for which panopticapi cannot compute a panoptic quality. "
                f"Add images to {name} that show some, or set MODEL.DETR.PANOPTIC.ENABLED to False."
            )
