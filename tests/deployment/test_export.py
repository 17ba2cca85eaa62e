"""Exported graphs detect what the model detects, for any number and size of images, and any vocabulary."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from model_helpers import build, tiny_cfg
from open_vocabulary_helpers import NAMES, make_texts, make_vocabulary, text_cfg
from runtime_helpers import write_model
from scipy.optimize import linear_sum_assignment
from segmentation_helpers import build_sharp, panoptic_cfg

from pair_detr import prepare_for_inference, runtime
from pair_detr.deployment import ExportOptions, export_model, verification
from pair_detr.deployment.export import require_folder, trace
from pair_detr.deployment.graph import DetectionGraph
from pair_detr.engine.user_errors import USER_ERRORS
from pair_detr.modeling.meta_arch import DetectionTransformer

# Of images in batches of 1, 2 and 5: all of one size, and of different ones.
BATCHES = (
    [(64, 96)],
    [(64, 96), (64, 96)],
    [(112, 80), (48, 80)],
    [(64, 96), (40, 96), (64, 56), (96, 64), (33, 47)],
)
EVERYTHING = {
    "DENSE__ENABLED": True,
    "QUERY_SELECTION": "boxes",
    "RELATIVE_BOXES": True,
    "BOX_REFINEMENT": "look_forward_twice",
    "QUERY_GROUPS": 2,
    "DENOISING__GROUPS": 2,
    "LOSS__CLASSIFICATION": "mal",
    "MASK__QUERY_DECODER": "center",
}


def small(cfg: CfgNode, decoder_layers: int = 1) -> CfgNode:
    """With fewer layers, which are exported one by one."""
    cfg.MODEL.DETR.ENC_LAYERS, cfg.MODEL.DETR.DEC_LAYERS = 1, decoder_layers
    # Images keep their size.
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


def patches(cfg: CfgNode) -> CfgNode:
    """With a backbone of one convolution: every other makes the sizes of a trace longer terms, and it slower."""
    cfg.MODEL.BACKBONE.NAME = "build_patch_backbone"
    return cfg


def decoder_of_one_size() -> CfgNode:
    """For what is not about the graph: it is traced in a third of the time."""
    cfg = patches(small(tiny_cfg("conditional_detr")))
    cfg.MODEL.DETR.ENC_LAYERS = 0
    cfg.INPUT.FIXED_SIZE = [64, 64]
    return cfg


def assert_detects_the_same(
    model: DetectionTransformer, detector: runtime.Detector, sizes: Sequence[tuple[int, int]]
) -> None:
    """Up to 1e-3 pixels and scores to 1e-4, detections of the same class in the order of their scores."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    with torch.no_grad():
        expected = model([{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images])
    found = detector.predict([(image, image.shape[:2]) for image in images])
    for one, other in zip(expected, found, strict=True):
        assert_equal(one["instances"], other["instances"].to_detectron2())


def assert_equal(expected: Instances, found: Instances) -> None:
    assert len(expected) == len(found) > 0
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    # Detections of the same score may have changed places.
    other_class = expected.pred_classes[:, None] != found.pred_classes
    order = linear_sum_assignment(
        torch.cdist(expected.pred_boxes.tensor, found.pred_boxes.tensor, p=1) + 1e6 * other_class
    )[1]
    found = found[torch.from_numpy(order)]
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)
    if expected.has("pred_masks"):
        assert 0 < expected.pred_masks.float().mean() < 1
        assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-3


@pytest.mark.parametrize("queries", ["content", "cross_attention"])
def test_everything_at_once(queries: str, tmp_path: Path) -> None:
    """Two decoders, selected and refined boxes, masks, texts; with branches of the training in the config."""
    cfg = small(text_cfg(tmp_path, "pair_detr", **EVERYTHING), decoder_layers=2)
    cfg.MODEL.CLIP.QUERIES = queries
    cfg.MODEL.CLIP.OBJECTNESS, cfg.TEST.OBJECTNESS_POWER = queries == "content", 0.0
    # The others have an encoder.
    cfg.MODEL.DETR.ENC_LAYERS = 0
    cfg.MODEL.MASK_ON = True
    cfg.TEST.NMS_THRESH = 0.7
    model = build_sharp(cfg).eval()
    model.set_vocabulary(NAMES, make_texts(len(NAMES)))
    model.detections_per_image = cfg.MODEL.DETR.NUM_QUERIES
    with torch.no_grad():
        # Of random heads, boxes relative to others leave the image.
        for head in (model.detector.box_head, model.detector.query_builder.dense_head.box_head):
            head.mlp.layers[-1].weight.mul_(0.2)
            head.mlp.layers[-1].bias.zero_()
    description = export_model(model, cfg, tmp_path / "out", ExportOptions())
    assert description.outputs == ["boxes", "scores", "labels", "masks"] and description.text_dim == 12
    for backend in ("onnxruntime", "openvino"):
        detector = runtime.load(tmp_path / "out", backend)
        for sizes in BATCHES:
            assert_detects_the_same(model, detector, sizes)
        for count in (1, 8):
            names, texts = [f"class {i}" for i in range(count)], make_texts(count, seed=3)
            other = deepcopy(model)
            other.set_vocabulary(names, texts)
            detector.set_vocabulary(names, texts.numpy())
            assert_detects_the_same(other, detector, BATCHES[2])


