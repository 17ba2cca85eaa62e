"""What hundreds of classes cost: ``python -m pair_detr.studies.vocabulary_size``."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from pair_detr.analysis.backends import Backend, Step
from pair_detr.analysis.speed import Timing, make_batch, measure, summarize
from pair_detr.analysis.training_steps import prepare_training
from pair_detr.config.validation import check_config
from pair_detr.config_files import load_config
from pair_detr.engine.launch import configure_cpu
from pair_detr.open_vocabulary import Vocabulary, random_text_weights
from pair_detr.tools.common import (
    describe_machine,
    image_size,
    markdown,
    parse,
    run,
    tool_logger,
    tool_parser,
    without_data,
)

logger = tool_logger("study_vocabulary_size")

_BOXES = 8
# Width of the embeddings of CLIP's ViT-B/32.
_TEXT_DIM = 512
# Config entries by what is timed.
_MODELS = {
    "classifier": (),
    "objectness": ("MODEL.CLIP.OBJECTNESS", "True"),
    **{name: ("MODEL.CLIP.QUERIES", name) for name in ("content", "position", "cross_attention")},
}


def prepare(cfg: CfgNode, vocabulary: Vocabulary, images: int, size: tuple[int, int]) -> dict[str, Step]:
    """A training step, an inference and the exchange of a vocabulary, of one model each.

    Args:
        cfg: of the model.
        vocabulary: its classes.
        images: of a batch in training; inference is of one.
        size: height and width in pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.npy"
        vocabulary.save(file)
        cfg = cfg.clone()
        cfg.MODEL.CLIP.TEXT_WEIGHTS = str(file)
        check_config(cfg)
        make_training = prepare_training(cfg, Backend("torch"))[1]
        model = build_model(cfg).eval()
    image = make_batch(1, size, 0, len(vocabulary))

    @torch.inference_mode()
    def detect() -> None:
        model(image)

    return {
        "training step": make_training(make_batch(images, size, _BOXES, len(vocabulary))),
        "inference": detect,
        "exchange": lambda: model.set_vocabulary(vocabulary.names, vocabulary.weights),
    }


def table(sizes: Sequence[int], timings: dict[str, dict[str, list[Timing]]]) -> str:
    """Markdown: by model and step, milliseconds for each number of classes, and the last to the first."""
    rows = []
    for name, by_step in timings.items():
        for step, of_sizes in by_step.items():
            last = of_sizes[-1]
            ratio = f"{last.ratio:.3f} ({last.lowest:.3f}-{last.highest:.3f})"
            rows.append([name, step, *(f"{1000 * timing.seconds:.1f}" for timing in of_sizes), ratio])
    headers = ["texts in", "", *(f"{size} classes, ms" for size in sizes), f"{sizes[-1]} to {sizes[0]} (range)"]
    return markdown(rows, headers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study."""
    parser = tool_parser(
        "Times training steps, inferences and exchanges of the vocabulary with few and with many classes, in turn.",
        "vocabulary_size --config-file quickstart --size 96x96 --images 8",
        package="pair_detr.studies",
    )
    parser.add_argument("--config-file", default="r50", metavar="FILE", help="of the model")
    parser.add_argument("--classes", nargs="+", type=int, default=[80, 1203], metavar="N", help="numbers to compare")
    models = "the classifier alone, with MODEL.CLIP.OBJECTNESS, or also in MODEL.CLIP.QUERIES"
    parser.add_argument(
        "--models", nargs="+", choices=_MODELS, default=list(_MODELS), help=f"where texts enter: {models}"
    )
    parser.add_argument("--images", type=int, default=2, metavar="N", help="of a batch in training")
    parser.add_argument("--size", type=image_size, default=(480, 640), metavar="HxW", help="of the images, in pixels")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed rounds, after 3 to warm up")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config options, as KEY VALUE ...")
    args = parse(parser, arguments)
    if min(*args.classes, args.images, args.repeats) < 1:
        parser.error("--classes, --images and --repeats must be 1 or more")
    configure_cpu(1)
    timings: dict[str, dict[str, list[Timing]]] = {}
    for name in args.models:
        cfg = load_config(args.config_file, [*_MODELS[name], *args.opts])
        vocabularies = [random_text_weights([f"class {i}" for i in range(n)], _TEXT_DIM) for n in args.classes]
        prepared = [prepare(without_data(cfg), vocabulary, args.images, args.size) for vocabulary in vocabularies]
        timings[name] = {
            step: summarize(measure([of_size[step] for of_size in prepared], args.repeats, cfg.MODEL.DEVICE))
            for step in prepared[0]
        }
    logger.info(
        "%s, %d images of %dx%d in training, one in inference; %s, %d rounds\n%s",
        args.config_file,
        args.images,
        *args.size,
        describe_machine(cfg.MODEL.DEVICE),
        args.repeats,
        table(args.classes, timings),
    )


if __name__ == "__main__":
    run(main)
