"""Builds or completes the environment that the Makefile's targets run in (`make help` tells how to choose it).

Runs before anything is installed: the standard library only, and what of the checkout needs no more.

An environment that has Detectron2 is the user's: nothing in it changes version, missing packages are added. Any other
gets the versions pinned in requirements/.
"""

import argparse
import importlib.util
import logging
import re
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pair_detr_cli.pins import detectron2_wheel, hash_pinned  # noqa: E402  (it lies in the checkout)

REQUIREMENTS = ROOT / "requirements"
# Marks an environment whose versions follow requirements/, so that changed pins are applied to it.
PINNED_MARKER = ".pair_detr-pinned"
# First setuptools that makes an editable wheel by itself; with an older one pip fetches a newer one for the build.
BUILD_SETUPTOOLS = (70, 1)

logger = logging.getLogger("install")


class Environment:
    """A Python environment, new or existing.

    Args:
        path: its folder, the one with ``bin/python``; created where it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.python = self.path / "bin" / "python"

    def create(self, with_pip: bool) -> None:
        venv.create(self.path, symlinks=True, with_pip=with_pip)

    def output(self, *arguments: str | Path, stderr: int | None = None) -> str:
        """What the environment's Python, started with these arguments, writes to standard output."""
        # In an empty folder, so that `-c` and `-m` import nothing from the one that the user is in.
        with tempfile.TemporaryDirectory() as empty:
            return subprocess.run(
                [self.python, *arguments], cwd=empty, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True
            ).stdout.strip()

    def evaluate(self, code: str) -> str:
        """What a Python statement prints in the environment, "" if it fails."""
        try:
            return self.output("-c", code, stderr=subprocess.DEVNULL)
        except subprocess.CalledProcessError:
            return ""

    def has_detectron2(self) -> bool:
        return self.evaluate("import torch, torchvision, detectron2; print(detectron2.__version__)") != ""

    def pip_install(self, *arguments: str | Path) -> None:
        run(self.python, "-m", "pip", "install", "--disable-pip-version-check", *arguments)

    def add_pip(self) -> None:
        if not self.evaluate("import pip; print(pip.__version__)"):
            run(sys.executable, "-m", "pip", "--python", self.python, "install", "pip")

    def share_packages_of_this_interpreter(self) -> None:
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
    packages = ("--requirement", REQUIREMENTS / "base.txt", "--editable", f"{ROOT}[dev,app]")
    environment.pip_install(*pins, "--no-build-isolation", *packages)
    install_without_dependencies(environment)
    install_detectron2(environment)


def install_detectron2(environment: Environment) -> None:
    file = REQUIREMENTS / "detectron2.txt"
    name, version = re.search(r"^([\w-]+)==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE).groups()
    if environment.evaluate(f"from importlib import metadata; print(metadata.version({name!r}))") == version:
        return
    version = environment.evaluate("import sys; print(*sys.version_info[:2])")
    platlib = environment.evaluate("import sysconfig; print(sysconfig.get_path('platlib'))")
    environment.pip_install(*detectron2_wheel(file, tuple(map(int, version.split())), platlib))


def install_without_dependencies(environment: Environment) -> None:
    """Installs packages that ask for what must not be there, unless they are there, from wherever."""
    for name in ("panopticapi", "lvis", "tidecv", "trackers"):
        if not environment.evaluate(f"from importlib.util import find_spec; print(find_spec({name!r}) or '')"):
            environment.pip_install(*hash_pinned(REQUIREMENTS / f"{name}.txt"))


def install_missing(environment: Environment) -> None:
    """Adds what the package lacks, and changes the version of nothing that is there."""
    setuptools = environment.evaluate("import setuptools; print(setuptools.__version__)").split(".")
    can_build = len(setuptools) >= 2 and (int(setuptools[0]), int(setuptools[1])) >= BUILD_SETUPTOOLS
    environment.pip_install("--no-deps", *(["--no-build-isolation"] if can_build else []), "--editable", ROOT)
    install_without_dependencies(environment)
    absent = environment.output(ROOT / "scripts" / "missing_requirements.py").splitlines()
    if not absent:
        return
    present = environment.output("-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "present.txt"
        constraints.write_text(present, encoding="utf-8")
        environment.pip_install("--constraint", constraints, *absent)


def require_torch(environment: Environment) -> None:
    """Makes sure of the torch that requirements/base.txt asks for, where the user's own is kept.

    Raises:
        RuntimeError: it is older.
    """
    bound = re.search(r"^torch>=(\S+)", (REQUIREMENTS / "base.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
    version = environment.evaluate(f"import torch; print('' if torch.__version__ >= {bound!r} else torch.__version__)")
    if version:
        raise RuntimeError(
            f"{environment.path} has torch {version}, but pair_detr needs {bound} or later, as older ones run code "
            "that is hidden in files of weights. Update torch, torchvision and detectron2, or remove the folder and "
            "name a "
            "PYTHON without Detectron2, for which everything is installed."
        )


def install(path: Path) -> None:
    environment = Environment(path)
    marker = environment.path / PINNED_MARKER
    share = importlib.util.find_spec("detectron2") is not None
    if not environment.python.exists():
        # Without packages of its own where it shares others', as older ones would hide those. Debian's venv may lack
        # ensurepip; add_pip() installs pip by this interpreter's then.
        environment.create(with_pip=not share and importlib.util.find_spec("ensurepip") is not None)
        if share:
            logger.info("%s has Detectron2: the new environment uses its packages.", sys.executable)
            environment.share_packages_of_this_interpreter()
    environment.add_pip()
    if marker.exists() or not environment.has_detectron2():
        marker.touch()
        install_pinned(environment)
    else:
        logger.info("%s has Detectron2: adding only what it lacks.", environment.path)
        require_torch(environment)
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
    try:
        install(parser.parse_args().venv)
    except subprocess.CalledProcessError as error:
        logger.error("make install failed: the last command above ended with status %d", error.returncode)
        return 1
    except (RuntimeError, OSError) as error:
        logger.error("make install failed: %s", error)
        return 1
    logger.info("Ready. Next: make quickstart")
    return 0


if __name__ == "__main__":
    sys.exit(main())
