"""The formats of results, by the names that programs have for them."""

from pair_detr.prediction.coco_results import CocoResults
from pair_detr.prediction.csv_results import CsvResults
from pair_detr.prediction.results import ResultsWriter
from pair_detr.prediction.supervision_results import SupervisionResults
from pair_detr.prediction.yolo_results import YoloResults

FORMATS: dict[str, type[ResultsWriter]] = {
    "coco": CocoResults,
    "yolo": YoloResults,
    "csv": CsvResults,
    "supervision": SupervisionResults,
}
