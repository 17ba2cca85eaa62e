"""Panoptic quality (PQ), by panopticapi."""

import itertools
import logging
import tempfile
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.evaluation.panoptic_evaluation import _print_panoptic_results
from detectron2.utils import comm
from PIL import Image

from pair_detr.data.catalog import panoptic_classes
from pair_detr.data.datasets.panoptic_classes import category_ids_of
from pair_detr.data.datasets.panoptic_png import holds_colors, id_to_rgb, read_headers, read_segment_ids
from pair_detr.data.scalars import find_id, flag_of
from pair_detr.evaluation.coco_ground_truth import number_images, require_known_images, without_prints
from pair_detr.utils.json_files import read_json, write_json
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

_READERS = 8
_NAMED = 3


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's evaluator, with a ground truth that is made of the records of a dataset.

    Images and PNG files may have any ids and names. Files whose ids are values of one channel, or numbers of a palette,
    are given to panopticapi as colors, which are all that it reads.
    """

    def __init__(self, name: str, records: Sequence[dict[str, Any]], output_dir: str | None = None) -> None:
        """As Detectron2's, which writes ``predictions.json``; a ValueError if two images have the same id."""
        super().__init__(name, output_dir)
        self._name = name
        self._records = records
        self._numbers = number_images(name, records)
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As Detectron2's; raises a ValueError if an image is not one of the dataset."""
        require_known_images(self._name, inputs, self._numbers)
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """
        Returns:
            ``{"panoptic_seg": {"PQ": ..., "SQ": ..., "RQ": ..., "PQ_th": ...}}`` in percent, for all classes, things
            (``_th``) and stuff (``_st``); empty in other processes than the first.

        Raises:
            ValueError: images have no prediction.
            OSError: a PNG file cannot be read.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return {}
        predictions = list(itertools.chain.from_iterable(gathered))
        if missing := self._numbers.keys() - {prediction["image_id"] for prediction in predictions}:
            raise ValueError(
                f'Test set "{self._name}": there are no predictions for {len(missing)} of its {len(self._numbers)} '
                f"images, which panopticapi needs: {join_some(sorted(map(repr, missing)), _NAMED)}. Predict on all."
            )
        if self._output_dir:
            self._write(predictions)
        quality = self._compare(predictions)
        _print_panoptic_results(quality)
        results = {
            f"{metric.upper()}{suffix}": 100 * quality[kind][metric]
            for kind, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
            for metric in ("pq", "sq", "rq")
        }
        return {"panoptic_seg": results}

    def _compare(self, predictions: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
        from panopticapi.evaluation import pq_compute

        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            truth_folder, found_folder = Path(folder, "truth"), Path(folder, "found")
            truth_folder.mkdir()
            found_folder.mkdir()
            found = []
            for prediction in predictions:
                number = self._numbers[prediction["image_id"]]
                # The names of images in several folders may be the same.
                (found_folder / f"{number}.png").write_bytes(prediction["png_string"])
                segments = prediction["segments_info"]
                found.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
            truth = {"categories": self._categories(), "annotations": self._truth(truth_folder)}
            files = [Path(folder, f"{name}.json") for name in ("truth", "found")]
            for file, content in zip(files, (truth, {"annotations": found}), strict=True):
                write_json(content, file)
            return without_prints(lambda: pq_compute(*map(str, files), str(truth_folder), str(found_folder)))

    def _truth(self, folder: Path) -> list[dict[str, Any]]:
        """The ground truth as panopticapi reads it, with copies of PNG files in ``folder`` where it needs them."""
        annotations = panoptic_annotations(self._name, self._records)
        for annotation in annotations:
            # panopticapi takes others to be in the folder.
            annotation["file_name"] = str(Path(annotation["file_name"]).absolute())
        headers = read_headers([annotation["file_name"] for annotation in annotations])
        colors = [header is not None and holds_colors(header) for header in headers]
        with ThreadPoolExecutor(_READERS) as readers:
            files = [folder / f"{self._numbers[annotation['image_id']]}.png" for annotation in annotations]
            completed = list(readers.map(_complete, annotations, colors, files))
        return [{**annotation, "image_id": self._numbers[annotation["image_id"]]} for annotation in completed]

    def _categories(self) -> list[dict[str, Any]]:
        classes, ids = panoptic_classes(self._name), category_ids_of(self._metadata)
        kinds = zip(ids, classes.names, classes.is_thing, strict=True)
        return [{"id": own, "name": name, "isthing": int(is_thing)} for own, name, is_thing in kinds]

    def _write(self, predictions: Sequence[dict[str, Any]]) -> None:
        file = Path(self._output_dir) / "predictions.json"
        logger.info("Saving panoptic predictions to %s", file)
        written = [{key: value for key, value in p.items() if key != "png_string"} for p in predictions]
        images = [
            {"id": r["image_id"], "file_name": r["file_name"]}
            | {key: r[key] for key in ("height", "width") if key in r}
            for r in self._records
        ]
        write_json({"images": images, "categories": self._categories(), "annotations": written}, file)


def panoptic_annotations(name: str, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Segments of a dataset in COCO's panoptic format; those of the separated form are read from ``panoptic_json``.

    Returns:
        "image_id", "file_name" (the path of the PNG file) and "segments_info" of each image: "id", "category_id" as in
        the files of the dataset, "iscrowd" and, where it is known, "area".

    Raises:
        OSError, ValueError: ``panoptic_json`` cannot be read, or lacks images.
    """
    metadata = MetadataCatalog.get(name)
    if "pan_seg_file_name" not in records[0]:
        return _separated_annotations(name, records)
    ids = category_ids_of(metadata)
    return [
        {
            "image_id": record["image_id"],
            "file_name": record["pan_seg_file_name"],
            "segments_info": [
                {**segment, "category_id": ids[segment["category_id"]], "iscrowd": int(bool(segment.get("iscrowd")))}
                for segment in record["segments_info"]
            ],
        }
        for record in records
    ]


