"""Files of others run no code: every reader gets every hostile file, under every name that it might take."""

import ast
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from engine_helpers import tiny_options, write_dataset
from hostile_helpers import PAYLOADS
from model_helpers import tiny_cfg
from PIL import EpsImagePlugin, Image
from runtime_helpers import write_model
from torch import nn

import pair_detr
from pair_detr import runtime
from pair_detr.checkpoint import read_checkpoint
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer, find_checkpoint
from pair_detr.checkpoint.weights import require_weights
from pair_detr.config_files import load_config
from pair_detr.data.datasets.coco_json import read_coco_json
from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.data.datasets.lvis import load_lvis_base
from pair_detr.data.datasets.panoptic_png import read_segment_ids, read_stuff
from pair_detr.data.datasets.pascal_voc import load_voc
from pair_detr.data.datasets.yolo import load_yolo
from pair_detr.engine import argument_parser, main, setup
from pair_detr.engine.user_errors import USER_ERRORS
from pair_detr.images.reading import open_image
from pair_detr.modeling.backbone import TimmBackbone
from pair_detr.open_vocabulary import Vocabulary, build_text_encoder, read_class_list
from pair_detr.tools import convert_weights, plot_training, text_weights
from pair_detr.utils.xml_files import read_xml
from pair_detr.visualization.training_curves import read_published, read_run

SUFFIXES = (".pth", ".pkl", ".pt", ".bin", ".npy", ".yaml", ".json", ".safetensors", ".tar", ".pyth", ".txt")


def _base(file: Path) -> None:
    config = file.with_name("heir.yaml")
    config.write_text(f"_BASE_: {file.name}\n")
    load_config(str(config))


def _resume(file: Path) -> None:
    """As the file that last_checkpoint names, and as last_checkpoint."""
    last = file.with_name("last_checkpoint")
    for content in (file.name.encode(), str(file).encode(), file.read_bytes()):
        last.write_bytes(content)
        for read in (_resume_from, find_checkpoint, lambda _: AtomicCheckpointer(nn.Linear(1, 1)).load(str(file))):
            with contextlib.suppress(*USER_ERRORS):
                read(str(file.parent))


def _resume_from(folder: str) -> None:
    AtomicCheckpointer(nn.Linear(1, 1), folder).resume_or_load("", resume=True)


def _cfg(**keys: object) -> CfgNode:
    cfg = tiny_cfg()
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def _in_folder(name: str, read: Callable[[Path], object]) -> Callable[[Path], None]:
    """A reader of folders, in which the file has a certain name."""

    def run(file: Path) -> None:
        target = file.parent / "folder" / name
        target.parent.mkdir(exist_ok=True)
        (target.parent / "config.json").write_text("{}")
        target.write_bytes(file.read_bytes())
        read(target.parent)

    return run


def _text_weights(file: Path) -> None:
    text_weights.main(["--vocabulary", "a", "--from", str(file), "--output", str(file.with_name("out.npy"))])


def _names_of_text_weights(file: Path) -> None:
    """The names of classes are in a .json file next to them."""
    weights = file.with_name("texts.npy")
    Vocabulary(("a",), nn.Linear(3, 1).weight.detach()).save(weights)
    weights.with_suffix(".json").write_bytes(file.read_bytes())
    Vocabulary.load(weights)


def _image_labels(file: Path) -> None:
    with restored_catalogs():
        register_image_labels("hostile", file, file.parent)
        DatasetCatalog.get("hostile")


def _exported(name: str, **changes: Any) -> Callable[[Path], None]:
    """A reader of exported models, of which the file is a part."""

    def run(file: Path) -> None:
        folder = file.parent / "exported"
        shutil.rmtree(folder, ignore_errors=True)
        write_model(folder, texts=True, **changes)
        (folder / name).write_bytes(file.read_bytes())
        runtime.load(folder)

    return run


