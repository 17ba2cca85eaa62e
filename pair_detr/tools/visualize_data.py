"""Draws datasets, as annotated or as the model gets them: ``python -m pair_detr.tools.visualize_data NAME ...``."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from PIL import Image
from tqdm import tqdm

from pair_detr.config.validation import check_values
from pair_detr.config_files import load_config
from pair_detr.data import class_names_of, load_dataset, register_from_config
from pair_detr.data.build import SeededDataset, training_mapper
from pair_detr.data.catalog import annotation_type_of
from pair_detr.data.checks.trainable import validate
from pair_detr.data.transforms import spare_labels
from pair_detr.drawing.annotations import draw_input, draw_record
from pair_detr.drawing.supervision import require_supervision
from pair_detr.tools.common import add_overwrite_argument, parse, run, tool_logger, tool_parser
from pair_detr.utils.messages import join_some
from pair_detr.utils.outputs import require_outputs, require_writable, writing

logger = tool_logger("visualize_data")

Picture = tuple[str, Callable[[], np.ndarray]]


def select(records: Sequence[dict[str, Any]], images: Sequence[str], start: int, count: int) -> list[int]:
    """Positions of the images to draw.

    Args:
        images: ids, file names or ends of paths; none of them takes ``count`` images from ``start`` on.

    Raises:
        ValueError: an image is not among them, or there are none from ``start`` on.
    """
    if not images:
        positions = list(range(len(records)))[start:][: count or None]
        if not positions:
            raise ValueError(f"--start is {start}, but there are {len(records)} images")
        return positions
    positions = []
    for wanted in images:
        found = [i for i, record in enumerate(records) if _is(record, wanted)]
        if not found:
            known = [Path(record["file_name"]).name for record in records]
            raise ValueError(f"there is no image {wanted}, neither as id nor as file name: {join_some(known, 5)}")
        positions += found
    return positions


def annotated(name: str, records: Sequence[dict[str, Any]], positions: Sequence[int]) -> Iterator[Picture]:
    """File names of pictures, and functions that draw the annotations of a dataset."""
    names = class_names_of(name) or []
    for position in positions:
        record = records[position]
        yield _file_name(position, record), lambda record=record: draw_record(record, names)


def augmented(
    cfg: CfgNode, name: str, records: Sequence[dict[str, Any]], positions: Sequence[int], views: int, seed: int
) -> Iterator[Picture]:
    """As :func:`annotated`, for the training's input: ``views`` of each image, which differ by their random numbers."""
    cfg = cfg.clone()
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    kind = annotation_type_of(name)
    if kind == "image":
        spare_labels(cfg)
    usable = validate(name, records, masks=cfg.MODEL.MASK_ON)
    names = class_names_of(name) or []
    dataset = SeededDataset(usable, training_mapper(cfg, usable))

    def draw(position: int, view: int) -> np.ndarray:
        item = dataset[position, int(np.random.SeedSequence((seed, position, view)).generate_state(1)[0])]
        return draw_input(item, names, cfg.INPUT.FORMAT, cfg.INPUT.FIXED_SIZE, cfg.MODEL.PIXEL_MEAN)

    for position in positions:
        for view in range(views):
            file = _file_name(position, usable[position], f"_view{view}")
            yield file, lambda position=position, view=view: draw(position, view)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(
        "Draws images of datasets with their boxes, masks and labels: to see that classes, boxes and turned images "
        "are right, and with --augmented what the model is trained on. Exits with 1 if images cannot be read.",
        "visualize_data my_train --config-file my.yaml --augmented --views 4 --count 5 --output pictures",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered dataset; none takes DATASETS.TRAIN")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config that registers it, and augments")
    parser.add_argument("--augmented", action="store_true", help="draw the training's input, not the annotations")
    parser.add_argument("--views", type=int, default=1, metavar="N", help="pictures of each image with --augmented")
    parser.add_argument("--seed", type=int, default=0, help="of the augmentation; the same one draws the same pictures")
    parser.add_argument("--output", type=Path, default=Path("output/visualize_data"), help="folder to write to")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="position of the first image")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="number of images, 0 for all")
    parser.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help="ids or file names, not --start")
    add_overwrite_argument(parser)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="options; put last")
    args = parse(parser, arguments)
    if args.start < 0 or args.count < 0 or args.views < 1:
        parser.error("--start and --count must not be negative, and --views must be 1 or more")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 1 if images could not be read.
    """
    args = parse_arguments(arguments)
    require_supervision()
    require_writable(args.output)
    cfg = load_config(args.config_file, args.opts)
    check_values(cfg, "INPUT.", "DATASETS.", "SEED")
    register_from_config(cfg)
    names = args.names or list(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError("There is nothing to draw: name a dataset, or a config with DATASETS.TRAIN.")
    albums: dict[str, list[Picture]] = {}
    summaries = {}
    for name in names:
        records = load_dataset(name)
        positions = select(records, args.images, args.start, args.count)
        albums[name] = list(
            augmented(cfg, name, records, positions, args.views, args.seed)
            if args.augmented
            else annotated(name, records, positions)
        )
        summaries[name] = f"pictures of {len(positions)} of its {len(records)} images"
    files = [args.output / name / file for name, pictures in albums.items() for file, _ in pictures]
    require_outputs(files, overwrite=args.overwrite)
    unreadable = 0
    for name, pictures in albums.items():
        for file, draw in tqdm(pictures, desc=name, unit="picture", disable=None):
            try:
                picture = Image.fromarray(draw())
            except (OSError, ValueError) as error:
                logger.error("%s: %s", name, error)
                unreadable += 1
                continue
            with writing(args.output / name / file) as temporary:
                picture.save(temporary, quality=92)
        logger.info("%s: %s are in %s", name, summaries[name], args.output / name)
    if unreadable:
        logger.error("%d pictures could not be drawn.", unreadable)
    return int(unreadable > 0)


def _is(record: dict[str, Any], wanted: str) -> bool:
    file = Path(record["file_name"])
    parts = Path(wanted).parts
    return str(record.get("image_id")) == wanted or file.stem == wanted or file.parts[-len(parts) :] == parts


def _file_name(position: int, record: dict[str, Any], suffix: str = "") -> str:
    file = Path(record["file_name"])
    # A JPEG file cannot be as large as others.
    kind = ".jpg" if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
    return f"{position:06d}_{file.stem}{suffix}{kind}"


if __name__ == "__main__":
    run(main)
