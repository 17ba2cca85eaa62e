"""Shows which query is responsible for which object: ``python -m pair_detr.tools.explain_matching``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.data.transforms import ScaleTransform, TransformList

from pair_detr.analysis.matching_report import report_matching
from pair_detr.data import load_dataset
from pair_detr.data.checks.trainable import validate
from pair_detr.images.inputs import as_format
from pair_detr.predictor import Predictor
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_predictor,
    output_file,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.messages import counted, one_line
from pair_detr.utils.outputs import require_outputs, write_marked_json, writing
from pair_detr.visualization.matching_figure import draw_matching

logger = tool_logger("explain_matching")


def find_image(dataset: str, image: str) -> dict[str, Any]:
    """The entry of a dataset's image, by file name, id or position.

    Raises:
        KeyError, OSError, ValueError: the dataset cannot be loaded, has no such image, or the image has no objects.
    """
    records = validate(dataset, load_dataset(dataset))
    named = [r for r in records if image in (r["file_name"], Path(r["file_name"]).name, str(r["image_id"]))]
    if not named and image.removeprefix("#").isdigit() and image.startswith("#"):
        named = records[int(image[1:]) :][:1]
    if not named:
        example = Path(records[0]["file_name"]).name
        raise ValueError(
            f'--image {image}: "{dataset}" has no such image among its {len(records)}. Give a file name such as '
            f'{example}, an image id, or a position from "#0" to "#{len(records) - 1}".'
        )
    if not any(not annotation.get("iscrowd", 0) for annotation in named[0]["annotations"]):
        raise ValueError(f"{named[0]['file_name']} has no objects to match: choose another image.")
    return named[0]


def prepare(predictor: Predictor, record: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The model's input for an image with its objects, without augmentation.

    Raises:
        ValueError: an object is of a class that the model does not have.
    """
    item = predictor.prepare(record["file_name"])
    size = item["image"].shape[-2:]
    scale = TransformList([ScaleTransform(item["height"], item["width"], *size)])
    # Boxes and classes alone: masks play no part in the matching.
    objects = [
        # Detectron2's transforms would round the coordinates of integer boxes.
        {"bbox": list(map(float, a["bbox"])), "bbox_mode": a["bbox_mode"], "category_id": a["category_id"]}
        for a in record["annotations"]
        if not a.get("iscrowd", 0)
    ]
    instances = annotations_to_instances([transform_instance_annotations(a, scale, size) for a in objects], size)
    names, known = MetadataCatalog.get(dataset).thing_classes, predictor.metadata.thing_classes
    if not predictor.model.class_agnostic:
        index = {name: i for i, name in enumerate(known)}
        if unknown := sorted({names[c] for c in instances.gt_classes.tolist()} - index.keys()):
            raise ValueError(
                f'{record["file_name"]} of "{dataset}" has objects of {", ".join(unknown)}, which the model does not '
                f"know ({', '.join(known[:5])}, ...): choose a dataset with its classes."
            )
        instances.gt_classes = torch.tensor([index[names[c]] for c in instances.gt_classes.tolist()])
    return item | {"instances": instances, "file_name": record["file_name"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "For an image with annotated objects: the cost of each object with each query, which query the matching chose, "
        "and how much its class, its L1 distance and its GIoU contribute. Writes a PNG, and the numbers as JSON next "
        "to it; prints a table.",
        "explain_matching --config-file quickstart --weights output/quickstart/pair_detr/model_final.pth "
        "--image 000000.png --output matching.png",
    )
    add_model_arguments(parser)
    parser.add_argument("--dataset", metavar="NAME", help="registered; without it, the first of DATASETS.TEST")
    parser.add_argument("--image", default="#0", metavar="IMAGE", help="file name, image id or #POSITION")
    parser.add_argument(
        "--output", type=output_file(".png"), default="matching.png", metavar="FILE", help="PNG to write"
    )
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    numbers = args.output.with_suffix(".json")
    require_outputs([args.output, numbers], overwrite=args.overwrite)
    predictor = load_predictor(args)
    dataset = args.dataset or next(iter(predictor.datasets), None)
    if dataset is None:
        raise ValueError("The config names no dataset: name one with --dataset.")
    record = find_image(dataset, args.image)
    report = report_matching(predictor.model, prepare(predictor, record, dataset))
    names = list(predictor.metadata.thing_classes)
    objects, queries = counted(len(report.labels), "object"), counted(report.cost.shape[1], "query", "queries")
    title = f"{Path(record['file_name']).name}: {objects}, {queries}"
    figure = draw_matching(as_format(record["file_name"], "RGB"), report, names, title)
    with writing(args.output) as temporary:
        figure.savefig(temporary, dpi=100)
    write_marked_json(
        {
            "image": record["file_name"],
            "matches": report.rows(names),
            "terms": dict(zip(("class", "l1", "giou"), report.terms.tolist(), strict=True)),
        },
        numbers,
    )
    logger.info(
        "%s\n%s\nPicture: %s; numbers: %s", title, report.table(list(map(one_line, names))), args.output, numbers
    )


if __name__ == "__main__":
    run(main)
