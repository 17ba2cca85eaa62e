"""Lists all that is wrong with data sets: ``python -m pair_detr.tools.check_dataset NAME ...``."""

import argparse
import logging
import sys

from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from pair_detr.config_files import load_config
from pair_detr.data import check_dataset, load_dataset, register_from_config
from pair_detr.data.validation import unreadable_images

# Run as a program, the module's own name is __main__, which no logger is set up for.
logger = logging.getLogger("pair_detr.tools.check_dataset")


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 1 if training would stop at one of the data sets.
    """
    parser = argparse.ArgumentParser(description="Lists missing images, unknown classes and degenerate boxes.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="registered data set")
    parser.add_argument("--config-file", help="config whose DATASETS.REGISTER registers the data sets")
    parser.add_argument("--open-images", action="store_true", help="also read every image, which takes its time")
    args = parser.parse_args(arguments)
    setup_logger(name="pair_detr")
    if args.config_file:
        register_from_config(load_config(args.config_file))
    trainable = True
    for name in args.names:
        try:
            report = check_dataset(name)
        except (KeyError, OSError, ValueError) as error:
            # The text of a KeyError is the repr of its message.
            logger.error("%s: cannot be loaded: %s", name, error.args[0] if isinstance(error, KeyError) else error)
            trainable = False
            continue
        for title, items in (
            ("missing image", report.missing_files),
            ("unknown class", report.unknown_classes),
            ("dropped", report.degenerate),
            ("more than once", report.duplicate_files),
        ):
            for item in items:
                logger.info("%s: %s: %s", report.name, title, item)
        sound = report.trainable
        if args.open_images:
            for problem in unreadable_images(tqdm(load_dataset(name), desc=name, disable=None)):
                logger.info("%s: unreadable image: %s", name, problem)
                sound = False
        trainable = trainable and sound
        verdict = "can be trained on" if sound else "cannot be trained on"
        if sound and not args.open_images:
            verdict += " if its images can be read (--open-images)"
        logger.info("%s: %d images, %d boxes: %s", report.name, report.num_images, report.num_boxes, verdict)
    return 0 if trainable else 1


if __name__ == "__main__":
    sys.exit(main())
