"""Makes the open-vocabulary datasets of generated shapes: ``python -m pair_detr.tools.make_open_shapes``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pair_detr.data import datasets_root
from pair_detr.data.datasets.open_shapes import NUM_PHOTOS, NUM_TRAIN, NUM_VAL, TEXTS, make_open_shapes
from pair_detr.data.datasets.shape_classes import HOLDOUTS, Holdout
from pair_detr.open_vocabulary import UnnamedClassesError, Vocabulary, read_class_list, require_output
from pair_detr.open_vocabulary.shape_texts import random_word_texts, texts_from_words, unrelated_texts
from pair_detr.tools.common import add_overwrite_argument, output_file, parse, run, tool_logger, tool_parser

logger = tool_logger("make_open_shapes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool.

    Raises:
        FileExistsError: a folder or file exists, and may not be replaced.
        ValueError: a number is too small, or text weights have no row for a word.
    """
    args = parse(_parser(), arguments)
    holdouts = [HOLDOUTS[name] for name in dict.fromkeys(args.holdout)]
    if args.texts_output and len(holdouts) > 1:
        raise ValueError("--texts-output is one file, and each holdout has its own classes: give one --holdout.")
    folders = [Path(args.output).expanduser() / holdout.name for holdout in holdouts]
    outputs = [args.texts_output or folder / TEXTS for folder in folders]
    for output in outputs:
        require_output(output, args.overwrite)
    # Before the images, which take longer and need no files of others.
    texts = [_texts(holdout, args) for holdout in holdouts]
    for holdout, folder, vocabulary, output in zip(holdouts, folders, texts, outputs, strict=True):
        made = make_open_shapes(folder, holdout, args.train, args.photos, args.val)
        state = "made" if made else "there already, nothing to do"
        counts = f"{args.train} images with boxes, {args.photos} photos, {args.val} validation images"
        logger.info("%s in %s: %s", counts, folder, state)
        _save(vocabulary, output, args)


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Makes the datasets open_shapes_NAME_train_boxes, _train_image_labels and _val: shapes in colors and textures, "
        "with boxes of some classes and image labels of the others; and text weights for their classes.",
        "make_open_shapes --holdout shape",
        "make_open_shapes --holdout color --words-from lvis_v1_clip_a+cname.npy --words-vocabulary lvis "
        "--texts-output datasets/open_shapes/color/texts_clip.npy",
    )
    parser.add_argument(
        "--holdout", nargs="+", choices=tuple(HOLDOUTS), default=list(HOLDOUTS), help="what is new in the novel classes"
    )
    default = datasets_root() / "open_shapes"
    parser.add_argument("--output", default=str(default), metavar="FOLDER", help="with a folder for each holdout")
    parser.add_argument("--train", type=int, default=NUM_TRAIN, metavar="N", help="images with boxes")
    parser.add_argument("--photos", type=int, default=NUM_PHOTOS, metavar="N", help="images with labels")
    parser.add_argument("--val", type=int, default=NUM_VAL, metavar="N", help="validation images")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--texts",
        choices=("words", "unrelated"),
        help="a random direction for each word, of which classes are composed (the default), or for each class",
    )
    kind.add_argument(
        "--words-from", metavar="FILE", help="compose the classes of rows of these text weights, a .npy file"
    )
    parser.add_argument("--words-vocabulary", help="names of its rows, if no .json file next to it tells; such as lvis")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random directions (default: 0)")
    parser.add_argument(
        "--texts-output", type=output_file(".npy"), metavar="FILE", help=f"to write (default: {TEXTS} in the folder)"
    )
    add_overwrite_argument(parser)
    return parser


def _texts(holdout: Holdout, args: argparse.Namespace) -> Vocabulary:
    if args.words_from:
        names = list(read_class_list(args.words_vocabulary)) if args.words_vocabulary else None
        try:
            return texts_from_words(holdout, Vocabulary.load(args.words_from, names))
        except UnnamedClassesError as error:
            raise ValueError(
                f"The classes of the {error.count} text weights in {args.words_from} are not known: name them with "
                "--words-vocabulary, such as lvis."
            ) from error
    make = unrelated_texts if args.texts == "unrelated" else random_word_texts
    return make(holdout, args.seed or 0)


def _save(vocabulary: Vocabulary, output: Path, args: argparse.Namespace) -> None:
    """Writes text weights; others for the same classes stay, unless the arguments say which are wanted."""
    chosen = args.texts or args.words_from or args.seed is not None or args.texts_output or args.overwrite
    if not chosen and output.exists() and Vocabulary.load(output).names == vocabulary.names:
        logger.info("text weights that are there stay: MODEL.CLIP.TEXT_WEIGHTS %s", output)
        return
    vocabulary.save(output, args.overwrite)
    logger.info("text weights: MODEL.CLIP.TEXT_WEIGHTS %s", output)


if __name__ == "__main__":
    run(main)