def _separated_annotations(name: str, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    metadata = MetadataCatalog.get(name)
    file, folder = metadata.get("panoptic_json"), metadata.get("panoptic_root")
    if not file or not folder:
        raise ValueError(f'{name} has no panoptic_json and panoptic_root in its metadata; set TEST.EVALUATOR "coco".')
    for path, exists in ((file, Path(file).is_file()), (folder, Path(folder).is_dir())):
        if not exists:
            raise FileNotFoundError(f'Test set "{name}": {path} does not exist. Restore it, or correct the path.')
    ids = {record["image_id"] for record in records}
    found = read_json(file)["annotations"]
    entries: dict[Hashable, dict[str, Any]] = {find_id(entry["image_id"], ids): entry for entry in found}
    if missing := [repr(r["image_id"]) for r in records if r["image_id"] not in entries]:
        raise ValueError(
            f'Test set "{name}": {file} has no segments of {len(missing)} of its {len(records)} images: '
            f"{join_some(missing, _NAMED)}. Add them, or remove the images from the dataset."
        )
    return [
        {
            "image_id": record["image_id"],
            "file_name": str(Path(folder, entries[record["image_id"]]["file_name"])),
            "segments_info": [
                {**segment, "iscrowd": flag_of(segment.get("iscrowd")) or 0}
                for segment in entries[record["image_id"]]["segments_info"]
            ],
        }
        for record in records
    ]


def _complete(annotation: dict[str, Any], in_colors: bool, copy: Path) -> dict[str, Any]:
    """Gives a file of other than colors a copy that is, and segments without "area" the number of their pixels."""
    segments = annotation["segments_info"]
    if in_colors and all("area" in segment for segment in segments):
        return annotation
    pixels = read_segment_ids(annotation["file_name"], [segment["id"] for segment in segments])
    if not in_colors:
        Image.fromarray(id_to_rgb(pixels)).save(copy, compress_level=1)
    areas = dict(zip(*(x.tolist() for x in np.unique(pixels, return_counts=True)), strict=True))
    return {
        "image_id": annotation["image_id"],
        "file_name": annotation["file_name"] if in_colors else str(copy),
        "segments_info": [{"area": areas.get(segment["id"], 0), **segment} for segment in segments],
    }


def require_panoptic_quality(name: str, records: Sequence[dict[str, Any]]) -> None:
    """Makes sure that the panoptic quality of a dataset can be computed.

    Raises:
        ImportError: panopticapi is not installed.
        OSError: its ground truth cannot be read.
        ValueError: it shows no thing, or no stuff, so that one of the means would be over nothing; or it lacks
            something else that is needed.
    """
    if find_spec("panopticapi") is None:
        raise ImportError(
            f'The panoptic quality of {name} is computed by panopticapi: run "pip install --no-deps '
            'panopticapi-lite==0.2.0", the same code under another name, or install it from '
            'github.com/cocodataset/panopticapi. To do without, set TEST.EVALUATOR "coco", for the AP of things alone.',
            name="panopticapi",
        )
    classes = panoptic_classes(name)
    if all(classes.is_thing):
        raise ValueError(f'{name} has no classes of stuff: set TEST.EVALUATOR "coco".')
    ids = category_ids_of(MetadataCatalog.get(name))
    things = {own for own, is_thing in zip(ids, classes.is_thing, strict=True) if is_thing}
    kinds = {
        segment["category_id"] in things
        for annotation in panoptic_annotations(name, records)
        for segment in annotation["segments_info"]
        if not segment["iscrowd"]
    }
    for kind, what, remedy in (
        (True, "thing", "take it out of DATASETS.TEST"),
        (False, "stuff", 'set TEST.EVALUATOR "coco", for the AP of things alone'),
    ):
        if kind not in kinds:
            raise ValueError(
                f"{name} has no segment of any {what} class, for which panopticapi cannot compute a panoptic quality. "
                f"Add images that show some, or {remedy}."
            )
