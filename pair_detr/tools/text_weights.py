"""Makes text weights, the classes of an open-vocabulary model: ``python -m pair_detr.tools.text_weights``."""

from collections.abc import Sequence
from pathlib import Path

from pair_detr.open_vocabulary import Vocabulary, build_text_encoder, encode_classes, read_class_list, require_output
from pair_detr.tools.common import add_overwrite_argument, output_file, parse, run, tool_logger, tool_parser

logger = tool_logger("text_weights")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Makes text weights, from which an open-vocabulary model classifies: encodes class names, or takes them from "
        "other text weights. Writes a .npy file, and a .json file with the names next to it.",
        'text_weights --vocabulary "helmet,traffic cone" --checkpoint ViT-B-32.pt --output helmets.npy',
        "text_weights --vocabulary cat,dog --from coco.npy --output pets.npy",
    )
    parser.add_argument(
        "--vocabulary",
        required=True,
        help="coco, lvis, voc; objects365 or openimages (if their annotations are in DETECTRON2_DATASETS); a "
        'registered dataset, a .txt or .json file, or "cat,dog,traffic cone"; "sofa|couch" are synonyms',
    )
    parser.add_argument("--encoder", default="clip:ViT-B/32", help="clip:MODEL or open_clip:MODEL")
    parser.add_argument("--checkpoint", default="", help="the encoder's weights: TorchScript archive or state dict")
    parser.add_argument("--prompt", nargs="+", default=["a {}"], help="averaged over")
    parser.add_argument("--no-synonyms", action="store_true", help="encode the name of a class alone")
    parser.add_argument("--from", dest="source", help="take the classes from this .npy file; nothing is encoded")
    parser.add_argument("--from-vocabulary", help="names of its rows, if no .json file next to it tells")
    parser.add_argument("--output", required=True, type=output_file(".npy"), help="the .npy file to write")
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    require_output(args.output, args.overwrite)
    if args.source and Path(args.source).resolve() == args.output.resolve():
        raise ValueError(f"--output: {args.output} is the file that --from names; choose another name.")
    classes = read_class_list(args.vocabulary)
    if args.source:
        names = list(read_class_list(args.from_vocabulary)) if args.from_vocabulary else None
        vocabulary = Vocabulary.load(args.source, names).select(list(classes))
    else:
        encoder = build_text_encoder(args.encoder, args.checkpoint)
        vocabulary = encode_classes(encoder, classes, args.prompt, use_synonyms=not args.no_synonyms)
    vocabulary.save(args.output, args.overwrite)
    logger.info("%d classes x %d written to %s", len(vocabulary), vocabulary.dim, args.output)


if __name__ == "__main__":
    run(main)