def test_detr_by_openvino(tmp_path: Path) -> None:
    """Softmax with a no-object class; and what was exported before is replaced, other folders are not."""
    cfg = small(tiny_cfg("detr"))
    model = build(cfg).eval()
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds thesis\.txt, which is no part of an exported model"):
        export_model(model, cfg, output, ExportOptions("openvino"))
    (output / "thesis.txt").unlink()
    # Other programs have files of that name as well.
    (output / "model.json").write_text('{"format": "layers-model"}')
    with pytest.raises(FileExistsError, match="is no exported model of this release"):
        export_model(model, cfg, output, ExportOptions("openvino"))
    (output / "model.json").unlink()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, cfg, output, ExportOptions("openvino"), ["a", "b", "c"], [1, 2, 5])
    assert {path.name for path in output.iterdir()} == {"model.xml", "model.bin", "model.json"}
    detector = runtime.load(output)
    assert detector.class_names == ["a", "b", "c"] and detector.category_ids == [1, 2, 5]
    for sizes in BATCHES:
        assert_detects_the_same(model, detector, sizes)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("fixed", [False, True], ids=["any_size", "fixed"])
def test_conditional_detr_by_torch(tmp_path: Path, fixed: bool) -> None:
    """A program of torch.export; of a model with INPUT.FIXED_SIZE, whose boxes are relative to the padded image."""
    cfg = small(tiny_cfg("conditional_detr"))
    if fixed:
        cfg.INPUT.FIXED_SIZE = [112, 96]
    else:
        patches(cfg)
    model = build(cfg).eval()
    export_model(model, cfg, tmp_path / "out", ExportOptions("torch_export", top_k=5))
    model.detections_per_image = 5
    with pytest.raises(ValueError, match=r'can hide code .* say backend="torch" .* if you trust'):
        runtime.load(tmp_path / "out")
    detector = runtime.load(tmp_path / "out", "torch")
    assert detector.description.resizing.within == ((112, 96) if fixed else None)
    for sizes in BATCHES:
        assert_detects_the_same(model, detector, sizes)


