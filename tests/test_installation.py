"""The package as it is installed: what it needs, what it ships, and that pins and Makefile hold together."""

import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from engine_helpers import tiny_options, write_dataset
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pair_detr.config_files import config_file

PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def read_requirements(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].split("--hash")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def pinned_names(root: Path, python_version: str) -> list[str]:
    pins = read_requirements(root / "requirements" / "constraints.txt")
    environment = {"python_version": python_version}
    return [canonicalize_name(p.name) for p in pins if p.marker is None or p.marker.evaluate(environment)]


def run_python(code: str, *, argument: str = "", **kwargs: object) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, argument]
    return subprocess.run(command, check=True, capture_output=True, text=True, **kwargs).stdout.strip()


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_import_registers_the_model_without_the_compiled_extension() -> None:
    """And neither imports the predictor, nor warns that fvcore compiles its losses."""
    # None in sys.modules makes `from detectron2 import _C` fail, as it does where the extension was not built.
    code = """
import sys, warnings
warnings.simplefilter("error", FutureWarning)
sys.modules["detectron2._C"] = None
import pair_detr
from detectron2.modeling import META_ARCH_REGISTRY
print("DetectionTransformer" in META_ARCH_REGISTRY, "pair_detr.predictor" in sys.modules, "clip" in sys.modules)
"""
    assert run_python(code) == "True False False"


@pytest.mark.parametrize("name", ["r50", "r50.yaml", "detr/r50"])
def test_config_file_is_found_in_the_checkout(project_root: Path, name: str) -> None:
    expected = project_root / "configs" / f"{name.removesuffix('.yaml')}.yaml"
    assert config_file(name) == expected
    assert expected.is_file()


def test_unknown_config_file_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"no config file 'r5'.*detr/r50\.yaml.* r50\.yaml"):
        config_file("r5")


