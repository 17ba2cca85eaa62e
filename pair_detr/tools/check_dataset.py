"""Counts classes of datasets, lists what is wrong with them: ``python -m pair_detr.tools.check_dataset NAME ...``."""

import logging
from collections.abc import Sequence
from itertools import combinations, product

from detectron2.data import MetadataCatalog
from tabulate import tabulate
from tqdm import tqdm

from pair_detr.config_files import load_config
from pair_detr.data import check_dataset, datasets_in_label_space, load_dataset, register_from_config
from pair_detr.data.checks.report import DatasetReport
from pair_detr.data.checks.same_images import same_files
from pair_detr.data.checks.segment_files import absent_segments
from pair_detr.data.checks.sizes import describe_sizes
from pair_detr.data.checks.trainable import unreadable_images
from pair_detr.data.model_classes import compare_classes
from pair_detr.tools.common import parse, run, tool_logger, tool_parser
from pair_detr.utils.messages import counted, join_some, one_line

logger = tool_logger("check_dataset")

# Of what is no fault by itself, so many are listed.
_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 1 if training would stop at one of the datasets, or at the classes of two of them.
    """
    parser = tool_parser(
        "Counts boxes, crowds and images of every class, and lists missing images, unknown classes, invalid boxes, "
        "crowds, missing and malformed masks, duplicates and images without objects or labels, and sizes of images "
        "and boxes. Compares the classes of all datasets with those of the first, and looks for images that are in "
        "two of them. Exits with 1 if training would stop at one of the "
        "datasets, or at the classes of two of them.",
        "check_dataset my_train my_val --config-file my.yaml --open-images",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="registered dataset; without one, all in DATASETS.TRAIN and TEST"
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="config that registers the datasets")
    parser.add_argument("--open-images", action="store_true", help="also read every image, which takes its time")
    args = parse(parser, arguments)
    names, free = args.names, set()
    if args.config_file:
        cfg = load_config(args.config_file)
        register_from_config(cfg)
        names = names or list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
        # Their classes need not be those of the first.
        free = set(names) if cfg.MODEL.DETR.CLASS_AGNOSTIC else {*cfg.DATASETS.TRAIN} - {*datasets_in_label_space(cfg)}
    if not names:
        parser.error("name datasets, or a config whose DATASETS.TRAIN and TEST do, with --config-file")
    sound = [check(name, args.open_images) for name in names]
    log_same_images([name for name, is_sound in zip(names, sound, strict=True) if is_sound])
    sound += [compare(names[0], name) for name in names[1:] if name not in free]
    return 0 if all(sound) else 1


def check(name: str, open_images: bool) -> bool:
    """Says what is in a dataset and what is wrong with it; whether it can be trained on."""
    try:
        report = check_dataset(name)
    except (KeyError, OSError, ValueError, ImportError) as error:
        # The text of a KeyError is the repr of its message.
        logger.error("%s: cannot be loaded: %s", name, error.args[0] if isinstance(error, KeyError) else error)
        return False
    sound = report.trainable
    _log_faults(report)
    if open_images:
        records = load_dataset(name)
        for problem in unreadable_images(tqdm(records, desc=name, disable=None)):
            logger.info("%s: unreadable image: %s", name, problem)
            sound = False
        for absent in absent_segments(records):
            logger.info("%s: missing segments: %s", name, absent.text)
            report.num_masks -= absent.num_objects
            sound = sound and not absent.are_all
    if report.annotation_type == "box" and not report.num_boxes:
        images = counted(report.num_images, "image")
        logger.error("%s: there is no usable box in its %s: draw some, or remove the set.", name, images)
    verdict = "can be trained on" if sound else "cannot be trained on"
    if sound and not open_images:
        verdict += " if its images can be read (--open-images)"
    if report.classes:
        logger.info("%s: classes\n%s", name, class_table(report))
    _log_sizes(report)
    logger.info("%s: %s: %s", name, report.describe(), verdict)
    return sound


def log_same_images(names: Sequence[str]) -> None:
    """Says which images of data sets are there more than once, in one of them or in two, by what is in their files."""
    owners: dict[str, set[str]] = {}
    for name in names:
        for record in load_dataset(name):
            owners.setdefault(record["file_name"], set()).add(name)
    groups = same_files(owners)
    alone = owners.keys() - {file for group in groups for file in group}
    within: dict[str, list[str]] = {}
    between: dict[tuple[str, str], list[str]] = {}
    for first, *others in [*groups, *([file] for file in sorted(alone))]:
        for pair in combinations([name for name in names if name in owners[first]], 2):
            between.setdefault(pair, []).append(first)
        for other in others:
            for a, b in product(sorted(owners[first]), sorted(owners[other])):
                pairs = within.setdefault(a, []) if a == b else between.setdefault((a, b), [])
                pairs.append(f"{first} = {other}")
    for name, pairs in within.items():
        logger.warning(
            "%s: %s the content of another image, as where an archive was unpacked twice: %s.",
            name,
            counted(len(pairs), "image has", "images have"),
            join_some(pairs),
        )
    for (name, other), pairs in between.items():
        if {name, other} & {MetadataCatalog.get(part).get("split_of") for part in (name, other)}:
            # A whole and its part.
            continue
        logger.warning(
            "%s and %s share %s: %s. A result on images that were trained on says little.",
            name,
            other,
            counted(len(pairs), "image"),
            join_some(pairs),
        )


def compare(first: str, name: str) -> bool:
    """Says how the classes of a dataset differ from those of the first; whether a run may use both."""
    difference = compare_classes(first, name)
    if difference is None:
        return True
    logger.log(logging.ERROR if difference.stops else logging.INFO, "%s: classes: %s", name, difference.text)
    return not difference.stops


def _log_sizes(report: DatasetReport) -> None:
    for line in describe_sizes(load_dataset(report.name), report.faulty_boxes).splitlines():
        logger.info("%s: %s", report.name, line)
    if report.annotation_type == "box" and report.num_boxes:
        empty = [one_line(name) for name, count in report.classes.items() if not count.boxes]
        if empty:
            logger.info("%s: no boxes of: %s", report.name, join_some(empty))


def _log_faults(report: DatasetReport) -> None:
    # Data with boxes alone have no masks by intention.
    have_masks = report.num_masks or report.bad_masks
    for title, items in (
        ("missing mask", report.missing_masks if have_masks else ()),
        ("missing image", report.missing_files),
        ("unusable segments", report.bad_segment_files),
        ("unknown class", report.unknown_classes),
        ("dropped", report.invalid_boxes),
        ("bad mask", report.bad_masks),
        ("more than once", report.duplicate_files),
        ("without label", report.unlabeled),
    ):
        for item in items:
            logger.info("%s: %s: %s", report.name, title, item)
    if report.bad_masks:
        logger.info(
            "%s: bad masks: an object without a usable mask is left out, with its box, where MODEL.MASK_ON is True; "
            "else its box is trained on.",
            report.name,
        )
    if report.missing_hint:
        logger.info("%s: missing images: %s", report.name, report.missing_hint)
    # Good data also have many of these.
    for title, items in (
        ("crowd", report.crowds),
        ("without objects", report.without_objects),
        ("crowds alone", report.crowds_alone),
        ("unusable boxes alone", report.unusable_alone),
    ):
        for item in items[:_SHOWN]:
            logger.info("%s: %s: %s", report.name, title, item)
        if len(items) > _SHOWN:
            logger.info("%s: %s: and %d more", report.name, title, len(items) - _SHOWN)


def class_table(report: DatasetReport) -> str:
    """A line per class: its usable boxes, the images that have some, its crowds, and the images labeled with it.

    Where there are objects that Pascal VOC calls difficult, it says how many of the boxes these are.
    """
    headers = ["class", "boxes", "images with boxes", "crowds", "labeled images"]
    rows = [[one_line(name), x.boxes, x.box_images, x.crowds, x.labeled_images] for name, x in report.classes.items()]
    if report.num_difficult:
        headers.insert(2, "of them difficult")
        for row, count in zip(rows, report.classes.values(), strict=True):
            row.insert(2, count.difficult)
    return tabulate(rows, headers=headers, tablefmt="pipe")


if __name__ == "__main__":
    run(main)