def test_backbones_that_pad_by_the_size() -> None:
    """As TensorFlow pads; images of other sizes are padded to multiples of the stride by the runtime."""
    cfg = small(tiny_cfg("conditional_detr"))
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "mobilenetv2_035", [2]
    cfg.MODEL.TIMM.KWARGS.pad_type = "same"
    model = build(cfg).eval()
    graph = DetectionGraph(prepare_for_inference(model, "fp32"), top_k=100).eval()
    assert graph.size_divisor == 8
    program = trace(graph, channels=3).module()
    for height, width in ((64, 96), (128, 80)):
        images = torch.randint(256, (1, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            expected = model([{"image": images[0]}])[0]["instances"]
            boxes, scores, labels = program(images=images, sizes=torch.tensor([[height, width]]))
        kept = labels[0] >= 0
        found = Instances((height, width), pred_boxes=Boxes(boxes[0][kept]))
        found.scores, found.pred_classes = scores[0][kept], labels[0][kept]
        assert_equal(expected, found)


def test_boxes_from_pairs() -> None:
    """A number that became a constant of the graph would make another batch fail."""
    model = build(patches(small(tiny_cfg("pair_detr", PAIR__BOX_DECODING="pair")))).eval()
    graph = DetectionGraph(model, top_k=100).eval()
    program = trace(graph, channels=3).module()
    for sizes in BATCHES:
        height, width = np.max(sizes, axis=0).tolist()
        images = torch.randint(256, (len(sizes), 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            expected, found = graph(images, torch.tensor(sizes)), program(images=images, sizes=torch.tensor(sizes))
        torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=0)


def test_panoptic_models_with_texts(tmp_path: Path) -> None:
    """What is a thing is known by the position of a class, so that their number is a constant."""
    with restored_catalogs():
        cfg = small(panoptic_cfg("conditional_detr", "made_up"))
        vocabulary = make_vocabulary(("cat", "dog", "sky", "sea"))
        vocabulary.save(tmp_path / "texts.npy")
        cfg.MODEL.CLIP.TEXT_WEIGHTS = str(tmp_path / "texts.npy")
        model = build(cfg).eval()
    graph = DetectionGraph(model, top_k=7).eval()
    program = trace(graph, channels=3, texts=vocabulary.weights).module()
    inputs = {"images": torch.randint(256, (3, 3, 64, 80), dtype=torch.uint8), "sizes": torch.tensor([[64, 80]] * 3)}
    with torch.no_grad():
        boxes, scores, labels, _ = program(**inputs, texts=vocabulary.weights)
        expected = graph(**inputs, texts=vocabulary.weights)
    torch.testing.assert_close(scores, expected[1], atol=1e-5, rtol=0)
    assert set(labels.unique().tolist()) <= {-1, 0, 1} and boxes.shape == (3, 7, 4)


def test_options_that_do_not_go_together() -> None:
    for options, message in (
        ({"format": "tflite"}, "choose from onnx, openvino, torch_export"),
        ({"precision": "bf16"}, "bf16', which onnx does not compute in; choose from fp32, fp16"),
        ({"top_k": 0}, "top_k is 0"),
        ({"fixed_size": (0, 8)}, "1 pixel or more"),
    ):
        with pytest.raises(ValueError, match=message):
            ExportOptions(**options)
    cfg = tiny_cfg("detr")
    cfg.INPUT.FIXED_SIZE = [64, 64]
    with pytest.raises(ValueError, match=r"INPUT.FIXED_SIZE \[64, 64\]"):
        export_model(build(cfg), cfg, Path("never"), ExportOptions(fixed_size=(96, 96)))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r'--format openvino needs onnxscript: .*"pip install -e \.\[export\]"'):
        cfg = tiny_cfg("detr")
        export_model(build(cfg), cfg, tmp_path / "out", ExportOptions("openvino"))


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> list[np.ndarray]:
    return [np.array([boxes], np.float32), np.array([scores], np.float32), np.array([labels])]


def test_comparison_by_hand() -> None:
    """Detections of the same score may change places; one that is elsewhere, or of another class, may not."""
    box, other, last = [0, 0, 10, 10], [5, 5, 20, 20], [1, 1, 2, 2]
    expected = detections([box, other, last], [0.9, 0.9, 0.1], [0, 0, 1])
    compare = verification.compare
    assert compare(expected, detections([other, box, last], [0.9, 0.9, 0.1], [0, 0, 1])).box == 0
    assert compare(expected, detections([box, other, [7, 7, 9, 9]], [0.9, 0.9, 0.1], [0, 0, 1])).box == 0
    moved = compare(expected, detections([[0, 0, 10, 13], other, last], [0.9, 0.9, 0.1], [0, 0, 1]))
    assert moved.box == pytest.approx(3)
    assert compare(expected, detections([[0, 0, 10, 13], other, last], [0.9, 0.9, 0.1], [0, 0, 1]), 0.5).box == 3
    assert compare(expected, detections([box, [5, 5, 20, 24], last], [0.9, 0.9, 0.1], [0, 0, 1]), 0.0).box == 0
    assert compare(expected, detections([box, other, last], [0.9, 0.9, 0.1], [0, 1, 1])).box == 10
    assert compare(expected, detections([box, other, last], [0.9, 0.7, 0.1], [0, 0, 1])).score == pytest.approx(0.2)
    assert compare(expected, detections([box, other, last], [0.9, 0.9, 0.1], [-1, -1, -1]), 0.5).score == np.inf


def test_a_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    """Of features beyond 65504 half precision makes infinity, of which nothing is detected."""
    cfg = decoder_of_one_size()
    model = build(cfg).eval()
    torch.nn.init.constant_(model.detector.input_proj.bias, 1e6)
    with pytest.raises(verification.ExportError, match="Export with --precision fp32"):
        export_model(model, cfg, tmp_path / "out", ExportOptions("torch_export", "fp16"))


def test_large_models_are_replaced_as_well(tmp_path: Path) -> None:
    """Beyond 2 GB the weights of an ONNX graph are in a file of their own."""
    write_model(tmp_path / "out")
    (tmp_path / "out" / "model.onnx.data").write_bytes(b"weights")
    require_folder(tmp_path / "out")


def test_a_graph_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is left in the place of the folder then."""

    class Wrong:
        package = "a wrong session"

        def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return detections([[0, 0, 1, 1]] * 21, [0.5] * 21, [0] * 21)

    monkeypatch.setattr(verification, "open_session", lambda *_: Wrong())
    cfg = decoder_of_one_size()
    # Which programs end with in a line.
    assert issubclass(verification.ExportError, USER_ERRORS)
    with pytest.raises(verification.ExportError, match="differs from the model"):
        export_model(build(cfg).eval(), cfg, tmp_path / "out", ExportOptions("torch_export"))
    assert list(tmp_path.iterdir()) == []
