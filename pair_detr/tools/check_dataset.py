"""Lists all that is wrong with data sets: ``python -m pair_detr.tools.check_dataset NAME ...``."""

import argparse
import logging
import sys

from detectron2.utils.logger import setup_logger

from pair_detr.config_files import load_config
from pair_detr.data import check_dataset, register_from_config

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
        trainable = trainable and report.trainable
        verdict = "can be trained on" if report.trainable else "cannot be trained on"
        logger.info("%s: %d images, %d boxes: %s", report.name, report.num_images, report.num_boxes, verdict)
    return 0 if trainable else 1


if __name__ == "__main__":
    sys.exit(main())
