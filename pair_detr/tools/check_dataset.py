"""Counts classes of data sets, lists what is wrong with them: ``python -m pair_detr.tools.check_dataset NAME ...``."""

from collections.abc import Sequence

from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from tqdm import tqdm

from pair_detr.config_files import load_config
from pair_detr.data import DatasetReport, check_dataset, load_dataset, register_from_config
from pair_detr.data.panoptic_checks import absent_segments
from pair_detr.data.validation import unreadable_images
from pair_detr.tools.common import run, tool_logger, tool_parser

logger = tool_logger("check_dataset")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 1 if training would stop at one of the data sets.
    """
    parser = tool_parser(
        "Counts boxes and images of every class, and lists missing images, unknown classes, degenerate boxes, missing "
        "and malformed masks, duplicates and images without labels. Exits with 1 if training would stop at one of the "
        "data sets.",
        "check_dataset my_train my_val --config-file my.yaml --open-images",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="registered data set")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config that registers the data sets")
    parser.add_argument("--open-images", action="store_true", help="also read every image, which takes its time")
    args = parser.parse_args(arguments)
    setup_logger(name="pair_detr")
    if args.config_file:
        register_from_config(load_config(args.config_file))
    sound = [check(name, args.open_images) for name in args.names]
    return 0 if all(sound) else 1


def check(name: str, open_images: bool) -> bool:
    """Says what is in a data set and what is wrong with it; whether it can be trained on.

    Args:
        name: of the data set.
        open_images: also read every image.
    """
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
        for problem, all_of_image in absent_segments(records):
            logger.info("%s: missing segments: %s", name, problem)
            sound = sound and not all_of_image
    verdict = "can be trained on" if sound else "cannot be trained on"
    if sound and not open_images:
        verdict += " if its images can be read (--open-images)"
    if report.classes:
        logger.info("%s: classes\n%s", name, class_table(report))
    labels = report.annotation_type == "image"
    count, what = (report.num_labels, "image labels") if labels else (report.num_boxes, "boxes")
    if report.num_masks:
        what += f", {report.num_masks} of them with masks"
    logger.info("%s: %d images, %d %s: %s", name, report.num_images, count, what, verdict)
    return sound


def _log_faults(report: DatasetReport) -> None:
    # Data with boxes alone have no masks by intention.
    have_masks = report.num_masks or report.bad_masks
    for title, items in (
        ("missing mask", report.missing_masks if have_masks else ()),
        ("missing image", report.missing_files),
        ("unusable segments", report.bad_segment_files),
        ("unknown class", report.unknown_classes),
        ("dropped", report.degenerate),
        ("bad mask", report.bad_masks),
        ("more than once", report.duplicate_files),
        ("without label", report.unlabelled),
    ):
        for item in items:
            logger.info("%s: %s: %s", report.name, title, item)


def class_table(report: DatasetReport) -> str:
    """A line a class: its usable boxes, the images that have some, and the images labelled with it."""
    rows = [(name, count.boxes, count.box_images, count.labelled_images) for name, count in report.classes.items()]
    return tabulate(rows, headers=("class", "boxes", "images with boxes", "labelled images"), tablefmt="pipe")


if __name__ == "__main__":
    run(main)
