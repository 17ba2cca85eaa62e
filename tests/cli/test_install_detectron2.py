"""``pair-detr install-detectron2`` in an environment of its own, with a wheel that stands for Detectron2's."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from pair_detr_cli import install_detectron2, pins


def write_distribution(folder: Path, name: str, version: str) -> None:
    """A package that is installed, without modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


class Sandbox:
    """An environment, a copy of the program, and an index with one wheel."""

    def __init__(self, folder: Path, project_root: Path) -> None:
        self.folder = folder
        shutil.copytree(project_root / "pair_detr_cli", folder / "app/pair_detr_cli")
        shutil.copytree(project_root / "requirements", folder / "app/requirements")
        self.pins = folder / "app/requirements/detectron2.txt"
        venv.create(folder / "env", with_pip=False, symlinks=True)
        self.python = folder / "env/bin/python"
        (self.packages,) = (folder / "env/lib").glob("python*/site-packages")
        # pip by a link, and everything but Detectron2 as if it were there.
        (self.packages / "pip").symlink_to(distribution("pip").locate_file("pip"))
        for line in pins.requirements("base"):
            name = install_detectron2.Requirement.parse(line).name
            write_distribution(self.packages, name, "2.7.0" if name == "torch" else "1.0")
        self.wheel = folder / "sal_detectron2-0.7.2-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("detectron2/__init__.py", "__version__ = 'of a test'\n")
            info = "sal_detectron2-0.7.2.dist-info"
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")

    def pin(self, digest: str) -> None:
        self.pins.write_text(f"sal-detectron2==0.7.2 --hash=sha256:{digest}\n")

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.folder), "PIP_CONFIG_FILE": os.devnull}
        environment["PYTHONPATH"] = str(self.folder / "app")
        command = [self.python, "-m", "pair_detr_cli", "install-detectron2"]
        return subprocess.run(command, cwd=self.folder, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_the_pinned_wheel_alone_is_installed_and_only_once(tmp_path: Path, project_root: Path) -> None:
    sandbox = Sandbox(tmp_path, project_root)
    sandbox.pin("0" * 64)
    refused = sandbox.run()
    assert refused.returncode == 1 and "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr
    assert not (sandbox.packages / "detectron2").exists()

    sandbox.pin(hashlib.sha256(sandbox.wheel.read_bytes()).hexdigest())
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Detectron2 is installed. Next: pair-detr doctor"
    file = sandbox.packages / "detectron2/__init__.py"
    file.write_text("__version__ = 'mine'\n")

    again = sandbox.run()
    assert again.returncode == 0 and "already, and stays as it is" in again.stdout and "$ " not in again.stdout
    assert file.read_text() == "__version__ = 'mine'\n"


def test_missing_packages_are_added_under_the_versions_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def pip_(*arguments: str) -> None:
        if arguments[0] == "--constraint":
            lines = Path(arguments[1]).read_text().splitlines()
            assert f"pytest=={pytest.__version__}" in lines
            commands.append(arguments[2:])
        else:
            commands.append(arguments)

    monkeypatch.setattr(install_detectron2, "_pip", pip_)
    monkeypatch.setattr(install_detectron2, "_is_present", lambda name: name not in ("yacs", "setuptools"))
    install_detectron2.install()
    packages, wheel = commands
    assert packages == ("setuptools<81", "yacs")
    assert wheel[:3] == ("--no-deps", "--require-hashes", "--only-binary=:all:")
    assert ("--target" in wheel) is (sys.version_info >= (3, 11))


def test_what_keeps_from_installing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(install_detectron2, "find_module", lambda name: "" if name == "detectron2" else "/x")
    monkeypatch.setattr(install_detectron2, "install", lambda: pytest.fail("installs"))
    with monkeypatch.context() as patch:
        patch.setattr(install_detectron2.Requirement, "is_met", lambda self: self.name != "torchvision")
        assert install_detectron2.main([]) == 1
        assert (
            "error: Detectron2 needs PyTorch" in (error := capsys.readouterr().err) and "install torchvision" in error
        )
    with monkeypatch.context() as patch:
        patch.setattr(install_detectron2.os, "access", lambda *_: False)
        assert install_detectron2.main([]) == 1
        assert "is not yours to install into. Make an environment" in capsys.readouterr().err
    monkeypatch.setattr(install_detectron2, "find_module", lambda name: "")
    assert install_detectron2.main([]) == 1
    assert "this environment has no pip" in capsys.readouterr().err
