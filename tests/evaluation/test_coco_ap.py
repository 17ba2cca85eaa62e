"""COCO's AP from records in memory: that of pycocotools for the file, whatever the ids."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, save_a_part, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances as register_with_detectron2
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pair_detr.data import load_dataset, register_coco
from pair_detr.evaluation import COCOEvaluator
from pair_detr.evaluation.build import build_evaluator
from pair_detr.evaluation.coco_ground_truth import make_coco, number_images

pytestmark = pytest.mark.usefixtures("catalogs")

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def noisy_detections(coco: COCO, image_id: Any, classes: dict[Any, int], rng: np.random.Generator) -> Instances:
    """Most objects of an image, moved, some of them of another class; crowds, twice; and boxes of nothing."""
    image = coco.imgs[image_id]
    boxes, masks, labels = [], [], []
    for annotation in coco.imgToAnns[image_id]:
        for _ in range(1 + (rng.random() < 0.3 or annotation["iscrowd"])):
            x, y, w, h = annotation["bbox"]
            left, top = rng.normal(0, 0.1, 2) * (w, h)
            boxes.append([x + left, y + top, x + left + w * rng.normal(1, 0.1), y + top + h * rng.normal(1, 0.1)])
            mask = coco.annToMask(annotation).astype(bool)
            masks.append(np.roll(mask, tuple(rng.integers(-3, 4, 2)), (0, 1)))
            wrong = rng.random() < 0.1
            labels.append(int(rng.integers(len(classes))) if wrong else classes[annotation["category_id"]])
    boxes.append([5.0, 5, 60, 40])
    masks.append(np.zeros((image["height"], image["width"]), dtype=bool))
    masks[-1][5:40, 5:60] = True
    labels.append(int(rng.integers(len(classes))))
    instances = Instances((image["height"], image["width"]), pred_boxes=Boxes(torch.tensor(boxes)))
    # Some scores are the same.
    instances.scores = torch.tensor(rng.integers(1, 60, len(boxes)) / 60)
    instances.pred_classes, instances.pred_masks = torch.tensor(labels), torch.from_numpy(np.array(masks))
    return instances


def official(coco: COCO, found: dict[Any, Instances], categories: list[Any], task: str, limits: list[int]) -> COCOeval:
    """pycocotools by itself."""
    results = []
    for image_id, instances in found.items():
        for number in range(len(instances)):
            corners = instances.pred_boxes.tensor[number]
            entry = {"image_id": image_id, "category_id": categories[int(instances.pred_classes[number])]}
            entry["score"] = float(instances.scores[number])
            if task == "bbox":
                entry["bbox"] = [*corners[:2].tolist(), *(corners[2:] - corners[:2]).tolist()]
            else:
                entry["segmentation"] = mask_util.encode(np.asfortranarray(instances.pred_masks[number].numpy()))
            results.append(entry)
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), task)
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean_precision(evaluation: COCOeval, area: int, threshold: int | None = None) -> float:
    """In percent, over classes that have objects, at the largest limit to detections."""
    precision = evaluation.eval["precision"][slice(None) if threshold is None else threshold, ..., area, -1]
    return 100 * precision[precision > -1].mean()


def expected_metrics(evaluation: COCOeval) -> list[float]:
    return [mean_precision(evaluation, 0, threshold) for threshold in (None, 0, 5)] + [
        mean_precision(evaluation, area) for area in (1, 2, 3)
    ]


def run(evaluator: Any, found: dict[Any, Instances]) -> dict[str, dict[str, float]]:
    evaluator.reset()
    evaluator.process([{"image_id": i} for i in found], [{"instances": x} for x in found.values()])
    return evaluator.evaluate()


@pytest.mark.parametrize("register", [register_coco, register_with_detectron2])
@pytest.mark.parametrize("masks", [True, False])
def test_results_are_those_of_pycocotools(
    shared_dir: Path, tmp_path: Path, masks: bool, register: Callable[..., None]
) -> None:
    """Real annotations, with crowds and sizes of all kinds, polygons and run lengths; ids of categories have gaps."""
    folder = shared_dir / "datasets" / "coco"
    file = folder / "annotations" / "instances_val2017.json"
    metadata = [{}] if register is register_with_detectron2 else []
    register("val", *metadata, str(file), str(folder / "val2017"))
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    categories = sorted(coco.cats)
    rng = np.random.default_rng(0)
    classes = {category: index for index, category in enumerate(categories)}
    found = {image_id: noisy_detections(coco, image_id, classes, rng) for image_id in reversed(coco.getImgIds())}
    assert any(annotation["iscrowd"] for annotation in coco.anns.values())
    cfg = make_cfg(TRAIN=("val",))
    cfg.MODEL.MASK_ON = masks
    if not masks:
        for instances in found.values():
            instances.remove("pred_masks")
    results = run(build_evaluator(cfg, "val", str(tmp_path)), found)
    assert list(results) == (["bbox", "segm"] if masks else ["bbox"])
    for task, metrics in results.items():
        evaluation = official(coco, found, categories, task, [1, 10, 100])
        expected = expected_metrics(evaluation)
        assert min(expected) > 5 and max(expected) < 95
        assert [metrics[key] for key in METRICS] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        for index, category in enumerate(categories):
            precision = evaluation.eval["precision"][:, :, index, 0, -1]
            of_class = 100 * precision[precision > -1].mean() if (precision > -1).any() else float("nan")
            own = metrics[f"AP-{coco.cats[category]['name']}"]
            assert own == pytest.approx(of_class, rel=1e-9, abs=1e-9, nan_ok=True)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {(x["image_id"], x["category_id"]) for x in written} == {
        (i, categories[c]) for i, x in found.items() for c in x.pred_classes.tolist()
    }
    assert COCO.loadRes(coco, written).getAnnIds()


def write_squares(folder: Path, ids: list[Any], count: int = 2) -> Path:
    """One image for each of the ids, with ``count`` squares of cat."""
    boxes = [[12 * n, 5 * m, 4 + m, 4] for m in range(len(ids)) for n in range(count)]
    annotations = [{"image_id": 1 + n // count, "bbox": box, "area": 16} for n, box in enumerate(boxes)]
    file = write_coco(folder, annotations, [(200, 100)] * len(ids))
    content = json.loads(file.read_text())
    for image, own in zip(content["images"], ids, strict=True):
        image["id"] = own
    for annotation in content["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"] - 1]
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    "ids",
    [
        [2**63 + 5, 2**63 + 6, 2**63 + 7],
        [2**53, 2**53 + 1, 2**53 + 2],
        [10**30, 10**30 + 1, 7],
        [-3, 0, -(2**70)],
        ["b", "a", "0001"],
        [3.0, 2.0**53, 7.0],
        ["8f3c9a", "1e5", "inf"],
    ],
)
def test_any_ids_of_images(tmp_path: Path, ids: list[Any]) -> None:
    register_coco("own", str(write_squares(tmp_path, ids)), str(tmp_path))
    plain = write_squares(tmp_path / "plain", [1, 2, 3])
    found, expected_found = {}, {}
    for number, record in enumerate(load_dataset("own")):
        # The objects of the second image are not found.
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        boxes = boxes if ids.index(record["image_id"]) != 1 else [[90.0, 90, 95, 95]]
        instances = Instances((100, 200), pred_boxes=Boxes(torch.tensor(boxes)))
        instances.scores = torch.linspace(0.9, 0.8, len(boxes)) - number / 100
        instances.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
        found[record["image_id"]] = instances
        expected_found[1 + ids.index(record["image_id"])] = instances
    results = run(build_evaluator(make_cfg(), "own", str(tmp_path / "out")), found)["bbox"]
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(plain))
    expected = mean_precision(official(coco, expected_found, [1, 2], "bbox", [1, 10, 100]), 0)
    assert 50 < expected < 80
    assert results["AP"] == pytest.approx(expected, abs=1e-9)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in written} == set(ids)
    saved = torch.load(tmp_path / "out" / "instances_predictions.pth")
    assert {x["image_id"] for x in saved} == {y["image_id"] for x in saved for y in x["instances"]} == set(ids)


def a_detection() -> Instances:
    """Of the first class."""
    boxes = Boxes(torch.tensor([[0.0, 0, 30, 20]]))
    return Instances((100, 200), pred_boxes=boxes, scores=torch.tensor([0.5]), pred_classes=torch.tensor([0]))


def test_files_of_an_evaluation_are_whole_or_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the midst of the second evaluation."""
    register_coco("squares", str(write_squares(tmp_path, [1, 2])), str(tmp_path))
    found = {record["image_id"]: a_detection() for record in load_dataset("squares")}
    folder = tmp_path / "out"
    run(build_evaluator(make_cfg(TEST=("squares",)), "squares", str(folder)), found)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"instances_predictions.pth", "coco_instances_results.json"}
    assert len(torch.load(folder / "instances_predictions.pth")) == 2
    monkeypatch.setattr(torch, "save", save_a_part)
    with pytest.raises(OSError, match="full"):
        run(build_evaluator(make_cfg(TEST=("squares",)), "squares", str(folder)), found)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_image_that_is_not_in_the_ground_truth_is_an_error_at_once(tmp_path: Path) -> None:
    register_coco("own", str(write_squares(tmp_path, [1, 2])), str(tmp_path))
    evaluator = build_evaluator(make_cfg(), "own", str(tmp_path))
    evaluator.reset()
    instances = Instances((9, 9), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    instances.pred_classes = torch.zeros(0).long()
    with pytest.raises(ValueError, match=r'"own": predictions are made for image 3 \(c\.jpg\).*same image_id at each'):
        evaluator.process([{"image_id": 3, "file_name": "c.jpg"}], [{"instances": instances}])
    many = Instances((9, 9), pred_boxes=Boxes(torch.zeros(1, 4)), scores=torch.zeros(1), pred_classes=torch.tensor([2]))
    with pytest.raises(ValueError, match=r"A detection is of class 2, but own has 2 classes"):
        evaluator.process([{"image_id": 1}], [{"instances": many}])


def test_images_with_the_same_id_are_named() -> None:
    records = [{"file_name": name, "image_id": 5, "annotations": []} for name in ("a.jpg", "b.jpg")]
    with pytest.raises(ValueError, match=r'"x": the images a\.jpg and b\.jpg have the same image_id, 5'):
        number_images("x", records)


def test_images_without_predictions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register_coco("own", str(write_squares(tmp_path, [1, 2])), str(tmp_path))
    instances = Instances((100, 200), pred_boxes=Boxes([[0, 0, 4, 4], [12, 0, 16, 4]]), scores=torch.ones(2))
    instances.pred_classes = torch.zeros(2).long()
    results = run(build_evaluator(make_cfg(), "own", str(tmp_path)), {1: instances})
    # Recall is at most 1/2: 51 of the 101 points.
    assert results["bbox"]["AP"] == pytest.approx(100 * 51 / 101)
    assert "1 of its 2 images have no predictions, so that their objects are not found: 2." in caplog.text


def test_annotations_in_the_form_of_python(tmp_path: Path) -> None:
    """Two corners, classes in another order than the category ids, and no area: that of the box, or of the mask."""
    triangle = [[10.0, 10, 50, 10, 10, 50]]
    annotations = [
        {"bbox": [10, 10, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": triangle},
        {"bbox": [60, 10, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": triangle, "area": 7},
    ]
    record = {"file_name": "a.jpg", "image_id": "a", "width": 90, "height": 60, "annotations": annotations}
    numbers = number_images("own", [record])
    boxes = make_coco([record], numbers, ["cat", "dog"], masks=False).dataset["annotations"]
    assert [(a["id"], a["image_id"], a["category_id"], a["bbox"], a["area"]) for a in boxes] == [
        (1, 1, 2, [10, 10, 40, 40], 1600),
        (2, 1, 1, [60, 10, 5, 5], 7),
    ]
    masks = make_coco([record], numbers, ["cat", "dog"], masks=True).dataset["annotations"]
    expected = int(mask_util.area(mask_util.merge(mask_util.frPyObjects(triangle, 60, 90))))
    assert [a["area"] for a in masks] == [expected, 7] and 700 < expected < 900

    DatasetCatalog.register("own", lambda: [record])
    MetadataCatalog.get("own").set(thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={30: 0, 20: 1})
    cfg = make_cfg()
    cfg.TEST.EVALUATOR = "coco"
    instances = Instances((60, 90), pred_boxes=Boxes([[10, 10, 50, 50]]), scores=torch.ones(1))
    instances.pred_classes = torch.tensor([1])
    results = run(build_evaluator(cfg, "own", str(tmp_path)), {"a": instances})["bbox"]
    assert (results["AP-cat"], results["AP-dog"]) == pytest.approx((0, 100))
    (written,) = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert (written["image_id"], written["category_id"]) == ("a", 20)


def test_boxes_that_are_no_numbers_are_found_by_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pycocotools would find a box of NaN in every detection."""
    nan = float("nan")
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for box in ([0, 0, 9, 9], [nan, 0, 9, 9])
    ]
    record = {"file_name": "a.jpg", "image_id": 1, "width": 90, "height": 60, "annotations": annotations}
    evaluator = COCOEvaluator("own", [record], ["cat"])
    instances = Instances((60, 90), pred_boxes=Boxes([[0, 0, 9, 9], [30, 30, 50, 50]]), scores=torch.tensor([0.8, 0.9]))
    instances.pred_classes = torch.zeros(2).long()
    # The one with the higher score is wrong.
    assert run(evaluator, {1: instances})["bbox"]["AP"] == pytest.approx(50)


@pytest.mark.parametrize("limit", [1, 5, 10, 100, 150, 1000])
def test_the_limit_to_detections(tmp_path: Path, limit: int) -> None:
    """150 objects of one class: all results are those of pycocotools with this limit."""
    rng = np.random.default_rng(0)
    boxes = [[float(x), float(y), *size] for x in range(0, 600, 40) for y in range(0, 400, 40) for size in ((8, 8),)]
    boxes = [[*box[:2], *((39.0, 39.0) if n % 3 == 0 else (8.0, 8.0))] for n, box in enumerate(boxes)]
    annotations = [{"image_id": 1, "bbox": box, "area": box[2] * box[3]} for box in boxes]
    file = write_coco(tmp_path, annotations, [(640, 480)])
    register_coco("dense", str(file), str(tmp_path))
    corners = torch.tensor(boxes)
    corners[:, 2:] += corners[:, :2]
    instances = Instances((480, 640), pred_boxes=Boxes(corners), scores=torch.tensor(rng.random(len(boxes))))
    instances.pred_classes = torch.zeros(len(boxes)).long()
    cfg = make_cfg()
    cfg.TEST.MAX_DETECTIONS = limit
    evaluator = build_evaluator(cfg, "dense", str(tmp_path / "out"))
    results = run(evaluator, {1: instances})["bbox"]
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    expected = official(coco, {1: instances}, [1, 2], "bbox", [limit])
    precision = [mean_precision(expected, 0, threshold) for threshold in (None, 0, 5)]
    precision += [mean_precision(expected, 1), mean_precision(expected, 2)]
    assert len(boxes) == 150
    assert [results[key] for key in METRICS[:5]] == pytest.approx(precision, abs=1e-9)
    assert np.isnan(results["APl"])
    if limit >= 150:
        assert results["AP"] == pytest.approx(100)
    elif limit == 100:
        # A recall of 2/3 is reached at 67 of the 101 points.
        assert results["AP"] == pytest.approx(100 * 67 / 101)


def test_recalls_of_the_limit(tmp_path: Path) -> None:
    """As with COCO's own, at 1, at 10 and at the limit."""
    register_coco("row", str(write_squares(tmp_path, [1], count=15)), str(tmp_path))
    record = load_dataset("row")[0]
    corners = torch.tensor(
        [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
    )
    instances = Instances((100, 200), pred_boxes=Boxes(corners), scores=torch.ones(15))
    instances.pred_classes = torch.zeros(15).long()
    evaluator = COCOEvaluator("row", [record], ["cat"], max_detections=12)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    evaluation = evaluator._compare(
        [evaluator._as_evaluated(x) for x in evaluator._predictions[0]["instances"]], "bbox", None
    )
    assert evaluation.stats[6:9] == pytest.approx([1 / 15, 10 / 15, 12 / 15])
