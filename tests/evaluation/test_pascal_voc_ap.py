"""VOC's AP agrees with Detectron2's where that one can read the files, and is right where it cannot."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import (
    edit,
    make_cfg,
    predict,
    voc_annotation,
    voc_object,
    write_coco,
    write_image,
    write_voc,
)
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from pair_detr.data import load_dataset, register_coco, register_voc
from pair_detr.evaluation.build import build_evaluator
from pair_detr.evaluation.pascal_voc import VOCEvaluator

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc")


def evaluate(evaluator: DatasetEvaluator, inputs: list[dict], outputs: list[dict]) -> dict[str, float]:
    evaluator.reset()
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    return results.get("voc", results.get("bbox"))


def found(boxes: list[list[float]], classes: list[int], scores: list[float]) -> dict[str, Instances]:
    """One image's output."""
    instances = Instances((30, 40))
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores)
    return {"instances": instances}


def test_perfect_predictions_of_whatever_can_be_loaded(root: Path, tmp_path: Path) -> None:
    """No pose, truncated or difficult, a fraction, a list of two columns, and objects in an image that is no .jpg."""
    file = root / "Annotations" / "a.xml"
    edit(file, "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>", "")
    edit(file, "<xmin>10</xmin>", "<xmin>15.4</xmin>")
    edit(root / "Annotations" / "b.xml", "</annotation>", f"{voc_object('dog', 2, 3, 9, 7)}</annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a  1\nb -1\n\n")
    register_voc("perfect", str(root), "train")
    inputs, outputs = predict(load_dataset("perfect"), noise=0)
    cfg = make_cfg()
    for kind, tasks in (("auto", {"voc", "bbox"}), ("coco", {"bbox"})):
        cfg.TEST.EVALUATOR = kind
        evaluator = build_evaluator(cfg, "perfect", str(tmp_path / "out"))
        evaluator.reset()
        evaluator.process(inputs, outputs)
        results = evaluator.evaluate()
        assert set(results) == tasks
        assert all(result["AP"] == pytest.approx(100) for result in results.values())