@pytest.fixture(scope="module")
def wheel(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is distributed."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools writes into the tree that it builds.
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(project_root / name, source)
    for name in ("pair_detr", "pair_detr_cli", "configs", "requirements", "tests"):
        shutil.copytree(project_root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_ships_the_configs_and_nothing_foreign(project_root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        text = archive.read(f"{info}/METADATA").decode()
    assert {name.split("/")[0] for name in names} == {"pair_detr", "pair_detr_cli", info}
    for folder, suffix, target in (
        ("pair_detr", "py", "pair_detr"),
        ("pair_detr_cli", "py", "pair_detr_cli"),
        ("configs", "yaml", "pair_detr/configs"),
        ("requirements", "txt", "pair_detr_cli/requirements"),
    ):
        files = (path.relative_to(project_root / folder) for path in (project_root / folder).rglob(f"*.{suffix}"))
        assert {f"{target}/{file.as_posix()}" for file in files} <= set(names), folder
    assert "License-File: LICENSE" in text and any(name.endswith("/LICENSE") for name in names)
    assert "Description-Content-Type: text/markdown" in text
    assert text.rstrip().endswith((project_root / "README.md").read_text(encoding="utf-8").rstrip())


@pytest.mark.slow
def test_wheel_trains_in_an_empty_folder(
    project_root: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an environment that has Detectron2; of the package, it has what was installed from the wheel alone."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = load_script(project_root / "scripts" / "install.py").Environment(tmp_path / "env")
    environment.create(with_pip=False)
    environment.share_packages_of_this_interpreter()
    install = ["install", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    found = environment.evaluate("from importlib.util import find_spec; print(find_spec('pair_detr').origin)")
    assert Path(found).is_relative_to(environment.path)
    folder = tmp_path / "empty"
    (folder / "data").mkdir(parents=True)
    data = write_dataset(folder / "data", "of_a_wheel")
    options = tiny_options(data, Path("output"), SOLVER__MAX_ITER=2, MODEL__WEIGHTS="")
    # Of the package's config all that the options leave: the branches of training, the losses and the optimizer.
    (folder / "my.yaml").write_text("_BASE_: quickstart\nSOLVER: {EPOCHS: {MAX: 0}}\n")
    command = [environment.path / "bin" / "pair-detr", "train", "--config-file", "my.yaml", *options]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (folder / "output" / "metrics.json").read_text().splitlines()]
    assert steps[-1]["iteration"] == 1 and steps[-1]["total_loss"] > 0
    assert (folder / "output" / "model_final.pth").is_file()


def test_constraints_are_exact(project_root: Path) -> None:
    files = [project_root / "requirements" / name for name in ("constraints.txt", "detectron2.txt", "panopticapi.txt")]
    for requirement in [r for file in files for r in read_requirements(file)]:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_the_page_is_a_part_of_the_pinned_environment_alone(project_root: Path, python_version: str) -> None:
    """Gradio asks for a pillow that an environment of the user's may be too new for."""
    text = (project_root / "setup.py").read_text(encoding="utf-8")
    assert "gradio" in re.search(r'"app": \[(.*?)\]', text)[1]
    assert "gradio" not in re.search(r'"dev": \[(.*?)\n        \]', text, re.DOTALL)[1]
    assert "[dev,app]" in (project_root / "scripts" / "install.py").read_text(encoding="utf-8")
    constraints = read_requirements(project_root / "requirements" / "constraints.txt")
    environment = {"python_version": python_version}
    pins = {p.name: p.specifier for p in constraints if p.marker is None or p.marker.evaluate(environment)}
    assert str(pins["pillow"]) < "==13" and "gradio" in pins and "playwright" in pins


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_every_direct_requirement_has_one_pin(project_root: Path, python_version: str) -> None:
    pinned = pinned_names(project_root, python_version)
    assert len(pinned) == len(set(pinned))
    direct = read_requirements(project_root / "requirements" / "base.txt")
    # These extras are installed by nobody but those who ask for them.
    direct += [Requirement(x) for x in metadata.requires("pair_detr") if not re.search('"(integrations|track)"', x)]
    assert {canonicalize_name(r.name) for r in direct} <= set(pinned)


def test_requirements_of_requirements_are_pinned(project_root: Path) -> None:
    constraints = read_requirements(project_root / "requirements" / "constraints.txt")
    pins = {canonicalize_name(p.name): p for p in constraints if p.marker is None or p.marker.evaluate()}
    # What a package requires depends on its version: only those in the pinned version count here.
    installed = {name for name, pin in pins.items() if _is_installed(pin)}
    if "torch" not in installed:
        pytest.skip("the environment does not follow requirements/constraints.txt")
    for name in sorted(installed):
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in pins, f"{requirement}, required by {name}"


def _is_installed(pin: Requirement) -> bool:
    try:
        return pin.specifier.contains(metadata.version(pin.name))
    except metadata.PackageNotFoundError:
        return False


def test_detectron2_is_pinned_by_its_hash(project_root: Path) -> None:
    text = (project_root / "requirements" / "detectron2.txt").read_text(encoding="utf-8")
    assert re.findall(r"^[^#\n].*", text, re.MULTILINE) == [
        "sal-detectron2==0.7.2 --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
    ]


def test_panopticapi_is_pinned_by_its_hash(project_root: Path) -> None:
    text = (project_root / "requirements" / "panopticapi.txt").read_text(encoding="utf-8")
    assert re.findall(r"^[^#\n].*", text, re.MULTILINE) == [
        "panopticapi-lite==0.2.0 --hash=sha256:58d3ffa842a72240162e7fa744c602a0a5320baabbdb3295d770374f4639b486"
    ]


def test_packages_of_the_user_are_not_required() -> None:
    required = {canonicalize_name(Requirement(line).name) for line in metadata.requires("pair_detr")}
    assert required.isdisjoint({"torch", "torchvision", "detectron2", "sal-detectron2"})


def test_installation_names_missing_packages_and_keeps_others(
    project_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = project_root / "scripts" / "missing_requirements.py"
    module = load_script(path)
    lines = ["pytest>=1", "pytest>=1000", "no-such-package<3,>=2", 'no-such-extra; extra == "docs"']
    lines.append('no-such-tool==1.0; extra == "dev"')
    assert module.missing(lines) == ["no-such-package<3,>=2", "no-such-tool==1.0"]
    assert caplog.messages == [f"keeping pytest {pytest.__version__}, though pair_detr asks for pytest>=1000"]


def test_an_older_torch_is_refused_where_the_package_is_imported() -> None:
    """And no newer one, whatever its build is called."""
    # Each version in a fork, as the package is imported once per process; they share the imports of what it needs.
    code = """
import os, sys, torch
import detectron2.data, detectron2.modeling
from torch.torch_version import TorchVersion
for version in sys.argv[1].split():
    if os.fork() == 0:
        torch.__version__ = TorchVersion(version)
        try:
            import pair_detr
        except ImportError as error:
            print(error)
        else:
            print("imported")
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""
    refused, accepted = ("2.5.1+cu121", "2.6.0a0+git"), ("2.6.0+cpu", "2.10.0")
    lines = run_python(code, argument=" ".join((*refused, *accepted))).splitlines()
    assert lines[len(refused) :] == ["imported"] * len(accepted)
    for version, line in zip(refused, lines, strict=False):
        assert f"needs PyTorch 2.6 or later; this is {version}" in line and "Update torch" in line


def test_an_older_torch_of_the_user_stops_the_installation(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_script(project_root / "scripts" / "install.py")
    environment = module.Environment(Path(sys.prefix))
    # The import requires the same.
    (bound,) = [r for r in read_requirements(project_root / "requirements" / "base.txt") if r.name == "torch"]
    assert str(bound.specifier) == ">=2.6"
    module.require_torch(environment)
    (tmp_path / "base.txt").write_text("numpy\ntorch>=1000.1  # for a test\n")
    monkeypatch.setattr(module, "REQUIREMENTS", tmp_path)
    with pytest.raises(RuntimeError, match=r"has torch \d.* needs 1000\.1 or later.* Update torch, torchvision"):
        module.require_torch(environment)


def test_no_version_of_timm_that_is_allowed_unpickles_files(project_root: Path) -> None:
    """1.0.26 is the first whose own reader of files has weights_only=True by default."""
    text = (project_root / "setup.py").read_text(encoding="utf-8")
    (timm,) = [Requirement(line) for line in re.findall(r'"(timm\b.*)"', text)]
    assert timm.specifier.contains("1.0.26") and not timm.specifier.contains("1.0.25")
    # Nor does the one that is here, which the package gives tensors alone.
    load = pytest.importorskip("timm.models").load_state_dict
    assert inspect.signature(load).parameters["weights_only"].default is True


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_installs_again_only_after_a_change(project_root: Path, tmp_path: Path) -> None:
    sources = ["setup.py", "pyproject.toml", "Makefile", "scripts/install.py"]
    sources += [f"requirements/{name}.txt" for name in ("constraints", "base", "detectron2", "panopticapi")]
    for name in sources:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(project_root / name, tmp_path / name)
        os.utime(tmp_path / name, (1000, 1000))

    def is_up_to_date() -> bool:
        # -q runs nothing: status 0 says that there is nothing to do.
        return subprocess.run(["make", "-q", "install", "VENV=env"], cwd=tmp_path, check=False).returncode == 0

    assert not is_up_to_date()
    stamp = tmp_path / "env" / ".pair_detr-installed"
    stamp.parent.mkdir()
    stamp.touch()
    os.utime(stamp, (2000, 2000))
    assert is_up_to_date()
    for name in (n for n in sources if n != "Makefile"):
        os.utime(tmp_path / name, (3000, 3000))
        assert not is_up_to_date(), name
        os.utime(tmp_path / name, (1000, 1000))
