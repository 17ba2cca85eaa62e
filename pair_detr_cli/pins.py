"""The files of requirements/: what pip has to install, and in which versions."""

import re
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def requirements_file(name: str) -> Path:
    """A file of requirements/: setup.py moves the folder into this package; in a checkout it is next to it."""
    installed = _HERE / "requirements"
    return (installed if installed.is_dir() else _HERE.parent / "requirements") / f"{name}.txt"


def requirements(name: str) -> list[str]:
    """The lines of a file of requirements/, without comments and hashes."""
    lines = requirements_file(name).read_text(encoding="utf-8").splitlines()
    stripped = (re.sub(r"\s*(#|--hash).*", "", line).strip() for line in lines)
    return [line for line in stripped if line]


def hash_pinned(file: Path) -> list[str]:
    """pip's arguments that install the wheel of a file, if it has the hash there, and nothing that it asks for."""
    return ["--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", str(file)]


def detectron2_wheel(file: Path, python: tuple[int, int], platlib: str) -> list[str]:
    """pip's arguments that install Detectron2's wheel.

    Args:
        file: that names it.
        python: version of the interpreter that it is for.
        platlib: folder of that interpreter's packages.
    """
    arguments = hash_pinned(file)
    if python >= (3, 11):
        # The wheel's compiled part is for Python 3.10; later versions skip it and take the Python files.
        arguments += ["--python-version", "3.10", "--implementation", "cp", "--upgrade", "--target", platlib]
    return arguments
