"""Prints the requirements of the installed pair_detr, development ones included, that its environment lacks.

One a line, on standard output. A package that is there in another version stays as its owner has it: it is not printed,
and a warning says so. Run by scripts/install.py in the environment in question.
"""

import logging
import sys
from importlib import metadata

# Part of every pip, where `packaging` itself may be missing.
from pip._vendor.packaging.requirements import Requirement

logger = logging.getLogger("install")


def missing(lines: list[str]) -> list[str]:
    """Those of the requirements (PEP 508) that no installed package has the name of."""
    absent = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "dev"}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            absent.append(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            logger.warning("keeping %s %s, though pair_detr asks for %s", requirement.name, version, requirement)
    return absent


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.stdout.writelines(f"{line}\n" for line in missing(metadata.requires("pair_detr") or []))
