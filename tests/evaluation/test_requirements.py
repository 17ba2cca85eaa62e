"""What an evaluation would lack is said before a model runs, and each remedy that is named helps."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import edit, make_cfg, predict, write_coco, write_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from engine_helpers import tiny_options, write_dataset

from pair_detr.data import class_names_of, load_dataset, load_training_dicts, register_coco, register_voc
from pair_detr.engine import Trainer, argument_parser, main
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.evaluation.requirements import require_objects

pytestmark = pytest.mark.usefixtures("catalogs")


def run(entry: dict[str, str], output: Path, *flags: str, **changes: Any) -> dict[str, Any]:
    options = tiny_options(entry, output, DATASETS__TEST=(entry["NAME"],), **changes)
    return main(argument_parser().parse_args(["--num-gpus", "1", *flags, *options]))


def change(file: str, **lists: Any) -> None:
    """Replaces lists of a JSON file; None removes one."""
    content = json.loads(Path(file).read_text()) | lists
    Path(file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def found_by(evaluator: Any, name: str, noise: float = 0) -> dict[str, dict[str, float]]:
    """Results of detections that are the objects of a dataset, or near them."""
    records = load_dataset(name)
    inputs, outputs = predict(
        [r | {"annotations": [a for a in r["annotations"] if not a.get("iscrowd")]} for r in records], noise
    )
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()


@pytest.mark.parametrize("crowds", [False, True])
def test_nothing_to_find_stops_training_and_evaluation(
    tmp_path: Path, crowds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = write_dataset(tmp_path, "train")
    entry = training | {"NAME": "blind", "JSON": str(tmp_path / "blind.json")}
    content = json.loads(Path(training["JSON"]).read_text())
    crowd = [a | {"iscrowd": 1} for a in content["annotations"]] if crowds else []
    Path(entry["JSON"]).write_text(json.dumps(content | {"annotations": crowd}))
    both = {"DATASETS__REGISTER": [training, entry], "DATASETS__TRAIN": ("train",), "SOLVER__MAX_ITER": 2}
    message = rf'"blind": none of its 8 images has an object to find.*{12 if crowds else 0} are crowds'
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "build_model", lambda *args: pytest.fail("a model was built"))
        for flags in ((), ("--eval-only",)):
            with pytest.raises(ValueError, match=message):
                run(entry, tmp_path / "out", *flags, **both)
    with pytest.raises(ValueError, match=message):
        build_evaluator(make_cfg(TRAIN=("train",)), "blind", str(tmp_path))
    # The remedies, one after the other.
    change(entry["JSON"], annotations=None)
    assert run(entry, tmp_path / "out", **both, TEST__EVAL_PERIOD=1) == {}
    assert "bbox" not in (tmp_path / "out" / "metrics.json").read_text()
    written = json.loads((tmp_path / "out" / "inference" / "blind" / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in written} == set(range(8))
    change(entry["JSON"], annotations=[*crowd, content["annotations"][0] | {"id": 99}])
    assert run(entry, tmp_path / "out", "--eval-only", "--resume", **both)["bbox"]["AP"] >= 0


def register_python(name: str, annotations: list[dict[str, Any]] | None, folder: Path) -> str:
    """One image of 90x60 pixels, registered in Python."""
    record = {"file_name": str(folder / "1.png"), "image_id": 1, "width": 90, "height": 60}
    record |= {} if annotations is None else {"annotations": annotations}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], evaluator_type="coco")
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With 1.png."""
    write_coco(tmp_path, [], [(90, 60)])
    return tmp_path


@pytest.mark.parametrize("kind", ["auto", "pascal_voc"])
def test_images_to_predict_on_alone(folder: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    register_python("blind", None, folder)
    cfg = make_cfg(TEST=("blind",))
    cfg.TEST.EVALUATOR = kind
    require_test_set(cfg, "blind")
    assert '"blind" has no annotations: predictions for its 1 image are written' in caplog.text
    evaluator = build_evaluator(cfg, "blind", str(folder / "out"))
    evaluator.reset()
    instances = Instances((60, 90), pred_boxes=Boxes([[1, 1, 9, 9]]), scores=torch.ones(1))
    instances.pred_classes = torch.zeros(1).long()
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    assert evaluator.evaluate() == {}
    assert len(json.loads((folder / "out" / "coco_instances_results.json").read_text())) == 1
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 40.0, 1.0]]
    with pytest.raises(ValueError, match=r'EXPECTED_RESULTS is set, but test set "blind" has no annotations'):
        require_test_set(cfg, "blind")


