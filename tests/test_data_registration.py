"""Own data and the builtin data sets in Detectron2's catalogs."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, restored_catalogs, write_coco, write_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from pair_detr.data import builtin, class_names_of, load_dataset, register_coco, register_from_config, register_voc
from pair_detr.data.builtin import BCCD_CLASS_NAMES
from pair_detr.data.voc import load_voc


@pytest.fixture(autouse=True)
def _catalogs() -> Iterator[None]:
    with restored_catalogs():
        yield


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc")


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    boxes = [{"image_id": 1, "bbox": [1, 2, 10, 8]}, {"image_id": 2, "bbox": [0, 0, 5, 5], "category_id": 2}]
    return write_coco(tmp_path / "coco", boxes, [(40, 30), (20, 20)])


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# ---- Pascal VOC ----


def test_voc_boxes(voc_root: Path) -> None:
    register_voc("voc", str(voc_root), "train", ["cat", "dog"])
    first, second = load_dataset("voc")
    assert Path(first["file_name"]) == voc_root / "JPEGImages" / "a.jpg"
    assert (first["image_id"], first["width"], first["height"]) == ("a", 40, 30)
    assert first["annotations"] == [
        {"category_id": 1, "bbox": [0.0, 0.0, 40.0, 30.0], "bbox_mode": BoxMode.XYXY_ABS},
        {"category_id": 0, "bbox": [9.0, 4.0, 20.0, 15.0], "bbox_mode": BoxMode.XYXY_ABS},
    ]
    assert first["annotations"] == load_voc_instances(str(voc_root), "train", ["cat", "dog"])[0]["annotations"]
    assert Path(second["file_name"]).name == "b.png" and second["annotations"] == []


def test_voc_list_of_one_image(voc_root: Path) -> None:
    (voc_root / "ImageSets" / "Main" / "one.txt").write_text("b  -1\n\n")
    assert [d["image_id"] for d in load_voc(str(voc_root), "one", ["cat", "dog"])] == ["b"]


def test_voc_classes_from_all_splits(voc_root: Path) -> None:
    (voc_root / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    register_voc("voc_inferred", str(voc_root), "val")
    assert class_names_of("voc_inferred") == ["cat", "dog"]


def test_voc_box_without_extent_is_dropped(voc_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(voc_root / "Annotations" / "a.xml", "<xmax>20</xmax>", "<xmax>10</xmax>")
    register_voc("voc_flat", str(voc_root), "train", ["cat", "dog"])
    (record, _) = load_dataset("voc_flat")
    assert [a["category_id"] for a in record["annotations"]] == [1]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "annotation 1 of a.jpg has box [10, 5, 10, 15] (zero width)" in warning
    assert "Dropped 1 such box" in warning and "voc_flat" in warning


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>cat</name>", "<name>cow</name>", r'a\.xml: object 1 is of class "cow".*CLASSES'),
        ("<name>cat</name>", "", r"a\.xml: <name> of <object> is missing"),
        ("<xmax>20</xmax>", "<xmax>wide</xmax>", r'a\.xml: <bndbox/xmax> is "wide"'),
        ("<width>40</width>", "<width>0</width>", r"a\.xml: <size> is 0x30; write"),
        ("</annotation>", "", r"a\.xml is not valid XML"),
    ],
)
def test_voc_bad_annotation(voc_root: Path, old: str, new: str, message: str) -> None:
    edit(voc_root / "Annotations" / "a.xml", old, new)
    with pytest.raises(ValueError, match=message):
        load_voc(str(voc_root), "train", ["cat", "dog"])


def test_voc_missing_files(voc_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test\.txt.*splits: \['train'\]"):
        load_voc(str(voc_root), "test", ["cat", "dog"])
    (voc_root / "Annotations" / "b.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"no annotation .*b\.xml; add it or remove"):
        load_voc(str(voc_root), "train", ["cat", "dog"])
    (voc_root / "JPEGImages" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 2 images .*: b\. Add them or remove"):
        load_voc(str(voc_root), "train", ["cat", "dog"])


def test_voc_bad_arguments(voc_root: Path) -> None:
    with pytest.raises(ValueError, match="YEAR is 2010"):
        register_voc("voc_year", str(voc_root), "train", year=2010)
    with pytest.raises(ValueError, match="occurs twice"):
        register_voc("voc_twice", str(voc_root), "train", ["cat", "cat"])


def predict(dicts: list[dict]) -> tuple[list[dict], list[dict]]:
    """Predictions near the truth, each with a score of its own."""
    rng = np.random.default_rng(0)
    inputs, outputs = [], []
    for record in dicts:
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        instances = Instances((record["height"], record["width"]))
        noise = rng.normal(0, 4, (len(boxes), 4))
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4) + noise, dtype=torch.float32))
        instances.scores = torch.tensor(rng.random(len(boxes)))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]], dtype=torch.long)
        inputs.append(record)
        outputs.append({"instances": instances})
    return inputs, outputs


def test_both_evaluators_accept_voc_data(voc_root: Path, tmp_path: Path) -> None:
    register_voc("voc_eval", str(voc_root), "train", ["cat", "dog"])
    assert MetadataCatalog.get("voc_eval").evaluator_type == "pascal_voc"
    inputs, outputs = predict(load_dataset("voc_eval"))
    for record, output in zip(inputs, outputs, strict=True):
        exact = [a["bbox"] for a in record["annotations"]]
        output["instances"].pred_boxes = Boxes(torch.tensor(exact).reshape(-1, 4))
    for evaluator in (
        PascalVOCDetectionEvaluator("voc_eval"),
        COCOEvaluator("voc_eval", output_dir=str(tmp_path / "out")),
    ):
        evaluator.reset()
        evaluator.process(inputs, outputs)
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


# ---- BCCD ----


@pytest.fixture
def bccd_root(shared_dir: Path) -> Path:
    root = shared_dir / "datasets" / "bccd"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    return root


def register_both_layouts(root: Path, split: str) -> None:
    classes = {"thing_classes": list(BCCD_CLASS_NAMES)}
    register_coco(
        f"json_{split}", str(root / "annotations" / f"bccd_{split}.json"), str(root / "JPEGImages"), **classes
    )
    register_voc(f"xml_{split}", str(root), split, BCCD_CLASS_NAMES)


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137)])
def test_bccd_has_the_same_boxes_in_both_layouts(
    bccd_root: Path, split: str, images: int, boxes: int, caplog: pytest.LogCaptureFixture
) -> None:
    register_both_layouts(bccd_root, split)
    layouts = []
    for name in (f"json_{split}", f"xml_{split}"):
        dicts = load_dataset(name)
        layouts.append(
            {
                record["file_name"]: [
                    (a["category_id"], *BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS))
                    for a in record["annotations"]
                ]
                for record in dicts
            }
        )
    assert layouts[0] == layouts[1]
    assert len(layouts[0]) == images and sum(map(len, layouts[0].values())) == boxes
    assert sum("Dropped 1 such box" in r.getMessage() for r in caplog.records) == 1


def test_bccd_has_the_same_ap_in_both_layouts(bccd_root: Path, tmp_path: Path) -> None:
    register_both_layouts(bccd_root, "val")
    results = []
    for name in ("json_val", "xml_val"):
        evaluator = COCOEvaluator(name, output_dir=str(tmp_path / name))
        evaluator.reset()
        evaluator.process(*predict(load_dataset(name)))
        results.append(evaluator.evaluate()["bbox"])
    assert 10 < results[0]["AP"] < 90
    assert results[0] == results[1]


def test_builtin_data_sets_are_found_through_the_environment(bccd_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DatasetCatalog.clear()
    MetadataCatalog.clear()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(bccd_root.parent))
    importlib.reload(builtin)
    assert set(DatasetCatalog) == {
        *("shapes_train", "shapes_val", "bccd_train", "bccd_val", "bccd_voc_train", "bccd_voc_val")
    }
    assert MetadataCatalog.get("bccd_train").thing_classes == MetadataCatalog.get("bccd_voc_val").thing_classes
    assert len(load_dataset("bccd_train")) == len(load_dataset("bccd_voc_train")) == 205
    assert MetadataCatalog.get("bccd_train").evaluator_type == "coco"


# ---- DATASETS.REGISTER ----


def test_entries_survive_files_dump_clone_and_command_line(coco_file: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "config.yaml"
    yaml.write_text(
        "VERSION: 2\nDATASETS:\n  REGISTER:\n"
        f"    - {{NAME: own_coco, FORMAT: coco, JSON: {coco_file}, IMAGES: {coco_file.parent}}}\n"
        f"    - {{NAME: own_voc, FORMAT: voc, ROOT: {coco_file.parent}, SPLIT: train, CLASSES: [cat, dog]}}\n"
    )
    cfg = make_cfg()
    cfg.merge_from_file(str(yaml))
    assert cfg.DATASETS.REGISTER[1]["CLASSES"] == ["cat", "dog"]
    assert cfg.clone().DATASETS.REGISTER == cfg.DATASETS.REGISTER
    (tmp_path / "dumped.yaml").write_text(cfg.dump())
    again = make_cfg()
    again.merge_from_file(str(tmp_path / "dumped.yaml"))
    assert again.DATASETS.REGISTER == cfg.DATASETS.REGISTER
    again.merge_from_list(["DATASETS.REGISTER", "[{'NAME': 'x', 'FORMAT': 'coco'}]"])
    assert again.DATASETS.REGISTER == [{"NAME": "x", "FORMAT": "coco"}]


def test_registering_from_config(coco_file: Path, voc_root: Path) -> None:
    coco = {"NAME": "own_coco", "FORMAT": "coco", "JSON": str(coco_file), "IMAGES": str(coco_file.parent)}
    voc = {"NAME": "own_voc", "FORMAT": "voc", "ROOT": str(voc_root), "SPLIT": "train", "YEAR": 2007}
    register_from_config(make_cfg(REGISTER=[coco, voc]))
    register_from_config(make_cfg(REGISTER=[voc, coco]))
    assert [d["annotations"][0]["bbox"] for d in load_dataset("own_coco")] == [[1, 2, 10, 8], [0, 0, 5, 5]]
    assert class_names_of("own_coco") == ["cat", "dog"]
    assert len(load_dataset("own_voc")) == 2 and MetadataCatalog.get("own_voc").year == 2007
    with pytest.raises(ValueError, match=r'"own_voc" is already registered as .*another NAME'):
        register_from_config(make_cfg(REGISTER=[{**voc, "YEAR": 2012}]))
    with pytest.raises(ValueError, match=r'"coco_2017_val" is the name of a data set registered elsewhere'):
        register_from_config(make_cfg(REGISTER=[{**coco, "NAME": "coco_2017_val"}]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"FORMAT": "yolo"}, ValueError, r"REGISTER\[0\]: FORMAT is 'yolo'; it must be one of coco, voc"),
        ({"FORMAT": None}, ValueError, "FORMAT is None"),
        ({"JSON": None}, ValueError, "JSON is missing; FORMAT coco needs"),
        ({"IMAGE": "x"}, ValueError, "FORMAT coco has no IMAGE; its keys are"),
        ({"JSON": "/nowhere/a.json"}, FileNotFoundError, r"JSON names /nowhere/a\.json, which does not exist"),
        ({"IMAGES": "/nowhere"}, FileNotFoundError, "IMAGES names /nowhere"),
        ({"FORMAT": "voc", "JSON": None, "IMAGES": None, "ROOT": ".", "SPLIT": "x"}, FileNotFoundError, "SPLIT names"),
    ],
)
def test_bad_entry(coco_file: Path, change: dict, error: type[Exception], message: str) -> None:
    entry = {"NAME": "bad", "FORMAT": "coco", "JSON": str(coco_file), "IMAGES": str(coco_file.parent)} | change
    entry = {key: value for key, value in entry.items() if value is not None}
    with pytest.raises(error, match=message):
        register_from_config(make_cfg(REGISTER=[entry]))
    assert "bad" not in DatasetCatalog


def test_entry_that_is_no_mapping() -> None:
    with pytest.raises(ValueError, match=r"REGISTER\[0\] is 'my_train'; write \{NAME"):
        register_from_config(make_cfg(REGISTER=["my_train"]))


# ---- loading ----


def test_unregistered_name() -> None:
    with pytest.raises(KeyError, match=r'"nothing" is not registered: list it in DATASETS\.REGISTER'):
        load_dataset("nothing")


def test_coco_file_that_cannot_be_understood(coco_file: Path) -> None:
    def spoil(name: str, **change: object) -> str:
        content = json.loads(coco_file.read_text()) | change
        (coco_file.parent / f"{name}.json").write_text(json.dumps(content))
        register_coco(name, str(coco_file.parent / f"{name}.json"), str(coco_file.parent))
        return name

    annotation = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
    with pytest.raises(ValueError, match=r"unknown\.json cannot be understood .*category_id=9"):
        load_dataset(spoil("unknown", annotations=[annotation]))
    with pytest.raises(ValueError, match=r"twice\.json cannot be understood .*not unique"):
        load_dataset(spoil("twice", annotations=[annotation | {"category_id": 1}] * 2))
    with pytest.raises(ValueError, match='"empty" has no images'):
        load_dataset(spoil("empty", images=[], annotations=[]))
    (coco_file.parent / "torn.json").write_text('{"images": [')
    register_coco("torn", str(coco_file.parent / "torn.json"), str(coco_file.parent))
    with pytest.raises(ValueError, match=r"torn\.json cannot be understood \(JSONDecodeError"):
        load_dataset("torn")
    register_coco("gone", str(coco_file.parent / "gone.json"), str(coco_file.parent))
    with pytest.raises(FileNotFoundError, match=r"gone\.json.*DETECTRON2_DATASETS"):
        load_dataset("gone")