def test_both_metrics_are_those_of_either_evaluator(root: Path, tmp_path: Path) -> None:
    """One of the two dogs is found, at an IoU of 0.6: VOC interpolates precision by points, COCO at 101 recalls."""
    edit(root / "Annotations" / "b.xml", "</annotation>", f"{voc_object('dog', 1, 1, 10, 10)}</annotation>")
    register_voc("both", str(root), "train", ["cat", "dog"])
    inputs = load_dataset("both")
    outputs = [found([[0, 0, 40, 18], [9, 4, 20, 15]], [1, 0], [0.9, 0.8]), found([], [], [])]
    evaluator = build_evaluator(make_cfg(), "both", str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    assert results["voc"]["AP50"] == pytest.approx((100 + 50) / 2)
    assert results["bbox"]["AP50"] == pytest.approx((100 + 100 * 51 / 101) / 2)


def test_voc_metric_of_other_data(tmp_path: Path) -> None:
    """Boxes as x, y, width, height, and a crowd that nobody needs to find."""
    boxes = [{"image_id": 1, "bbox": [5, 5, 10, 10]}, {"image_id": 1, "bbox": [0, 20, 9, 9], "iscrowd": 1}]
    register_coco("other", str(write_coco(tmp_path, boxes, [(40, 30)])), str(tmp_path))
    cfg = make_cfg()
    cfg.TEST.EVALUATOR = "pascal_voc"
    evaluator = build_evaluator(cfg, "other", str(tmp_path / "out"))
    output = found([[5, 5, 15, 15], [0, 20, 9, 29]], [0, 0], [0.5, 0.9])
    assert evaluate(evaluator, load_dataset("other"), [output])["AP"] == pytest.approx(100)


@pytest.mark.parametrize("year", [2007, 2012])
def test_agrees_with_detectron2(root: Path, year: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        write_image(root / "JPEGImages" / f"{number}.jpg", 60, 60)
        objects = ""
        for _ in range(rng.integers(5)):
            x, y, w, h = (int(value) for value in rng.integers([1, 1, 12, 12], [30, 30, 30, 30]))
            text = voc_object(("cat", "dog")[rng.integers(2)], x, y, x + w, y + h)
            objects += text.replace("<difficult>0", f"<difficult>{int(rng.random() < 0.3)}")
        (root / "Annotations" / f"{number}.xml").write_text(voc_annotation(60, 60, objects))
    (root / "ImageSets" / "Main" / "many.txt").write_text("".join(f"{number}\n" for number in range(12)))
    register_voc("many", str(root), "many", ["cat", "dog"], year)
    # Every box twice, the other one nearer, and each once more as the other class; some images without any.
    near, nearer = (predict(load_dataset("many"), noise)[1] for noise in (3, 1))
    inputs, outputs = load_dataset("many"), []
    scores = iter(rng.permutation(999) / 1000)
    for first, second in zip(near, nearer, strict=True):
        boxes = [box for o in (first, second, second) for box in o["instances"].pred_boxes.tensor.tolist()]
        classes = first["instances"].pred_classes
        # Detectron2 rounds to these digits.
        boxes = [[round(value, 1) for value in box] for box in boxes]
        outputs.append(found(boxes, torch.cat([classes, classes, 1 - classes]).tolist(), [next(scores) for _ in boxes]))
    expected = evaluate(PascalVOCDetectionEvaluator("many"), inputs[2:], outputs[2:])
    assert 5 < expected["AP"] < 80
    assert evaluate(VOCEvaluator("many"), inputs[2:], outputs[2:]) == pytest.approx(expected, abs=1e-6)


def test_difficult_objects_need_not_be_found(root: Path) -> None:
    dog = "<name>dog</name><pose>Unspecified</pose><truncated>0</truncated>"
    edit(root / "Annotations" / "a.xml", f"{dog}<difficult>0", f"{dog}<difficult>1")
    edit(root / "Annotations" / "b.xml", "</annotation>", f"{voc_object('dog', 1, 1, 10, 10)}</annotation>")
    register_voc("difficult", str(root), "train", ["cat", "dog"])
    dicts = load_dataset("difficult")
    assert [a["difficult"] for a in dicts[0]["annotations"]] == [1, 0]
    cat = found([[9, 4, 20, 15]], [0], [0.5])
    dog = found([[0, 0, 10, 10]], [1], [0.5])
    assert evaluate(VOCEvaluator("difficult"), dicts, [cat, dog])["AP"] == pytest.approx(100)
    # Found twice, with higher scores than the dog that counts: no error.
    both = found([[9, 4, 20, 15], [0, 0, 40, 30], [0, 0, 40, 30]], [0, 1, 1], [0.5, 0.9, 0.8])
    assert evaluate(VOCEvaluator("difficult"), dicts, [both, dog])["AP"] == pytest.approx(100)
    # Found twice, the dog that counts is one error, but below what is right: precision stays 1 up to full recall.
    twice = found([[0, 0, 10, 10], [0, 0, 10, 10]], [1, 1], [0.6, 0.5])
    assert evaluate(VOCEvaluator("difficult"), dicts, [cat, twice])["AP"] == pytest.approx(100)
    # A wrong dog above it halves the precision: (100 + 50) / 2.
    wrong = found([[9, 4, 20, 15], [20, 15, 30, 25]], [0, 1], [0.5, 0.9])
    assert evaluate(VOCEvaluator("difficult"), dicts, [wrong, dog])["AP"] == pytest.approx(75)


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        # The dog, 40 pixels wide, is found up to this one: its IoU is exactly 0.5, or exactly 0.75.
        (20, {"AP": 50, "AP50": 50, "AP75": 50}),
        (30, {"AP": 75, "AP50": 100, "AP75": 50}),
    ],
)
def test_iou_must_be_above_the_threshold(root: Path, right: int, expected: dict[str, float]) -> None:
    register_voc("exact", str(root), "train", ["cat", "dog"])
    outputs = [found([[9, 4, 20, 15], [0, 0, right, 30]], [0, 1], [0.5, 0.9]), found([], [], [])]
    for evaluator_type in (PascalVOCDetectionEvaluator, VOCEvaluator):
        assert evaluate(evaluator_type("exact"), load_dataset("exact"), outputs) == pytest.approx(expected)


def test_a_class_without_objects_is_left_out(root: Path) -> None:
    register_voc("absent", str(root), "train", ["cat", "owl", "dog"])
    inputs, outputs = predict(load_dataset("absent"), noise=0)
    outputs[1] = found([[1, 1, 9, 9]], [1], [0.9])
    assert evaluate(VOCEvaluator("absent"), inputs, outputs)["AP"] == pytest.approx(100)
    (root / "ImageSets" / "Main" / "empty.txt").write_text("b\n")
    register_voc("empty", str(root), "empty", ["cat", "dog"])
    with pytest.raises(ValueError, match=r'"empty": none of its 1 image has an object that Pascal VOC.s AP asks for'):
        evaluate(VOCEvaluator("empty"), inputs[1:], outputs[1:])


def test_without_predictions(root: Path) -> None:
    register_voc("nothing", str(root), "train", ["cat", "dog"])
    none = found([], [], [])
    expected = {"AP": 0, "AP50": 0, "AP75": 0}
    assert evaluate(VOCEvaluator("nothing"), load_dataset("nothing"), [none, none]) == expected
    assert evaluate(VOCEvaluator("nothing"), [], []) == expected


def test_processes_gather_their_predictions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(root / "Annotations" / "b.xml", "</annotation>", f"{voc_object('dog', 2, 3, 9, 7)}</annotation>")
    register_voc("gathered", str(root), "train", ["cat", "dog"])
    inputs, outputs = predict(load_dataset("gathered"), noise=0)
    other = []
    monkeypatch.setattr(comm, "gather", lambda data, dst: other.append(data) or [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    evaluator = VOCEvaluator("gathered")
    evaluator.process(inputs[1:], outputs[1:])
    assert evaluator.evaluate() == {}
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, *other])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    assert evaluate(VOCEvaluator("gathered"), inputs[:1], outputs[:1])["AP"] == pytest.approx(100)