def test_what_is_trained_on_is_checked_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = {"bbox": [1, 1, 500, 500], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    register_python("both", [box], folder)
    cfg = make_cfg(TRAIN=("both",), TEST=("both",))
    load_training_dicts(cfg)
    require_test_set(cfg, "both", is_trained_on=True)
    assert caplog.text.count("boxes end far beyond their image") == 1
    require_test_set(cfg, "both")
    assert caplog.text.count("boxes end far beyond their image") == 2


def test_objects_of_unknown_classes(folder: Path) -> None:
    box = {"bbox": [1, 1, 8, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
    register_python("own", [box], folder)
    with pytest.raises(
        ValueError, match=r'"own": annotation 0 of .*1\.png has class 2, but its 2 classes have the ids'
    ):
        require_test_set(make_cfg(), "own")


def test_boxes_that_nothing_can_find(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = ([1, 1, 8, 8], [1, 1, 0, 8], [float("nan"), 1, 8, 8])
    register_python("own", [{"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for b in boxes], folder)
    require_test_set(make_cfg(), "own")
    assert (
        '"own": no prediction can find 2 of its boxes: annotation 1 of 1.png has box [1, 1, 0, 8] (zero w'
        in caplog.text
    )
    register_python("nothing", [{"bbox": boxes[2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}], folder)
    with pytest.raises(ValueError, match=r'"nothing": none of its 1 image has an object to find'):
        require_test_set(make_cfg(), "nothing")


def test_difficult_objects_alone(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc")
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    register_voc("difficult", str(root), "train")
    cfg = make_cfg(TEST=("difficult",))
    with pytest.raises(ValueError, match=r"difficult ones and crowds are none.*set TEST\.EVALUATOR coco"):
        require_test_set(cfg, "difficult")
    cfg.TEST.EVALUATOR = "coco"
    require_test_set(cfg, "difficult")
    assert found_by(build_evaluator(cfg, "difficult", str(tmp_path)), "difficult")["bbox"]["AP"] == pytest.approx(100)
    cfg.TEST.EVALUATOR = "auto"
    edit(file, "<difficult>1</difficult><bndbox><xmin>1<", "<difficult>0</difficult><bndbox><xmin>1<")
    require_test_set(cfg, "difficult")
    assert found_by(build_evaluator(cfg, "difficult", str(tmp_path)), "difficult")["voc"]["AP"] == pytest.approx(100)


def test_an_evaluator_can_be_chosen(folder: Path) -> None:
    box = {"bbox": [1, 1, 8, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    register_python("own", [box], folder)
    del MetadataCatalog.get("own").evaluator_type
    cfg = make_cfg()
    with pytest.raises(ValueError, match=r"Choose one with TEST\.EVALUATOR: coco, pascal_voc, lvis, coco_panoptic_seg"):
        require_test_set(cfg, "own")
    for kind, tasks in (("coco", ["bbox"]), ("pascal_voc", ["bbox", "voc"])):
        cfg.TEST.EVALUATOR = kind
        require_test_set(cfg, "own")
        results = found_by(build_evaluator(cfg, "own", str(folder)), "own")
        assert sorted(results) == tasks
        assert all(result["AP"] == pytest.approx(100) for result in results.values())


def limits_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return [message for message in messages if "more objects" in message]


def test_images_with_more_objects_than_the_limits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """120 cats, 30 dogs and a crowd in the first image."""
    boxes = [[10 * (n % 15), 10 * (n // 15), 9, 9] for n in range(150)]
    boxes = [{"image_id": 1, "bbox": b, "category_id": 1 + (n >= 120), "area": 81} for n, b in enumerate(boxes)]
    boxes.append({"image_id": 1, "bbox": [0, 0, 190, 190], "iscrowd": 1, "area": 36100})
    boxes.append({"image_id": 2, "bbox": [0, 0, 90, 90], "area": 8100})
    register_coco("dense", str(write_coco(tmp_path, boxes, [(200, 200)] * 2)), str(tmp_path))
    cfg = make_cfg(TEST=("dense",))
    cfg.MODEL.DETR.NUM_QUERIES = 140
    require_test_set(cfg, "dense")
    evaluation, model, queries = limits_of(caplog)
    start = 'Test set "dense": 1 of 2 images have more objects'
    first = tmp_path / "1.png"
    assert evaluation.startswith(f"{start} of a class than TEST.MAX_DETECTIONS allows (100), up to 120 ({first}): ")
    assert model.startswith(f"{start} than TEST.DETECTIONS_PER_IMAGE allows (100), up to 150 ({first}): ")
    assert queries.startswith(f"{start} than MODEL.DETR.NUM_QUERIES allows (140), up to 150 ({first}): ")
    assert [message.rpartition(". ")[2] for message in (evaluation, model, queries)] == [
        "Set TEST.MAX_DETECTIONS to 120 or more.",
        "Set TEST.DETECTIONS_PER_IMAGE to 150 or more.",
        "Set MODEL.DETR.NUM_QUERIES to 150 or more.",
    ]
    cfg.TEST.MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.DETR.NUM_QUERIES = 120, 150, 150
    require_test_set(cfg, "dense")
    assert limits_of(caplog) == []
    evaluator = build_evaluator(cfg, "dense", str(tmp_path))
    assert found_by(evaluator, "dense")["bbox"]["AP"] == pytest.approx(100)
    # Without classes there are 150 of one.
    cfg.MODEL.DETR.CLASS_AGNOSTIC = True
    require_test_set(cfg, "dense")
    assert len(limits_of(caplog)) == 1
    cfg.TEST.MAX_DETECTIONS = -1
    with pytest.raises(ValueError, match=r"TEST\.MAX_DETECTIONS is -1; it must be 1 or more, or 0"):
        require_test_set(cfg, "dense")


def test_training_images_with_more_objects_than_queries(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "crowded")
    options = {"MODEL__DETR__NUM_QUERIES": 1, "SOLVER__MAX_ITER": 1}
    cfg_options = tiny_options(entry, tmp_path / "out", **options)
    main(argument_parser().parse_args(["--num-gpus", "1", *cfg_options]))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "DATASETS.TRAIN: 4 of 8 images have more objects than MODEL.DETR.NUM_QUERIES allows (1), up to 2" in log


LVIS_CATEGORIES = [{"id": 1, "name": "cat", "frequency": "f"}, {"id": 2, "name": "dog", "frequency": "r"}]


def write_lvis(folder: Path, **changes: Any) -> str:
    """One image with a cat, registered as LVIS's are."""
    box = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [1.0, 1, 8, 8], "area": 64.0}
    box["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    image = {"id": 1, "file_name": "1.png", "width": 90, "height": 60, "coco_url": "http://x.y/z/1.png"}
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {"images": [image], "annotations": [box], "categories": LVIS_CATEGORIES} | changes
    file = folder / "lvis.json"
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return str(file)


def test_lvis(folder: Path) -> None:
    pytest.importorskip("lvis", reason="the package lvis is not installed")
    register_python("own", [{"bbox": [1, 1, 8, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}], folder)
    cfg = make_cfg()
    cfg.TEST.EVALUATOR = "lvis"
    with pytest.raises(ValueError, match=r"own has no json_file in its metadata.*set TEST\.EVALUATOR \"coco\""):
        require_test_set(cfg, "own")
    MetadataCatalog.get("own").json_file = write_lvis(folder)
    require_test_set(cfg, "own")
    # The only annotation has the id 0, which LVIS would take for none.
    results = found_by(build_evaluator(cfg, "own", str(folder)), "own")["bbox"]
    assert results["AP"] == results["APf"] == pytest.approx(100)
    assert np.isnan(results["APr"]) and np.isnan(results["APl"])
    image = json.loads(Path(MetadataCatalog.get("own").json_file).read_text())["images"][0]
    for changes, message in (
        ({"images": [image | {"id": 2**63}]}, r"cannot tell images apart by the ids 9223372036854775808"),
        ({"images": [image | {"id": "a"}]}, r"cannot tell images apart by the ids 'a'"),
        ({"annotations": None}, r"has no list annotations"),
    ):
        write_lvis(folder, **changes)
        with pytest.raises(ValueError, match=rf"lvis\.json.*{message}.*set TEST\.EVALUATOR \"coco\""):
            require_test_set(cfg, "own")
    cfg.TEST.EVALUATOR = "coco"
    require_test_set(cfg, "own")
    assert found_by(build_evaluator(cfg, "own", str(folder)), "own")["bbox"]["AP"] == pytest.approx(100)
    cfg.TEST.EVALUATOR = "lvis"
    write_lvis(folder)
    evaluator = build_evaluator(cfg, "own", str(folder))
    evaluator.reset()
    with pytest.raises(ValueError, match=r"made for image 7 .*lvis\.json has not"):
        evaluator.process([{"image_id": 7}], [{}])


def test_lvis_counts_300_detections_of_an_image(folder: Path) -> None:
    pytest.importorskip("lvis", reason="the package lvis is not installed")
    boxes = [[float(n % 20) * 4, float(n // 20) * 3, 3.0, 2.0] for n in range(350)]
    register_python("own", [{"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for b in boxes], folder)
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": b, "area": 6.0, "segmentation": [[0, 0, 1, 0, 1, 1]]}
        for n, b in enumerate(boxes)
    ]
    MetadataCatalog.get("own").json_file = write_lvis(folder, annotations=annotations)
    cfg = make_cfg()
    cfg.TEST.EVALUATOR = "lvis"
    for limit, expected in ((0, 100 * 86 / 101), (350, 100)):
        cfg.TEST.MAX_DETECTIONS = limit
        assert found_by(build_evaluator(cfg, "own", str(folder)), "own")["bbox"]["AP"] == pytest.approx(expected)
    assert class_names_of("own") == ["cat", "dog"]


def test_boxes_of_no_use_are_named_where_there_are_no_others(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"image_id": 1, "bbox": [5, 5, 9, 9]}], [(40, 30)])
    register_coco("boxless", str(file), str(tmp_path))
    (record,) = load_dataset("boxless")
    record["annotations"][0]["bbox"] = [[5, 5, 9, 9]]
    with pytest.raises(ValueError, match=r"1 have no usable box: annotation 0 of 1\.png .*not four numbers"):
        require_objects("boxless", [record])
