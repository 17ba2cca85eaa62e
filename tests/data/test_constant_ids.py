"""Ids of images that change from one loading to the next."""

import itertools
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import make_cfg, write_coco, write_image
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm

from pair_detr.data import load_dataset, register_coco, require_constant_ids
from pair_detr.data.datasets.split import register_split
from pair_detr.evaluation.build import require_test_set

pytestmark = pytest.mark.usefixtures("catalogs")

_COUNTER = itertools.count()


def register(folder: Path, number: Callable[[str], Any], name: str = "own") -> None:
    """Registers three images, numbered by a function of their files' names."""
    files = ["a.png", "b.png", "c.png"]
    folder.mkdir(exist_ok=True)
    for file in files:
        write_image(folder / file, 20, 10)

    own = {"bbox": [1, 2, 10, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}

    def load() -> list[dict[str, Any]]:
        return [{"file_name": str(folder / file), "image_id": number(file), "annotations": [own]} for file in files]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(thing_classes=["cat"], evaluator_type="coco", image_root=str(folder))


@pytest.mark.parametrize("number", [lambda file: uuid.uuid4().hex, lambda file: next(_COUNTER)])
def test_ids_that_change(tmp_path: Path, number: Callable[[str], Any]) -> None:
    register(tmp_path, number)
    with pytest.raises(ValueError, match=r'"own" is another one each time .*: a\.png has the image_id .*Make image_id'):
        require_test_set(make_cfg(TEST=("own",)), "own")


def test_images_that_change(tmp_path: Path) -> None:
    register(tmp_path, lambda file: file)
    load = DatasetCatalog["own"]
    parts = itertools.cycle([slice(0, 2), slice(1, 3)])
    DatasetCatalog["own"] = lambda: load()[next(parts)]
    with pytest.raises(ValueError, match=r"a\.png has the image_id a\.png at first, and none then"):
        require_constant_ids("own")


@pytest.mark.parametrize("number", [lambda file: file, lambda file: ord(file[0]), lambda file: None])
def test_ids_that_do_not(tmp_path: Path, number: Callable[[str], Any]) -> None:
    register(tmp_path, number)
    require_test_set(make_cfg(TEST=("own",)), "own")


def test_processes_that_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with hash(), whose values for text differ from process to process."""
    register(tmp_path, hash)
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, own])
    require_constant_ids("own")
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, str(random.random())])
    with pytest.raises(ValueError, match=r"in each of the 2 processes, as hash\(\).*Make image_id constant"):
        require_constant_ids("own")


def test_parts_of_such_a_data_set(tmp_path: Path) -> None:
    register(tmp_path, lambda file: uuid.uuid4().hex)
    register_split("own", 0.4)
    assert len(load_dataset("own_val")) == 1
    with pytest.raises(ValueError, match='"own" is another one each time'):
        require_constant_ids("own_val")


def test_files_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 2, 10, 8]}], [(40, 30)])
    register_coco("file", str(file), str(tmp_path))
    monkeypatch.setattr("pair_detr.data.constant_ids.load_dataset", lambda name: pytest.fail("it is read"))
    require_constant_ids("file")
