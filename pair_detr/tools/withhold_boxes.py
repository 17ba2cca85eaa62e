"""Turns the boxes of some classes into image labels: ``python -m pair_detr.tools.withhold_boxes``."""

from collections.abc import Sequence
from pathlib import Path

from pair_detr.data.datasets.withhold import as_image_labels, category_ids, read_annotations, without_boxes
from pair_detr.tools.common import add_overwrite_argument, parse, run, tool_logger, tool_parser
from pair_detr.utils.outputs import require_outputs, write_marked_json

logger = tool_logger("withhold_boxes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Writes OUTPUT_boxes.json, the annotations without the boxes of some classes, and "
        "OUTPUT_image_labels.json, the images that show these classes with labels in place of all boxes. Both keep all "
        "categories. Register them with FORMAT coco and FORMAT image_labels.",
        "withhold_boxes instances_train.json withheld --classes WBC,Platelets",
    )
    parser.add_argument("input", metavar="INPUT.json", help="annotations in COCO's format")
    parser.add_argument("output", metavar="OUTPUT", help="path of the files to write, without their endings")
    parser.add_argument("--classes", required=True, help="names of the classes to withhold, separated by commas")
    parser.add_argument(
        "--all-labels",
        action="store_true",
        help="label these images with all the classes that they show, not with the withheld ones alone",
    )
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    outputs = [Path(f"{args.output}_{part}.json") for part in ("boxes", "image_labels")]
    require_outputs(outputs, "OUTPUT", overwrite=args.overwrite, inputs=[Path(args.input)])
    content = read_annotations(args.input)
    try:
        withheld = category_ids(content, [name.strip() for name in args.classes.split(",")])
    except ValueError as error:
        raise ValueError(f"--classes: {error} (of {args.input}).") from error
    labels = {category["id"] for category in content["categories"]} if args.all_labels else withheld
    boxes, images = without_boxes(content, withheld), as_image_labels(content, labels, shown=withheld)
    for output, part in zip(outputs, (boxes, images), strict=True):
        write_marked_json(part, output)
    logger.info(
        "%s_boxes.json: %d of %d boxes; %s_image_labels.json: %d of %d images",
        args.output,
        len(boxes["annotations"]),
        len(content["annotations"]),
        args.output,
        len(images["images"]),
        len(content["images"]),
    )


if __name__ == "__main__":
    run(main)
