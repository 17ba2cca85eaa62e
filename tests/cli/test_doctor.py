"""What ``pair-detr doctor`` finds, in environments that lack something."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pair_detr_cli import doctor, environment, findings
from pair_detr_cli.environment import Requirement


@pytest.fixture(autouse=True)
def _no_torch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "try_import", lambda: None)


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The report by subject: the mark, the text, and the remedy behind an arrow."""
    lines: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        if line[:2] in ("ok", " -", "!!"):
            subject, _, text = line[3:].partition("  ")
            lines[subject] = f"{line[:2]} {text.strip()}"
        elif "-> " in line:
            lines[subject] += f" {line.strip()}"
    return lines


def test_a_complete_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    report = lines_of(capsys)
    assert report["PyTorch"].startswith(f"ok {torch.__version__}, {Path(torch.__file__).parent}")
    assert report["CPU"].endswith(torch.backends.cpu.get_cpu_capability())
    assert report["Detectron2"].startswith("ok ") and "detectron2" in report["Detectron2"]
    assert report["packages"] == "ok all that training needs"
    assert ("cuda" in report["GPU"].lower()) or "none" in report["GPU"]


def test_it_runs_without_pytorch() -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom pair_detr_cli.main import main\nmain(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (fault,) = (line for line in done.stdout.splitlines() if line.startswith("!!"))
    assert fault.split() == ["!!", "PyTorch", "is", "not", "installed"]
    assert (
        'install "torch>=2.6" torchvision (others: https://pytorch.org' in done.stdout.split(fault)[1].splitlines()[1]
    )
    assert done.stdout.endswith("Training cannot run. Mend the lines with !! from top to bottom.\n")


@pytest.mark.parametrize(
    ("missing", "subject", "remedy"),
    [
        ("torchvision", "torchvision", "install torchvision (the one for your PyTorch)"),
        ("detectron2", "Detectron2", "pair-detr install-detectron2"),
    ],
)
def test_what_is_missing_is_named_with_what_installs_it(
    missing: str, subject: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert doctor.main([]) == 1
    report = lines_of(capsys)
    assert report[subject].startswith("!! is not installed -> ") and report[subject].endswith(remedy)
    assert [name for name, text in report.items() if text.startswith("!!")] == [subject]


def test_broken_or_old_pytorch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(findings, "_import", broken)
        assert doctor.main([]) == 1
        report = lines_of(capsys)
        assert report["PyTorch"].startswith("!! cannot be imported: libcudart.so.13: cannot open shared object file ->")
        assert report["Detectron2"].endswith("not looked at without PyTorch")
    monkeypatch.setattr(environment.metadata, "version", lambda name: "2.5.1+cu121")
    assert doctor.main([]) == 1
    report = lines_of(capsys)["PyTorch"]
    assert "torch>=2.6 is needed, as older ones run code" in report and "Detectron2 is built for one PyTorch" in report


ABSENT = ("supervision", "cv2", "gradio", "lvis")


def test_packages_and_features(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    versions = {"scipy": "1.5.4", "yacs": None, "onnx": None, "openvino": "2023.1", "setuptools": "80.0"}

    def version(name: str, real=environment.metadata.version) -> str:
        if name in versions and versions[name] is None:
            raise environment.metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(environment.metadata, "version", version)
    monkeypatch.setattr(findings, "find_module", lambda name: "" if name in ABSENT else f"/x/{name}")
    assert doctor.main([]) == 1
    report = lines_of(capsys)
    assert report["packages"].startswith("!! missing or too old: scipy>=1.6, yacs -> ")
    assert report["packages"].endswith('install "scipy>=1.6" yacs')
    assert report["exporting models, and running them"].endswith('install "onnx>=1.16" "openvino>=2024.4"')
    assert report["drawing detections"].endswith("install supervision")
    assert report["videos and webcams"].endswith("install opencv-python-headless")
    assert report["a page to try a model"].endswith("install gradio")
    assert report["evaluation of LVIS"].endswith("install --no-deps lvis==0.5.3")
    assert report["evaluation of panoptic segmentation"] == "ok ready"


def test_an_import_that_fails_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")

    monkeypatch.undo()
    monkeypatch.setattr(findings, "_import", fail)
    fault = findings.try_import()
    assert fault.stops and fault.text == "pair_detr cannot be imported: No module named 'pkg_resources'"
    assert fault.remedy.endswith("install pkg_resources")


def test_gpus() -> None:
    device = SimpleNamespace(name="H100", total_memory=80 * 2**30, major=9)
    old = SimpleNamespace(name="T4", total_memory=16 * 2**30, major=7)
    devices = [device, old]
    cuda = SimpleNamespace(init=lambda: None, device_count=lambda: 2, get_device_properties=lambda i: devices[i])
    found = findings._gpu(SimpleNamespace(version=SimpleNamespace(cuda="13.0", hip=None), cuda=cuda))
    assert found.text == "H100 (80 GiB, bfloat16), T4 (16 GiB, no bfloat16: SOLVER.AMP.DTYPE float16); CUDA 13.0"

    def no_driver() -> None:
        raise RuntimeError("The driver is too old (found version 11040). Please update it.")

    cuda.init = no_driver
    found = findings._gpu(SimpleNamespace(version=SimpleNamespace(cuda="13.0", hip=None), cuda=cuda))
    assert found.text.endswith("(CUDA 13.0) can use: The driver is too old (found version 11040)") and not found.stops


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numpy", Requirement("numpy", "numpy")),
        ("timm>=1.0.26", Requirement("timm", "timm>=1.0.26")),
        ('setuptools<81; extra == "clip"', Requirement("setuptools", "setuptools<81", "clip")),
        ("onnx>=1.16 ; extra == 'export'", Requirement("onnx", "onnx>=1.16", "export")),
    ],
)
def test_requirements(line: str, expected: Requirement) -> None:
    assert Requirement.parse(line) == expected


@pytest.mark.parametrize(
    ("bound", "version", "is_met"),
    [
        *((">=1.0.26", "1.0.31", True), (">=1.0.26", "1.0.9", False), (">=2.6", "2.6.0a0+git", True)),
        *(("<81", "80.10.2", True), ("<81", "81.0.0", False), ("==0.17.5", "0.17.5", True), (">=1,<2", "2.0", False)),
    ],
)
def test_versions(monkeypatch: pytest.MonkeyPatch, bound: str, version: str, is_met: bool) -> None:
    monkeypatch.setattr(environment.metadata, "version", lambda name: version)
    assert Requirement.parse(f"some-package{bound}").is_met() is is_met
