"""What is installed for the running interpreter."""

import re
import shutil
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*(?P<bounds>[^;]*)(?:;(?P<marker>.*))?")


class Requirement(NamedTuple):
    """A package, and the versions of it that are asked for.

    Args:
        name: of the distribution.
        text: as pip takes it.
        extra: of pair_detr that asks for it, "" where the package itself does.
    """

    name: str
    text: str
    extra: str = ""

    @classmethod
    def parse(cls, line: str) -> "Requirement":
        match = _REQUIREMENT.fullmatch(line.strip())
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", match["marker"] or "")
        return cls(match["name"], f"{match['name']}{match['bounds'].strip()}", extra[1] if extra else "")

    def is_met(self) -> bool:
        """Whether a version that fits is installed."""
        try:
            version = metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return False
        return all(_fits(version, bound) for bound in self.text[len(self.name) :].split(",") if bound)


def package_requirements() -> list[Requirement]:
    """Those of the installed pair_detr, extras included; none where it is not installed, as on PYTHONPATH."""
    try:
        return [Requirement.parse(line) for line in metadata.requires("pair_detr") or []]
    except metadata.PackageNotFoundError:
        return []


def find_module(name: str) -> str:
    """Where a module lies that could be imported, "" if there is none."""
    # Asked for pip, setuptools' finder takes the process for pip's, and no longer finds setuptools' own distutils.
    find = PathFinder.find_spec if name == "pip" else find_spec
    try:
        spec = find(name)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    return str(Path(spec.origin).parent) if spec.origin else str(next(iter(spec.submodule_search_locations or ()), ""))


def pip_command() -> str:
    """How to call the pip of the running interpreter."""
    pip = shutil.which("pip")
    return "pip" if pip and Path(pip).parent == Path(sys.executable).parent else f"{sys.executable} -m pip"


def pip_install(*names: str) -> str:
    """The command that installs packages, to be typed into a shell."""
    quoted = (f'"{name}"' if re.search(r"[<>\[ ]", name) else name for name in names)
    return f"{pip_command()} install {' '.join(quoted)}"


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, of one length: (2, 14, 1) of "2.14.1+cpu"."""
    found = [int(number) for number in re.match(r"[\d.]*", version)[0].split(".") if number][:3]
    return (*found, *(0,) * (3 - len(found)))


def _fits(version: str, bound: str) -> bool:
    operator, wanted = re.match(r"\s*([<>=!~]+)\s*(.+)", bound).groups()
    here, there = numbers(version), numbers(wanted)
    return {"<": here < there, ">=": here >= there, "==": here == there}[operator]
