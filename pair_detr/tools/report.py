"""Writes a report about what a detector gets right and wrong: ``python -m pair_detr.tools.report``."""

import argparse
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.logger import setup_logger

from pair_detr.checkpoint.self_description import config_of
from pair_detr.data import build_test_loader
from pair_detr.data.datasets.from_config import register_from_config
from pair_detr.data.datasets.layouts import FORMATS, find_splits
from pair_detr.drawing.supervision import require_supervision
from pair_detr.evaluation.build import build_object_evaluator
from pair_detr.predictor import Predictor
from pair_detr.report.build import require_report, write_report
from pair_detr.report.content import Content, compute
from pair_detr.report.error_types import require_tidecv
from pair_detr.report.findings import find
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_model_config,
    load_predictor,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.messages import counted, join_some
from pair_detr.utils.version import __version__

logger = tool_logger("report")

# Of a folder's sets, the first that is there.
_PREFERRED = ("test", "val", "train")
_OWN = "own"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Evaluates a detector on a dataset, and writes what it gets right and wrong: a page with everything inside "
        "(report.html), its pictures as PNG files and its numbers as JSON.",
        "report --weights output/quickstart/pair_detr/model_final.pth --output report",
        "report --weights model_best.pth --data photos --output report",
    )
    add_model_arguments(parser, required=False)
    parser.add_argument(
        "--dataset", default="", metavar="NAME", help="registered dataset; by default what the model was evaluated on"
    )
    parser.add_argument(
        "--data", default="", metavar="FOLDER", help="images with boxes, as annotation programs export, instead of it"
    )
    parser.add_argument("--format", default="", choices=FORMATS, help="format of the data, if the folder has several")
    parser.add_argument("--output", type=Path, default=Path("report"), metavar="FOLDER", help="folder to write to")
    parser.add_argument(
        "--images", type=int, default=8, metavar="N", help="number of the worst images, and of the best"
    )
    parser.add_argument(
        "--confidence", type=float, metavar="SCORE", help="score from which on detections count, instead of the best"
    )
    parser.add_argument("--task", choices=("bbox", "segm"), default="bbox", help="compare boxes or masks")
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if args.images < 1:
        parser.error(f"--images {args.images}: it must be 1 or more")
    if args.confidence is not None and not 0 <= args.confidence <= 1:
        parser.error(f"--confidence {args.confidence}: it must be from 0 to 1")
    if args.data and args.dataset:
        parser.error("--data and --dataset both name the data: give one of them")
    # Detectron2 logs how far the evaluation is.
    setup_logger(name="detectron2")
    require_supervision()
    has_error_types = _has_error_types()
    require_report(args.output, args.overwrite)
    cfg = load_model_config(args)
    if args.task == "segm" and not cfg.MODEL.MASK_ON:
        raise ValueError("--task segm: the model has no masks. Leave it out to compare boxes.")
    name = _own_data(args.data, args.format) if args.data else _registered(args, cfg)
    predictor = load_predictor(args)
    origin = f"those of {predictor.cfg.MODEL.WEIGHTS}"
    evaluator, results = build_object_evaluator(predictor.cfg, name, predictor.metadata.thing_classes, origin)
    inference_on_dataset(predictor.model, build_test_loader(predictor.cfg, name), evaluator)
    if args.task not in results.evaluations:
        raise ValueError(f'"{name}" has no masks to compare with. Leave out --task segm to compare boxes.')
    content = compute(results.evaluations[args.task], results.class_names, args.confidence, has_error_types)
    page = write_report(content, results.images, _about(name, args.task, predictor), args.output, args.images)
    logger.info("%s The report is %s: open it in a browser.", _summary(content), page)


def _summary(content: Content) -> str:
    """What the cards of the page say; without detections or objects, why they say nothing."""
    chosen = content.at_threshold()
    if math.isnan(chosen["precision"]) or math.isnan(chosen["recall"]):
        return find(content)[0]
    return (
        f"AP {content.total.ap:.1f}, AP50 {content.total.ap50:.1f}. From a score of {chosen['threshold']:.2f} on, "
        f"{chosen['precision']:.0%} of the detections are correct, and they find {chosen['recall']:.0%} of the objects."
    )


def _has_error_types() -> bool:
    try:
        require_tidecv()
    except ImportError as error:
        logger.warning("%s", error)
        return False
    return True


def _registered(args: argparse.Namespace, cfg: CfgNode) -> str:
    """Registers the datasets of the config, or of the training of the weights, and chooses one."""
    if not cfg.DATASETS.TEST and not args.config_file:
        cfg = config_of(args.weights, args.opts, datasets=True)
    register_from_config(cfg)
    name = args.dataset or next(iter(cfg.DATASETS.TEST), "")
    if not name:
        raise ValueError("There is no dataset: name one with --dataset, or a folder with --data.")
    if name not in DatasetCatalog.list():
        known = join_some([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN], 10)
        raise ValueError(
            f"--dataset {name}: there is no such dataset. The config names {known or 'none'}; for data in a folder use "
            "--data."
        )
    return name


def _own_data(folder: str, only: str) -> str:
    """Registers what is in a folder; the set for tests, or else for validation, or else all of it."""
    try:
        splits = find_splits(str(Path(folder).expanduser().resolve()), only)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"--data: {error}") from error
    entries = [{"NAME": f"{_OWN}_{split}" if splits.keys() - {split} else _OWN, **x} for split, x in splits.items()]
    cfg = CfgNode({"DATASETS": {"REGISTER": entries}})
    register_from_config(cfg)
    names = [entry["NAME"] for entry in entries]
    chosen = next((name for part in _PREFERRED if (name := f"{_OWN}_{part}") in names), names[0])
    logger.info("The report is on %s of %s.", chosen, folder)
    return chosen


def _about(name: str, task: str, predictor: Predictor) -> dict[str, str]:
    cfg = predictor.cfg
    classes = len(predictor.metadata.thing_classes)
    return {
        "dataset": name,
        "weights": str(cfg.MODEL.WEIGHTS),
        "model": f"{cfg.MODEL.DETR.VARIANT}, {counted(classes, 'class', 'classes')}",
        "compared": "masks" if task == "segm" else "boxes",
        "precision of the computation": cfg.TEST.PRECISION,
        "made": f"{date.today().isoformat()} by pair_detr {__version__}",
    }


if __name__ == "__main__":
    run(main)
