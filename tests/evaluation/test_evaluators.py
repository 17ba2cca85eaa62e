import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from data_helpers import make_cfg, restored_catalogs, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from engine_helpers import default_config, write_dataset

from pair_detr.data import register_coco
from pair_detr.evaluation import build as build_module
from pair_detr.evaluation.build import build_evaluator, require_test_set

BOX = [4.0, 5.0, 20.0, 25.0]


@pytest.fixture
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One image with one box, registered without any metadata but its classes."""
    name = f"evaluation_{request.node.name}"
    annotation = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": "a.jpg", "image_id": "a", "width": 40, "height": 40, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["thing"]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def one_box() -> Instances:
    """A detection of BOX."""
    return Instances((40, 40), pred_boxes=Boxes([BOX]), scores=torch.ones(1), pred_classes=torch.zeros(1).int())


def test_coco_from_metadata(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "evaluation_coco")
    register_coco(entry["NAME"], entry["JSON"], entry["IMAGES"])
    assert isinstance(build_evaluator(default_config(), entry["NAME"]), COCOEvaluator)


def test_coco_annotations_need_neither_area_nor_iscrowd_and_may_count_from_0(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "evaluation_bare")
    file = Path(entry["JSON"])
    content = json.loads(file.read_text())
    for number, annotation in enumerate(content["annotations"]):
        del annotation["area"], annotation["iscrowd"]
        annotation["id"] = number
    file.write_text(json.dumps(content))
    register_coco(entry["NAME"], entry["JSON"], entry["IMAGES"])
    evaluator = build_evaluator(default_config(), entry["NAME"], str(tmp_path / "out"))
    evaluator.reset()
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = BoxMode.convert(torch.tensor([a["bbox"] for a in own]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        classes = torch.tensor([a["category_id"] - 1 for a in own])
        instances = Instances((32, 32), pred_boxes=Boxes(boxes), scores=torch.ones(len(own)), pred_classes=classes)
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_output_folder_follows_the_config(dataset: str, tmp_path: Path) -> None:
    cfg = default_config()
    cfg.TEST.EVALUATOR, cfg.OUTPUT_DIR = "coco", str(tmp_path)
    evaluator = build_evaluator(cfg, dataset)
    evaluator.reset()
    evaluator.process([{"image_id": "a"}], [{"instances": one_box()}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "inference" / dataset / "coco_instances_results.json").read_text())
    assert [(x["image_id"], x["category_id"]) for x in written] == [("a", 1)]


def test_unknown_evaluator(dataset: str) -> None:
    cfg = default_config()
    with pytest.raises(ValueError, match=r'evaluator_type is "None".*TEST.EVALUATOR: coco, pascal_voc, lvis'):
        build_evaluator(cfg, dataset)
    cfg.TEST.EVALUATOR = "kitti"
    with pytest.raises(ValueError, match=r'TEST.EVALUATOR is "kitti"'):
        build_evaluator(cfg, dataset)


def test_unknown_dataset() -> None:
    with pytest.raises(KeyError, match=r"no_such_dataset, which is not registered"):
        build_evaluator(default_config(), "no_such_dataset")


def test_lvis(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = default_config()
    cfg.TEST.EVALUATOR = "lvis"
    monkeypatch.setitem(sys.modules, "lvis", None)
    monkeypatch.setattr("pair_detr.evaluation.lvis.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install lvis"):
        build_evaluator(cfg, dataset)

    package = ModuleType("lvis")
    package.__spec__ = ModuleSpec("lvis", None)
    package.LVIS = lambda json_file: MagicMock(dataset={"images": [], "annotations": [], "categories": []})
    monkeypatch.setitem(sys.modules, "lvis", package)
    monkeypatch.setattr("pair_detr.evaluation.lvis.find_spec", lambda name: package.__spec__)
    MetadataCatalog.get(dataset).json_file = "lvis.json"
    assert type(build_evaluator(cfg, dataset)).__name__ == "LVISEvaluator"


def test_what_a_final_evaluation_would_lack_is_found_before_training(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "evaluation_required")
    register_coco(entry["NAME"], entry["JSON"], entry["IMAGES"])
    require_test_set(default_config(), entry["NAME"])
    with pytest.raises(KeyError, match=r"DATASETS\.TEST names nowhere"):
        require_test_set(default_config(), "nowhere")
    cfg = default_config()
    cfg.TEST.EVALUATOR = "cooc"
    with pytest.raises(ValueError, match=r'TEST\.EVALUATOR is "cooc"'):
        require_test_set(cfg, entry["NAME"])
    next(Path(entry["IMAGES"]).iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match="evaluation_required"):
        require_test_set(default_config(), entry["NAME"])


def test_an_evaluator_of_one_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the mark in the code says: an entry in the table is enough."""

    class Counting(DatasetEvaluator):
        def evaluate(self) -> dict[str, float]:
            return {"images": 1.0}

    monkeypatch.setitem(build_module._EVALUATORS, "counting", lambda test_set: Counting())
    with restored_catalogs():
        register_coco("own", str(write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 1, 5, 5]}], [(20, 20)])), tmp_path)
        cfg = make_cfg()
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("own",)
        cfg.TEST.EVALUATOR = "counting"
        require_test_set(cfg, "own")
        assert build_evaluator(cfg, "own").evaluate() == {"images": 1.0}