READERS: dict[str, Callable[[Path], object]] = {
    "config": lambda f: load_config(str(f)),
    "_BASE_": _base,
    "MODEL.WEIGHTS": lambda f: require_weights(_cfg(MODEL__WEIGHTS=str(f))),
    "--resume": _resume,
    "MODEL.TIMM.WEIGHTS": lambda f: TimmBackbone("test_resnet", [-1], weights=str(f)),
    "MODEL.TIMM.KWARGS": lambda f: TimmBackbone("test_resnet", [-1], kwargs={"checkpoint_path": str(f)}),
    "MODEL.CLIP.TEXT_WEIGHTS": lambda f: pair_detr.Predictor(_cfg(MODEL__CLIP__TEXT_WEIGHTS=str(f))),
    "names next to text weights": _names_of_text_weights,
    "MODEL.CLIP.VOCABULARY": lambda f: read_class_list(str(f)),
    "MODEL.CLIP.CHECKPOINT": lambda f: build_text_encoder("clip", f),
    "Predictor": lambda f: pair_detr.Predictor(_cfg(MODEL__WEIGHTS=str(f))),
    "convert_weights": lambda f: convert_weights.main([str(f), str(f.with_name("out.pth"))]),
    "text_weights": _text_weights,
    "plot_training": _in_folder("metrics.json", lambda f: plot_training.main([str(f), "--output", str(f / "a.png")])),
    "metrics.json": _in_folder("metrics.json", read_run),
    "published curves": read_published,
    "transformers, safetensors": _in_folder("model.safetensors", read_checkpoint),
    "transformers, bin": _in_folder("pytorch_model.bin", read_checkpoint),
    "transformers, index": _in_folder("model.safetensors.index.json", read_checkpoint),
    "transformers, config": _in_folder("config.json", read_checkpoint),
    "COCO": lambda f: read_coco_json(str(f)),
    "LVIS": lambda f: load_lvis_base(f, f.parent),
    "image labels": _image_labels,
    "YOLO": lambda f: load_yolo(f, "train"),
    "Pascal VOC": _in_folder("Annotations/1.xml", lambda f: load_voc(str(f), None, ["a"])),
    "XML": read_xml,
    "image": lambda f: open_image(str(f)),
    "segments": lambda f: read_segment_ids(str(f), [1]),
    "stuff": lambda f: read_stuff(str(f)),
    "exported model": _exported("model.json"),
    "exported texts": _exported("texts.npy"),
    "ONNX": _exported("model.onnx"),
    "OpenVINO": _exported("model.xml", format="openvino"),
    "torch.export": _exported("model.pt2", format="torch_export"),
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with restored_catalogs():
        yield


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Contents by kind; all of them make the file marker() ."""
    marker = _marker(tmp_path_factory)
    return {kind: make(marker) for kind, (make, _) in PAYLOADS.items()}


@pytest.fixture
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = _marker(tmp_path_factory)
    path.unlink(missing_ok=True)
    return path


def _marker(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "marker of a hostile file"


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", PAYLOADS)
def test_the_payloads_work(kind: str, payloads: dict[str, bytes], marker: Path, tmp_path: Path) -> None:
    """Careless readers run them; else the other tests would show nothing."""
    file = tmp_path / "hostile"
    file.write_bytes(payloads[kind])
    with contextlib.suppress(Exception):  # what comes after the payload is of no interest
        PAYLOADS[kind][1](file)
    assert marker.exists()


@pytest.mark.parametrize("reader", READERS)
def test_files_run_no_code(reader: str, payloads: dict[str, bytes], marker: Path, tmp_path: Path) -> None:
    """Nor do they stop a program with a traceback."""
    for kind, content in payloads.items():
        for suffix in SUFFIXES:
            file = tmp_path / f"hostile{suffix}"
            file.write_bytes(content)
            with contextlib.suppress(*USER_ERRORS):
                READERS[reader](file)
            assert not marker.exists(), (kind, suffix)
            file.unlink()


PROGRAM: dict[str, Callable[[Path], list[str]]] = {
    "--config-file": lambda f: ["--config-file", str(f)],
    "MODEL.WEIGHTS": lambda f: ["MODEL.WEIGHTS", str(f)],
    "MODEL.CLIP.TEXT_WEIGHTS": lambda f: ["MODEL.CLIP.TEXT_WEIGHTS", str(f)],
    "OUTPUT_DIR": lambda f: ["--resume", "OUTPUT_DIR", str(f.parent)],
}


@pytest.mark.parametrize("option", PROGRAM)
@pytest.mark.parametrize(("kind", "suffix"), [("YAML", ".yaml"), ("torch", ".pth"), ("pickle", ".pkl")])
def test_trainings_run_no_code(
    option: str, kind: str, suffix: str, payloads: dict[str, bytes], marker: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run" / f"model_final{suffix}"
    file.parent.mkdir()
    file.write_bytes(payloads[kind])
    file.with_name("last_checkpoint").write_text(file.name)
    options = tiny_options(write_dataset(tmp_path, "hostile"), tmp_path / "output")
    flags = PROGRAM[option](file)
    # Flags come first, and of two values of a key the last one counts.
    arguments = flags[:2] + options if option == "--config-file" else [*flags[:-2], *options, *flags[-2:]]
    # A last_checkpoint that names no .pth file is passed over, and the training starts anew.
    starts = option == "OUTPUT_DIR" and suffix != ".pth"
    with nullcontext() if starts else pytest.raises(USER_ERRORS):
        main(argument_parser().parse_args(arguments))
    assert not marker.exists()


@pytest.mark.parametrize(
    "text", ["open({!r}, 'w')", "!!python/object/apply:builtins.open [{}, w]", "[open({!r}, 'w')]"]
)
def test_values_of_options_run_no_code(text: str, marker: Path) -> None:
    value = text.format(str(marker))
    assert value == load_config("", ["OUTPUT_DIR", value]).OUTPUT_DIR
    with pytest.raises(ValueError, match=r"SOLVER\.STEPS is .* must be a list"):
        load_config("", ["SOLVER.STEPS", value])
    assert not marker.exists()


def test_written_configs_are_read_again(tmp_path: Path) -> None:
    options = tiny_options(write_dataset(tmp_path, "hostile"), tmp_path / "run", SOLVER__STEPS=(1, 2))
    cfg = setup(argument_parser().parse_args(options))
    loaded = load_config(str(tmp_path / "run" / "config.yaml"))
    assert all(loaded[key] == cfg[key] for key in ("DATASETS", "INPUT", "OUTPUT_DIR", "SEED", "SOLVER", "TEST"))
    assert all(loaded.MODEL[key] == cfg.MODEL[key] for key in ("BACKBONE", "CLIP", "DETR", "TIMM", "WEIGHTS"))


def test_images_are_no_programs(marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\n: > '{marker}'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    file = tmp_path / "image.jpg"
    Image.new("RGB", (4, 4)).save(file, "EPS")
    for read in (open_image, read_stuff, lambda f: read_segment_ids(f, [1])):
        with pytest.raises(OSError, match=r"image\.jpg cannot be read .*PostScript program.*convert it to PNG"):
            read(str(file))
    assert not marker.exists()
    with contextlib.suppress(OSError), Image.open(file) as image:
        image.load()
    assert marker.exists()


# Functions that run what is in a file, unless an argument forbids it; and where they may be called.
UNSAFE = {"load", "loads", "unsafe_load", "full_load", "merge_from_file", "load_yaml_with_base", "exec", "eval"}
ALLOWED = {
    ("tensor_files/reading.py", "torch.load"),  # with weights_only
    ("tensor_files/reading.py", "pickle.loads"),  # --allow-pickle
    ("data/record_cache.py", "pickle.loads"),  # of bytes that never were in a file
    ("open_vocabulary/vocabulary.py", "np.load"),  # with allow_pickle=False
    ("runtime/vocabulary.py", "np.load"),  # with allow_pickle=False
    ("utils/yaml_files.py", "yaml.load"),  # with a SafeLoader
}


def test_files_are_read_at_few_places() -> None:
    root = Path(pair_detr.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            owner, _, last = name.rpartition(".")
            is_reader = owner in (
                "torch",
                "torch.jit",
                "torch.export",
                "pickle",
                "np",
                "numpy",
                "yaml",
                "joblib",
                "cfg",
                "",
            )
            if last in UNSAFE and is_reader:
                found.add((file.relative_to(root).as_posix(), name))
    assert found == ALLOWED
