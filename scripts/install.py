"""Builds or completes the environment that the Makefile's targets run in (`make help` tells how to choose it).

Runs before anything is installed: the standard library only.

An environment that has Detectron2 is the user's: nothing in it changes version, missing packages are added. Any other
gets the versions pinned in requirements/.
"""

import argparse
import importlib.util
import logging
import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PACKAGE = f"{ROOT}[dev]"
# Marks an environment whose versions follow requirements/, so that changed pins are applied to it.
PINNED_MARKER = ".pair_detr-pinned"
# First release that makes an editable wheel without the `wheel` package.
OFFLINE_BUILD_SETUPTOOLS = (70, 1)

logger = logging.getLogger("install")


class Environment:
    """A Python environment, new or existing.

    Args:
        path: its folder, the one with ``bin/python``; created where it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.python = self.path / "bin" / "python"

    def create(self) -> None:
        # Debian ships venv without ensurepip; add_pip() takes pip from this interpreter then.
        venv.create(self.path, symlinks=True, with_pip=importlib.util.find_spec("ensurepip") is not None)

    def evaluate(self, code: str) -> str:
        """Standard output of a Python statement run in the environment, "" if it fails."""
        # -P would be safer than an empty working directory, but came with Python 3.11.
        with tempfile.TemporaryDirectory() as empty:
            done = subprocess.run([self.python, "-c", code], cwd=empty, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def has_detectron2(self) -> bool:
        return self.evaluate("import torch, torchvision, detectron2; print(detectron2.__version__)") != ""

    def pip_install(self, *arguments: str | Path) -> None:
        run(self.python, "-m", "pip", "install", "--disable-pip-version-check", *arguments)

    def add_pip(self) -> None:
        if not self.evaluate("import pip; print(pip.__version__)"):
            run(sys.executable, "-m", "pip", "--python", self.python, "install", "pip")

    def add_packages_of_this_interpreter(self) -> None:
        """Makes what the running interpreter has installed importable, in second place.

        ``--system-site-packages`` would do for a system's Python, but skips the packages of a virtual environment.
        """
        folders = [p for p in [*site.getsitepackages(), site.getusersitepackages()] if p in sys.path]
        calls = "; ".join(f"site.addsitedir({folder!r})" for folder in folders)
        target = Path(self.evaluate("import sysconfig; print(sysconfig.get_path('purelib'))"))
        (target / "pair_detr_base.pth").write_text(f"import site; {calls}\n", encoding="utf-8")


def run(*command: str | Path) -> None:
    logger.info("$ %s", " ".join(map(str, command)))
    subprocess.run(command, check=True)


def install_pinned(environment: Environment) -> None:
    """Installs everything in the versions of requirements/; Detectron2 last, as the sign that all is there."""
    pins = ("--constraint", REQUIREMENTS / "constraints.txt", "--no-warn-conflicts")
    environment.pip_install(*pins, "pip", "setuptools", "wheel")
    # Source packages build with the pinned setuptools, not with whatever is newest.
    packages = ("--requirement", REQUIREMENTS / "base.txt", "--editable", PACKAGE)
    environment.pip_install(*pins, "--no-build-isolation", *packages)
    wheel = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", REQUIREMENTS / "detectron2.txt"]
    if environment.evaluate("import sys; print(sys.version_info >= (3, 11))") == "True":
        # The wheel's compiled part is for Python 3.10; later versions skip it and take the Python files.
        platlib = environment.evaluate("import sysconfig; print(sysconfig.get_path('platlib'))")
        wheel += ["--python-version", "3.10", "--implementation", "cp", "--upgrade", "--target", platlib]
    environment.pip_install(*wheel)


def install_missing(environment: Environment) -> None:
    """Adds what the package lacks, and changes the version of nothing that is there."""
    listing = subprocess.run(
        [environment.python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    present = [line for line in listing.splitlines() if not line.startswith(("pair_detr==", "pair-detr=="))]
    versions = environment.evaluate("import setuptools; print(setuptools.__version__)").split(".")
    isolation = []
    if len(versions) >= 2 and (int(versions[0]), int(versions[1])) >= OFFLINE_BUILD_SETUPTOOLS:
        isolation = ["--no-build-isolation"]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "present.txt"
        constraints.write_text("\n".join(present), encoding="utf-8")
        environment.pip_install("--constraint", constraints, "--no-warn-conflicts", *isolation, "--editable", PACKAGE)


def install(path: Path) -> None:
    environment = Environment(path)
    marker = environment.path / PINNED_MARKER
    if not environment.python.exists():
        environment.create()
    environment.add_pip()
    if not marker.exists() and not environment.has_detectron2():
        if importlib.util.find_spec("detectron2") is not None:
            logger.info("Using the packages of %s, as it has Detectron2.", sys.executable)
            environment.add_packages_of_this_interpreter()
        else:
            marker.touch()
    if marker.exists():
        install_pinned(environment)
    else:
        logger.info("%s has Detectron2: adding the packages that it lacks.", environment.path)
        install_missing(environment)
    if not environment.has_detectron2():
        raise RuntimeError(
            f"torch, torchvision and detectron2 cannot be imported in {environment.path}. Try "
            f"'{environment.python} -c \"import torch, torchvision, detectron2\"', or start anew: remove the folder."
        )


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, help="folder of the environment")
    # Settings that would send packages elsewhere than into the environment.
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONHOME"):
        os.environ.pop(name, None)
    try:
        install(parser.parse_args().venv)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        logger.error("make install failed: %s", error)
        return 1
    logger.info("Ready. Next: make quickstart")
    return 0


if __name__ == "__main__":
    sys.exit(main())
