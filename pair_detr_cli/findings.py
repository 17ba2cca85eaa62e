"""What ``pair-detr doctor`` finds: PyTorch, Detectron2, the packages that they need, and what other features need."""

import importlib
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType
from typing import NamedTuple

from pair_detr_cli.commands import PROGRAM
from pair_detr_cli.environment import Requirement, find_module, package_requirements, pip_install
from pair_detr_cli.pins import requirements

# Of the extra "export".
_EXPORT = ("onnx", "onnxruntime", "onnxscript", "openvino")
_PYTORCH = "https://pytorch.org/get-started/locally"


class Finding(NamedTuple):
    """One line of the report.

    Args:
        subject: what was looked at.
        text: what was found.
        remedy: how to mend it, "" if nothing has to be.
        stops: training cannot run like this.
    """

    subject: str
    text: str
    remedy: str = ""
    stops: bool = False


def find_all() -> Iterator[Finding]:
    """What training needs, from the ground up."""
    yield _python()
    yield _package()
    torch, finding = _pytorch()
    yield finding
    if torch is not None:
        yield _gpu(torch)
        yield _cpu(torch)
        yield _torchvision()
    yield _detectron2(torch is not None)
    yield from _packages()


def find_features() -> Iterator[Finding]:
    """What other features need; none of it is needed for training."""
    known = {requirement.name: requirement for requirement in package_requirements() if requirement.extra == "export"}
    yield _feature("drawing detections", "" if find_module("supervision") else pip_install("supervision"))
    # Several packages have that module.
    yield _feature("videos and webcams", "" if find_module("cv2") else pip_install("opencv-python-headless"))
    yield _feature("a page to try a model", "" if find_module("gradio") else pip_install("gradio"))
    wanted = [known.get(name, Requirement(name, name)) for name in _EXPORT]
    absent = [requirement.text for requirement in wanted if not requirement.is_met()]
    yield _feature("exporting models, and running them", pip_install(*absent) if absent else "")
    encoder = find_module("clip") or find_module("open_clip")
    yield _feature("text weights from class names", "" if encoder else pip_install("open_clip_torch"))
    for title, module, file in (
        ("evaluation of panoptic segmentation", "panopticapi", "panopticapi"),
        ("evaluation of LVIS", "lvis", "lvis"),
        ("types of errors in reports", "tidecv", "tidecv"),
        ("tracks in videos", "trackers", "trackers"),
    ):
        yield _feature(title, "" if find_module(module) else pip_install("--no-deps", *requirements(file)))
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++")
    yield _feature("SOLVER.COMPILE", "" if compiler else "install a C++ compiler, such as g++")


def try_import() -> Finding | None:
    """Whether training starts, where all seemed to be there; None if it does."""
    try:
        _import("pair_detr.engine")
    except Exception as error:  # Whatever it is, it is what the user has to know.
        name = getattr(error, "name", "")
        remedy = pip_install(name) if isinstance(error, ModuleNotFoundError) and name else ""
        return Finding("import", f"pair_detr cannot be imported: {_first_line(error)}", remedy, stops=True)
    return None


def _python() -> Finding:
    return Finding("Python", f"{platform.python_version()}, {sys.executable}")


def _package() -> Finding:
    where = find_module("pair_detr")
    try:
        return Finding("pair_detr", f"{metadata.version('pair_detr')}, {where}")
    except metadata.PackageNotFoundError:
        return Finding("pair_detr", f"{where}, not installed: its requirements are unknown", pip_install("-e", "."))


def _pytorch() -> tuple[ModuleType | None, Finding]:
    bound = next(line for line in requirements("base") if Requirement.parse(line).name == "torch")
    remedy = f"{pip_install(bound, 'torchvision')} (others: {_PYTORCH})"
    if not find_module("torch"):
        return None, Finding("PyTorch", "is not installed", remedy, stops=True)
    try:
        torch = _import("torch")
        # Of an unfinished removal, a folder without it may be left.
        version = torch.__version__
    except Exception as error:  # A broken one raises anything, OSError of its libraries above all.
        return None, Finding("PyTorch", f"cannot be imported: {_first_line(error)}", remedy, stops=True)
    text = f"{version}, {find_module('torch')}"
    if not Requirement.parse(bound).is_met():
        reason = f"{text}; {bound} is needed, as older ones run code that is hidden in files of weights"
        return torch, Finding("PyTorch", reason, f"{remedy}; Detectron2 is built for one PyTorch", stops=True)
    return torch, Finding("PyTorch", text)


def _gpu(torch: ModuleType) -> Finding:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    if not torch.version.cuda and not torch.version.hip:
        has_driver = shutil.which("nvidia-smi") is not None
        remedy = f"a GPU is there: install PyTorch with CUDA, see {_PYTORCH}" if has_driver else ""
        return Finding("GPU", "none: this PyTorch is built for CPUs alone; training runs on the CPU", remedy)
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return Finding("GPU", f"none that this PyTorch ({build}) can use: {_first_line(error)}")
    devices = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        precision = "bfloat16" if device.major >= 8 else "no bfloat16: SOLVER.AMP.DTYPE float16"
        devices.append(f"{device.name} ({device.total_memory / 2**30:.0f} GiB, {precision})")
    return Finding("GPU", f"{', '.join(devices)}; {build}")


def _cpu(torch: ModuleType) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("CPU", f"{platform.machine()}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}")


def _torchvision() -> Finding:
    try:
        return Finding("torchvision", _import("torchvision").__version__)
    except Exception as error:  # One that is built for another PyTorch raises RuntimeError, among others.
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torchvision"
        text = "is not installed" if missing else f"cannot be imported: {_first_line(error)}"
        return Finding("torchvision", text, f"{pip_install('torchvision')} (the one for your PyTorch)", stops=True)


def _detectron2(has_torch: bool) -> Finding:
    where = find_module("detectron2")
    if not where:
        return Finding("Detectron2", "is not installed", f"{PROGRAM} install-detectron2", stops=True)
    if not has_torch:
        return Finding("Detectron2", f"{where}, not looked at without PyTorch")
    try:
        version = _import("detectron2").__version__
    except Exception as error:
        remedy = f"uninstall it, then {PROGRAM} install-detectron2"
        return Finding("Detectron2", f"{where} cannot be imported: {_first_line(error)}", remedy, stops=True)
    source = next(iter(metadata.packages_distributions().get("detectron2", ())), None)
    text = f"{version}, {where}" + (f", from {source} {metadata.version(source)}" if source else "")
    try:
        _import("detectron2._C")
    except ImportError:
        text += ", without its compiled part, which only DEFORM_ON_PER_STAGE needs"
    return Finding("Detectron2", text)


def _packages() -> Iterator[Finding]:
    wanted = [requirement for requirement in package_requirements() if not requirement.extra]
    named = {requirement.name for requirement in wanted}
    # Those of Detectron2; what is there in another version was chosen by the user.
    others = [Requirement(Requirement.parse(line).name, line) for line in requirements("base")]
    wanted += [r for r in others if r.name not in named | {"torch", "torchvision"}]
    absent = [requirement.text for requirement in wanted if not requirement.is_met()]
    if absent:
        yield Finding("packages", f"missing or too old: {', '.join(absent)}", pip_install(*absent), stops=True)
    else:
        yield Finding("packages", "all that training needs")


def _feature(title: str, remedy: str) -> Finding:
    return Finding(title, "needs more packages" if remedy else "ready", remedy)


def _import(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0]
