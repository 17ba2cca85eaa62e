"""Custom data from a config, and the builtin datasets."""

import importlib
from pathlib import Path

import pytest
from data_helpers import make_cfg, write_coco, write_voc
from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.data import class_names_of, datasets_root, load_dataset, register_from_config
from pair_detr.data.datasets import builtin

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc")


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    boxes = [{"image_id": 1, "bbox": [1, 2, 10, 8]}, {"image_id": 2, "bbox": [0, 0, 5, 5], "category_id": 2}]
    return write_coco(tmp_path / "coco", boxes, [(40, 30), (20, 20)])


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
    with pytest.raises(ValueError, match=r'"coco_2017_val" is the name of a dataset registered elsewhere'):
        register_from_config(make_cfg(REGISTER=[{**coco, "NAME": "coco_2017_val"}]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"FORMAT": "kitti"},
            ValueError,
            r"REGISTER\[0\]: FORMAT is 'kitti'; it must be one of auto, coco, voc",
        ),
        ({"FORMAT": None}, ValueError, "FORMAT is None"),
        ({"JSON": None}, ValueError, "JSON is missing; FORMAT coco needs"),
        ({"IMAGE": "x"}, ValueError, "FORMAT coco has no IMAGE; its keys are"),
        ({"JSON": "/nowhere/a.json"}, FileNotFoundError, r"JSON names /nowhere/a\.json, which does not exist"),
        ({"JSON": "."}, FileNotFoundError, r"JSON names \., which is a folder, not a file"),
        ({"IMAGES": "/nowhere"}, FileNotFoundError, "IMAGES names /nowhere"),
        ({"IMAGES": __file__}, FileNotFoundError, r"IMAGES names .*\.py, which is a file, not a folder"),
        ({"FORMAT": "voc", "JSON": None, "IMAGES": None, "ROOT": ".", "SPLIT": "x"}, FileNotFoundError, "SPLIT names"),
        ({"FORMAT": "yolo", "JSON": None, "IMAGES": None, "ROOT": "/nowhere", "SPLIT": "x"}, FileNotFoundError, "ROOT"),
        ({"NAME": 5}, ValueError, r"REGISTER\[0\]: NAME is 5; it must be text"),
        ({"IMAGES": ["a", "b"]}, ValueError, r"IMAGES is \['a', 'b'\]; it must be text"),
        ({"JSON": ""}, ValueError, "JSON is ''; it must be text"),
        ({"NOVEL_CLASSES": "helmet"}, ValueError, "NOVEL_CLASSES is 'helmet'; it must be a list of names"),
        ({"SPLIT": "train"}, ValueError, r"SPLIT is 'train'; for FORMAT coco it is \{VAL: 0\.2, SEED: 0\}"),
        ({"SPLIT": {"SEED": 1}}, ValueError, r"keys: VAL, SEED\)"),
        ({"SPLIT": {"VAL": 20}}, ValueError, "VAL 20; it must be between 0 and 1"),
        ({"SPLIT": {"VAL": 0.2, "SEED": "x"}}, ValueError, "SEED 'x'; it must be a whole number"),
    ],
)
def test_bad_entry(coco_file: Path, change: dict, error: type[Exception], message: str) -> None:
    entry = {"NAME": "bad", "FORMAT": "coco", "JSON": str(coco_file), "IMAGES": str(coco_file.parent)} | change
    entry = {key: value for key, value in entry.items() if value is not None}
    with pytest.raises(error, match=message):
        register_from_config(make_cfg(REGISTER=[entry]))
    assert "bad" not in DatasetCatalog


@pytest.mark.parametrize("classes", ["dog", [], [True, "dog"], None])
def test_classes_that_are_no_list_of_names(voc_root: Path, classes: object) -> None:
    entry = {"NAME": "bad", "FORMAT": "voc", "ROOT": str(voc_root), "SPLIT": "train", "CLASSES": classes}
    with pytest.raises(ValueError, match=r"REGISTER\[0\]: CLASSES is .*; it must be a list of names"):
        register_from_config(make_cfg(REGISTER=[entry]))


def test_entry_that_is_no_mapping() -> None:
    with pytest.raises(ValueError, match=r"REGISTER\[0\] is 'my_train'; write \{NAME"):
        register_from_config(make_cfg(REGISTER=["my_train"]))


def test_builtin_data_sets_are_found_through_the_environment(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shared_dir / "datasets"
    if not (root / "bccd").is_dir():
        pytest.skip(f"no {root / 'bccd'}")
    DatasetCatalog.clear()
    MetadataCatalog.clear()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    importlib.reload(builtin)
    assert set(DatasetCatalog) == {
        *("shapes_train", "shapes_val", "bccd_train", "bccd_val", "bccd_voc_train", "bccd_voc_val"),
        *("ovcoco_2017_train_base", "ovcoco_2017_val", "ovcoco_2017_train_image_labels", "lvis_v1_train_norare"),
        *(f"open_shapes_{holdout}_train_boxes" for holdout in ("shape", "color", "composition")),
        *(f"open_shapes_{holdout}_train_image_labels" for holdout in ("shape", "color", "composition")),
        *(f"open_shapes_{holdout}_val" for holdout in ("shape", "color", "composition")),
        *("panoptic_shapes_train", "panoptic_shapes_val"),
        *("coco_zeroshot_train", "coco_generalized_zeroshot_val"),
    }
    assert MetadataCatalog.get("bccd_train").thing_classes == MetadataCatalog.get("bccd_voc_val").thing_classes
    assert datasets_root() == root
    assert len(load_dataset("bccd_train")) == len(load_dataset("bccd_voc_train")) == 205
    assert MetadataCatalog.get("bccd_train").evaluator_type == "coco"


def test_names_that_are_taken_stay_the_user_s() -> None:
    DatasetCatalog.clear()
    MetadataCatalog.clear()
    DatasetCatalog.register("shapes_train", lambda: [])
    # As on the first import of the package.
    importlib.reload(builtin)
    assert DatasetCatalog.get("shapes_train") == []
    assert "shapes_val" not in DatasetCatalog and "bccd_train" in DatasetCatalog
