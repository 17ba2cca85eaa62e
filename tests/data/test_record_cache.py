"""Annotations are read once a process, and again where that could give others."""

import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import panoptic_helpers
import pytest
from data_helpers import (
    edit,
    make_cfg,
    needs_panopticapi,
    voc_annotation,
    voc_object,
    write_coco,
    write_image,
    write_voc,
)
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from engine_helpers import tiny_options, write_dataset

from pair_detr.data import load_dataset, register_coco, register_from_config
from pair_detr.data.catalog import forget_dataset
from pair_detr.data.datasets.split import register_split
from pair_detr.engine import argument_parser, main
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.evaluation.pascal_voc import VOCEvaluator
from pair_detr.utils import text_files

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of text is read, by its path."""
    counts: Counter[str] = Counter()
    decode = text_files.decode_text

    def count(data: bytes, file: str | Path, *args: str) -> str:
        counts[str(file)] += 1
        return decode(data, file, *args)

    for module in ("text_files", "xml_files"):
        monkeypatch.setattr(f"pair_detr.utils.{module}.decode_text", count)
    return counts


def _register(file: Path) -> None:
    register_coco("cached", str(file), str(file.parent))


def _write(folder: Path) -> Path:
    return write_coco(
        folder, [{"image_id": 1, "bbox": [5, 5, 10, 10], "segmentation": [[5, 5, 15, 5, 15, 15]]}], [(40, 30)]
    )


def test_training_with_an_evaluation_reads_each_file_once(tmp_path: Path, reads: Counter[str]) -> None:
    sets = []
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        sets.append(write_dataset(tmp_path / part, f"cached_{part}"))
    options = tiny_options(sets[0], tmp_path / "out", SOLVER__MAX_ITER=1, DATASETS__TEST=("cached_val",))
    options += ["DATASETS.REGISTER", str(sets), "TEST.EVAL_PERIOD", "1"]
    results = main(argument_parser().parse_args(options))
    assert "AP" in results["bbox"]
    assert {entry["JSON"]: reads[entry["JSON"]] for entry in sets} == {entry["JSON"]: 1 for entry in sets}


@needs_panopticapi
def test_files_of_panoptic_data_are_read_once(tmp_path: Path, reads: Counter[str]) -> None:
    paths = panoptic_helpers.register(tmp_path / "data")
    things = panoptic_helpers.write_things(tmp_path, "own")
    panoptic_helpers.register(tmp_path / "other", "other", INSTANCES=things)
    cfg = panoptic_helpers.cfg_for("other", tmp_path / "out")
    for _ in range(2):
        require_test_set(cfg, "other")
        build_evaluator(cfg, "other")
    assert reads[str(things)] == 1
    assert reads[str(tmp_path / "other" / "panoptic.json")] == 1
    assert reads[str(paths["JSON"])] == 1


def test_records_are_those_of_the_first_reading_and_may_be_changed(tmp_path: Path, reads: Counter[str]) -> None:
    file = _write(tmp_path)
    _register(file)
    first = load_dataset("cached")
    expected = json.dumps(first)
    for _ in range(2):
        records = load_dataset("cached")
        assert json.dumps(records) == expected
        assert type(records[0]["annotations"][0]["bbox_mode"]) is type(first[0]["annotations"][0]["bbox_mode"])
        records[0]["annotations"][0]["bbox"][0] = -1
        records[0]["annotations"][0]["segmentation"].clear()
        records.clear()
    assert reads[str(file)] == 1


def test_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    file = _write(tmp_path)
    _register(file)
    assert load_dataset("cached")[0]["annotations"][0]["bbox"] == [5, 5, 10, 10]
    edit(file, '"bbox": [5, 5, 10, 10]', '"bbox": [6, 5, 10, 10]')
    assert load_dataset("cached")[0]["annotations"][0]["bbox"] == [6, 5, 10, 10]


def test_dataset_that_is_registered_anew_is_read_anew(tmp_path: Path) -> None:
    _register(_write(tmp_path / "a"))
    load_dataset("cached")
    DatasetCatalog.remove("cached")
    MetadataCatalog.remove("cached")
    _register(write_coco(tmp_path / "b", [], [(40, 30), (30, 30)]))
    assert len(load_dataset("cached")) == 2


def test_metadata_that_are_removed_are_filled_again(tmp_path: Path) -> None:
    _register(_write(tmp_path))
    load_dataset("cached")
    MetadataCatalog.remove("cached")
    load_dataset("cached")
    assert MetadataCatalog.get("cached").thing_classes == ["cat", "dog"]


def test_datasets_of_detectron2_are_read_once(tmp_path: Path, reads: Counter[str]) -> None:
    file = _write(tmp_path)
    register_coco_instances("cached", {}, str(file), str(tmp_path))
    assert load_dataset("cached") == load_dataset("cached")
    assert reads[str(file)] == 1


def test_parts_of_a_split_share_the_reading_and_follow_changes(tmp_path: Path, reads: Counter[str]) -> None:
    file = write_coco(tmp_path, [], [(40, 30)] * 5)
    entry = {"NAME": "cached", "FORMAT": "coco", "JSON": str(file), "IMAGES": str(tmp_path), "SPLIT": {"VAL": 0.4}}
    register_from_config(make_cfg(REGISTER=[entry]))
    for _ in range(2):
        assert [len(load_dataset(f"cached_{part}")) for part in ("train", "val")] == [3, 2]
    assert reads[str(file)] == 1
    write_coco(tmp_path, [], [(40, 30)] * 10)
    assert [len(load_dataset(f"cached_{part}")) for part in ("train", "val")] == [6, 4]


def test_function_of_the_user_is_called_each_time(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 40, 30)
    calls = []

    def load() -> list[dict]:
        calls.append(1)
        return [{"file_name": str(tmp_path / "a.png"), "image_id": len(calls), "annotations": []}]

    DatasetCatalog.register("cached", load)
    assert [load_dataset("cached")[0]["image_id"] for _ in range(3)] == [1, 2, 3]


def _add_to_voc(root: Path) -> None:
    write_image(root / "JPEGImages" / "c.png", 20, 20)
    (root / "Annotations" / "c.xml").write_text(voc_annotation(20, 20, voc_object("dog", 1, 1, 10, 10)))


def test_voc_is_read_once_and_follows_files_that_are_added(tmp_path: Path, reads: Counter[str]) -> None:
    root = write_voc(tmp_path / "voc")
    entry = {"NAME": "cached", "FORMAT": "voc", "ROOT": str(root), "SPLIT": {"VAL": 0.5}, "CLASSES": ["cat", "dog"]}
    register_from_config(make_cfg(REGISTER=[entry]))
    for _ in range(2):
        assert len(load_dataset("cached")) == 2
        VOCEvaluator("cached").require_objects()
    assert reads[str(root / "Annotations" / "a.xml")] == 1
    _add_to_voc(root)
    assert len(load_dataset("cached")) == 3


def test_yolo_is_read_once_and_follows_files_that_are_added(tmp_path: Path, reads: Counter[str]) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.png", 40, 30)
    label = tmp_path / "labels" / "a.txt"
    label.write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    entry = {"NAME": "cached", "FORMAT": "yolo", "ROOT": str(tmp_path), "SPLIT": "train"}
    register_from_config(make_cfg(REGISTER=[entry]))
    for _ in range(2):
        assert [len(record["annotations"]) for record in load_dataset("cached")] == [1, 0]
    assert reads[str(label)] == 1
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert [len(record["annotations"]) for record in load_dataset("cached")] == [1, 1]
    write_image(tmp_path / "images" / "c.png", 40, 30)
    assert len(load_dataset("cached")) == 3


@dataclass
class Loader:
    """A function of the user's that has no hash."""

    count: int

    def __call__(self) -> list[dict]:
        records = [{"file_name": f"{i}.jpg", "image_id": i, "height": 9, "width": 9} for i in range(self.count)]
        return [record | {"annotations": [], "lock": threading.Lock()} for record in records]


def test_functions_of_the_user_may_be_any_object_and_change(tmp_path: Path) -> None:
    """Callers also own the parts of what is returned, and the contents of records need not be picklable."""
    loader = Loader(4)
    DatasetCatalog.register("own", loader)
    (tmp_path / "own.json").write_text("{}")
    MetadataCatalog.get("own").set(thing_classes=["a"], image_root="", json_file=str(tmp_path / "own.json"))
    register_split("own", 0.5)
    assert [len(load_dataset(name)) for name in ("own", "own_train", "own_val")] == [4, 2, 2]
    loader.count = 20
    assert [len(load_dataset(name)) for name in ("own", "own_train", "own_val")] == [20, 10, 10]
    forget_dataset("own")
