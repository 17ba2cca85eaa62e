"""Packaging. `make install` builds a whole environment; `pip install .` adds the package to one with Detectron2."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    # Read rather than imported: the package needs torch and Detectron2, which a build environment lacks.
    text = (ROOT / "pair_detr" / "utils" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="pair_detr",
    version=read_version(),
    description="Pair DETR, Conditional DETR and DETR as a Detectron2 project",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # configs/ and requirements/ stay at the top level, where Detectron2's projects and pip's users look for them, and
    # are installed inside the packages.
    packages=[
        *find_packages(include=["pair_detr", "pair_detr.*", "pair_detr_cli"]),
        "pair_detr.configs",
        "pair_detr_cli.requirements",
    ],
    package_dir={"pair_detr.configs": "configs", "pair_detr_cli.requirements": "requirements"},
    package_data={"pair_detr.configs": ["**/*.yaml"], "pair_detr_cli.requirements": ["*.txt"]},
    entry_points={"console_scripts": ["pair-detr = pair_detr_cli.main:main"]},
    python_requires=">=3.10",
    # torch, torchvision and detectron2 are missing on purpose. Users have builds for their driver and GPU, and
    # Detectron2 has no package under its own name: naming them here would let pip replace what works. torch has to be
    # 2.6 or later, before which torch.load runs code that is in files even with weights_only=True (CVE-2025-32434);
    # pair_detr/__init__.py and scripts/install.py make sure of it. Before 2.10 a forged file may corrupt memory
    # (CVE-2026-24747). timm reads no file here (see pair_detr/modeling/backbone/timm.py), but 1.0.26 is the first that
    # would not unpickle whatever a file holds.
    install_requires=[
        "fvcore",
        "matplotlib",
        "numpy",
        "pillow",
        "pycocotools>=2.0.2",
        "safetensors",
        "scipy>=1.6",
        "tabulate",
        "tensorboard",
        "timm>=1.0.26",
    ],
    extras_require={
        # The page to try a model on: pair_detr.tools.app. Not a part of dev, as Gradio asks for pillow below 13, and
        # nothing in an environment of the user's changes version. The pinned environment has it as well.
        "app": ["gradio>=6.31"],
        # Text encoders for class names that no published text weights have. One of them is enough. The first one
        # imports pkg_resources, which setuptools 81 no longer has.
        "clip": ["clip-anytorch>=2.6", "open_clip_torch>=2.24", "setuptools<81"],
        # Pictures of detections and of data, and videos. opencv-python serves as well, where a window system is
        # installed.
        "demo": ["supervision>=0.31", "opencv-python-headless>=4.8"],
        # Tracks of objects through videos. Not a part of dev: it asks for opencv-python, which must not stand beside
        # opencv-python-headless.
        "track": ["supervision>=0.31", "trackers>=2.6"],
        # Exporting models, and running them without torch: pair_detr.tools.export and pair_detr.runtime.
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5", "openvino>=2024.4"],
        # MODEL.WEIGHTS hub://owner/name.
        "hub": ["huggingface_hub>=0.26"],
        # Programs for Detectron2's models that tests run with this package's. Not a part of dev: SAHI asks for
        # opencv-python, which must not stand beside opencv-python-headless.
        "integrations": ["sahi>=0.11"],
        # Pages about a detector's errors: pair_detr.tools.report. And what tidecv, in requirements/tidecv.txt, imports.
        "report": ["appdirs", "opencv-python-headless>=4.8", "pandas", "seaborn", "supervision>=0.31"],
        "dev": [
            "appdirs",
            "clip-anytorch>=2.6",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "onnxscript>=0.5",
            "open_clip_torch>=2.24",
            "opencv-python-headless>=4.8",
            "openvino>=2024.4",
            "pandas",
            # Drives the browser that pages are tested in, which is the system's.
            "playwright>=1.45",
            "pytest>=7",
            "pytest-timeout",
            "pytest-xdist>=2.5",
            # What trackers imports, which is in requirements/trackers.txt.
            "pydeprecate",
            "requests",
            "rich",
            # The digits of the dataset that recipes are tried with, and the probes of text rows: pair_detr.studies.
            "scikit-learn>=1.3",
            "seaborn",
            "supervision>=0.31",
            # Rules and layout change between releases; another one finds fault with code that is clean here.
            "ruff==0.17.5",
            # An independent Conditional DETR to compare with.
            "transformers",
        ],
    },
)
