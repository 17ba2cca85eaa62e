"""Running exported folders: images in, instances out, in their order."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runtime_helpers import NAMES, TEXTS, write_model

from pair_detr.images.resizing import Resizing
from pair_detr.runtime import load
from pair_detr.runtime.description import FILE_NAME


def gray(level: int, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def test_an_image_by_hand(tmp_path: Path) -> None:
    """In pixels of the image that is given, whatever the model's size; what has no label is left out."""
    write_model(tmp_path / "model")
    detector = load(tmp_path / "model")
    image = gray(0, 50, 90)
    image[..., 2] = 51
    found = detector(image)["instances"]
    assert found.image_size == (50, 90) and len(found) == 1
    np.testing.assert_allclose(found.pred_boxes, [[0, 0, 45, 50]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.2], atol=1e-6)
    assert found.pred_classes.tolist() == [1] and found.pred_masks is None
    assert detector.class_names == NAMES and detector.category_ids == [3, 5, 9]
    found.to_detectron2().pred_boxes.clip((50, 90))


def test_files_and_pictures_are_what_their_arrays_are(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    detector = load(tmp_path / "model")
    picture = Image.fromarray(gray(0, 30, 40)[..., ::-1]).convert("RGB")
    picture.paste((102, 0, 0), (0, 0, 40, 30))
    picture.save(tmp_path / "red.png")
    for image in (picture, tmp_path / "red.png", str(tmp_path / "red.png"), np.asarray(picture)[..., ::-1]):
        assert detector(image)["instances"].scores.tolist() == pytest.approx([0.4])


def test_lists_and_streams_keep_the_order(tmp_path: Path) -> None:
    """Of mixed sizes, in batches; the score tells which image a result is of."""
    write_model(tmp_path / "model")
    detector = load(tmp_path / "model")
    levels = list(range(0, 250, 10))
    images = [gray(level, 20 + 10 * (level % 3), 40) for level in levels]
    found = detector(images)
    assert [len(x["instances"]) for x in found] == [1] * len(levels)
    assert detector([]) == [] and detector.predict([]) == [] and len(detector(tuple(images[:2]))) == 2
    np.testing.assert_allclose([x["instances"].scores[0] * 255 for x in found], levels, atol=1e-3)
    assert [x["instances"].image_size[0] for x in found] == [x.shape[0] for x in images]
    streamed = list(detector.stream(iter(images), batch_size=4, max_padding=0.5))
    np.testing.assert_allclose([x["instances"].scores[0] * 255 for x in streamed], levels, atol=1e-3)


def test_padding_to_a_fixed_size(tmp_path: Path) -> None:
    write_model(tmp_path / "model", resizing=Resizing(within=(16, 64)))
    found = load(tmp_path / "model")(gray(255, 40, 80))["instances"]
    np.testing.assert_allclose(found.pred_boxes, [[0, 0, 40, 40]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [1], atol=1e-6)


def test_padding_to_multiples(tmp_path: Path) -> None:
    description = write_model(tmp_path / "model", size_divisor=16, smallest_side=32)
    assert description.padded_size(33, 16) == (48, 32) and description.padded_size(64, 160) == (64, 160)
    found = load(tmp_path / "model")(gray(255, 40, 80))["instances"]
    np.testing.assert_allclose(found.pred_boxes, [[0, 0, 40, 40]], atol=1e-4)


def test_vocabularies(tmp_path: Path) -> None:
    write_model(tmp_path / "model", texts=True)
    detector = load(tmp_path / "model")
    image = gray(255, 20, 20)
    assert detector(image)["instances"].pred_classes.tolist() == [1]
    detector.set_vocabulary(["Triangle", "disk"])
    assert detector(image)["instances"].pred_classes.tolist() == [1] and detector.class_names == ["Triangle", "disk"]
    assert detector.category_ids is None
    detector.set_vocabulary(["disk"])
    assert detector(image)["instances"].pred_classes.tolist() == [0]
    detector.set_vocabulary(["a", "b", "c", "d"], np.eye(4)[[0, 2, 3, 1]])
    assert detector(image)["instances"].pred_classes.tolist() == [3]
    np.save(tmp_path / "own.npy", TEXTS[[1, 0]])
    (tmp_path / "own.json").write_text(json.dumps({"names": ["x", "y"]}))
    detector.set_vocabulary(tmp_path / "own.npy")
    assert detector(image)["instances"].pred_classes.tolist() == [0] and detector.class_names == ["x", "y"]
    detector.set_vocabulary(NAMES)
    assert detector.category_ids == [3, 5, 9]


@pytest.mark.parametrize(
    ("vocabulary", "weights", "message"),
    [
        (["disk", "cat"], None, "cat: not among the 3 classes"),
        ("disk", None, "is the text 'disk'; give a list"),
        (["a"], np.ones((1, 7)), "7 columns, but the model takes 4"),
        (["a", "b"], np.ones((1, 4)), "do not fit 2 names"),
        (["a"], np.zeros((1, 4)), "zero or not finite"),
        (["a"], np.full((1, 4), np.nan), "zero or not finite"),
    ],
)
def test_vocabularies_that_do_not_fit(
    tmp_path: Path, vocabulary: list[str], weights: np.ndarray | None, message: str
) -> None:
    write_model(tmp_path / "model", texts=True)
    detector = load(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        detector.set_vocabulary(vocabulary, weights)
    assert detector.class_names == NAMES
    write_model(tmp_path / "panoptic", texts=True, fixed_classes=True)
    panoptic = load(tmp_path / "panoptic")
    panoptic.set_vocabulary(["a", "b", "c"], np.eye(3, 4))
    with pytest.raises(ValueError, match="vocabulary has 2 classes, but the panoptic model 3"):
        panoptic.set_vocabulary(["a", "b"], np.eye(2, 4))
    write_model(tmp_path / "linear")
    with pytest.raises(ValueError, match="linear classifier"):
        load(tmp_path / "linear").set_vocabulary(["disk"])


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no exported model: it has no {FILE_NAME}"):
        load(tmp_path)
    write_model(tmp_path / "model")
    with pytest.raises(ValueError, match=r"onnxruntime and openvino can run"):
        load(tmp_path / "model", backend="torch")
    description = json.loads((tmp_path / "model" / FILE_NAME).read_text())
    for change, message in (
        ({"layout": 99}, "has the layout 99"),
        ({"format": "pickle"}, "damaged.*'pickle', not one of"),
        ({"class_names": "disk"}, "damaged.*no list of texts"),
        ({"resizing": {"shortest": 1}}, "damaged"),
        ({"more": 1}, "damaged"),
        ({"text_dim": "4"}, "damaged.*text_dim is '4', no int"),
        ({"precision": "fp64"}, "damaged.*'fp64', not one of fp32"),
        ({"outputs": 3}, "damaged.*outputs is no list of texts"),
    ):
        (tmp_path / "model" / FILE_NAME).write_text(json.dumps(description | change))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "model")
    (tmp_path / "model" / FILE_NAME).write_text(json.dumps(description))
    (tmp_path / "model" / "model.onnx").write_bytes(b"no graph")
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(ValueError, match=rf"{backend} cannot load .*model\.onnx"):
            load(tmp_path / "model", backend)
    (tmp_path / "model" / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.onnx does not exist"):
        load(tmp_path / "model")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    write_model(tmp_path / "model")
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(ImportError, match=rf'pip install {backend}, or "pip install -e \.\[export\]"'):
        load(tmp_path / "model", backend)


def test_neither_torch_nor_detectron2_is_needed(tmp_path: Path) -> None:
    """In an environment that has ONNX Runtime, NumPy and Pillow alone, as far as an import can tell."""
    write_model(tmp_path / "model")
    Image.new("RGB", (90, 50), (51, 0, 0)).save(tmp_path / "red.png")
    code = """
import sys
from importlib.abc import MetaPathFinder

class Forbidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root in {"torch", "torchvision", "detectron2", "fvcore", "iopath", "scipy", "pycocotools", "timm", "tqdm"}:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)

sys.meta_path.insert(0, Forbidden())
from pair_detr.runtime import load
instances = load(sys.argv[1])(sys.argv[2])["instances"]
print(instances.pred_boxes.tolist(), [round(score, 3) for score in instances.scores.tolist()])
import pair_detr
try:
    pair_detr.Predictor
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model", tmp_path / "red.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "[[0.0, 0.0, 45.0, 50.0]] [0.2]"
    assert "needs Detectron2" in second and "pair_detr.runtime" in second
