"""Evaluates an exported model on the datasets of a config: ``python -m pair_detr.tools.evaluate_exported``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from pair_detr import runtime
from pair_detr.data import register_from_config
from pair_detr.deployment.evaluation import ExportedModel, require_classes
from pair_detr.engine import Trainer
from pair_detr.runtime.sessions import SESSIONS
from pair_detr.tools.common import add_model_arguments, load_model_config, run, tool_parser


def evaluate(cfg: CfgNode, folder: Path, backend: str | None = None) -> dict[str, Any]:
    """Evaluates an exported model.

    Args:
        cfg: whose DATASETS.TEST it is evaluated on.
        folder: see :func:`pair_detr.runtime.load`, also for ``backend``.

    Returns:
        Results by task and metric, in percent.

    Raises:
        ValueError: there is no dataset, or it has other classes; for others see :func:`pair_detr.runtime.load`.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name a dataset in the config, or with --opts.")
    register_from_config(cfg)
    detector = runtime.load(folder, backend)
    require_classes(detector, cfg)
    # The loader prepares images as the exported model has been told to, whatever the config says.
    own = detector.description
    cfg.INPUT.FORMAT, cfg.INPUT.FIXED_SIZE = own.image_format, list(own.resizing.within or ())
    if own.resizing.within is None:
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = own.resizing.shortest, own.resizing.longest
    # It has a precision of its own.
    cfg.TEST.PRECISION = "fp32"
    return Trainer.test(cfg, ExportedModel(detector))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Evaluates an exported model on DATASETS.TEST of a config, as train_net.py --eval-only does its checkpoint. "
        "The AP of both should be the same.",
        "evaluate_exported --config-file quickstart --model output/quickstart_onnx --opts TEST.IMS_PER_BATCH 8",
    )
    add_model_arguments(parser, weights=False)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of the exported model")
    parser.add_argument("--backend", choices=list(SESSIONS), help="that computes; the format's own if it is left out")
    args = parser.parse_args(arguments)
    evaluate(load_model_config(args), args.model, args.backend)


if __name__ == "__main__":
    run(main)
