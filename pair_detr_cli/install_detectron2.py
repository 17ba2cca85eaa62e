"""Installs Detectron2 for the running interpreter: ``pair-detr install-detectron2``."""

import argparse
import importlib
import logging
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pair_detr_cli.commands import PROGRAM
from pair_detr_cli.environment import Requirement, find_module, pip_install
from pair_detr_cli.pins import detectron2_wheel, requirements, requirements_file

logger = logging.getLogger("install")

_DESCRIPTION = (
    "Installs Detectron2, and the packages that it imports, for the Python of this command. Detectron2 is a wheel of "
    "its repository as of April 2024, built by a third party and pinned by its hash; nothing is compiled. Packages "
    "that are there keep their versions, and so does a Detectron2 that is there: nothing is installed then. PyTorch "
    "has to be there, as it depends on the GPU."
)


class InstallError(Exception):
    """The environment cannot be installed into; the text says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    argparse.ArgumentParser(prog=f"{PROGRAM} install-detectron2", description=_DESCRIPTION).parse_args(arguments)
    if there := find_module("detectron2"):
        logger.info(
            "Detectron2 is in %s already, and stays as it is. '%s doctor' says whether it works.", there, PROGRAM
        )
        return 0
    try:
        require_environment()
        install()
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"error: the last command above ended with status {error.returncode}.\n")
        return 1
    except InstallError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logger.info("Detectron2 is installed. Next: %s doctor", PROGRAM)
    return 0


def require_environment() -> None:
    """Makes sure that PyTorch is there, and that packages can and may be added.

    Raises:
        InstallError: otherwise.
    """
    absent = [line for line in _torch() if not Requirement.parse(line).is_met()]
    if absent:
        raise InstallError(
            f"Detectron2 needs PyTorch, which has to fit your GPU and its driver: {pip_install(*absent)} installs it "
            "for most (others: https://pytorch.org/get-started/locally). Then run this again."
        )
    if not find_module("pip"):
        raise InstallError(f"this environment has no pip: {sys.executable} -m ensurepip installs it.")
    platlib = sysconfig.get_path("platlib")
    # pip itself does not look for the mark where it is told the folder.
    managed = sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
    if managed or not os.access(platlib, os.W_OK):
        raise InstallError(
            f"{platlib} is not yours to install into. Make an environment, as in 'python3 -m venv env', and install "
            "PyTorch and pair_detr there."
        )


def install() -> None:
    """Adds what Detectron2 imports, and then Detectron2; changes the version of nothing that is there.

    Raises:
        subprocess.CalledProcessError: pip failed, and has said why.
    """
    wanted = [Requirement.parse(line) for line in requirements("base") if line not in _torch()]
    present = {dist.metadata["Name"]: dist.version for dist in reversed(list(metadata.distributions()))}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "present.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in present.items()), encoding="utf-8")
        if absent := [requirement.text for requirement in wanted if not _is_present(requirement.name)]:
            _pip("--constraint", str(constraints), *absent)
    platlib = sysconfig.get_path("platlib")
    _pip(*detectron2_wheel(requirements_file("detectron2"), sys.version_info[:2], platlib))
    importlib.invalidate_caches()


def _torch() -> list[str]:
    return [line for line in requirements("base") if Requirement.parse(line).name in ("torch", "torchvision")]


def _is_present(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    logger.info("$ %s", shlex.join(command))
    subprocess.run(command, check=True)
