"""What the tool says of sizes, classes without boxes and images that are there more than once."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_helpers import restored_catalogs, write_coco

from pair_detr.data import register_coco
from pair_detr.data.datasets.split import register_split
from pair_detr.tools import check_dataset

BOX = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0}]


@pytest.fixture(autouse=True)
def _catalogs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # It would keep the log of later tests from caplog.
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    with restored_catalogs():
        yield


def register(name: str, folder: Path, sizes: list[tuple[int, int]]) -> None:
    register_coco(name, str(write_coco(folder, BOX, sizes)), str(folder))


def run(caplog: pytest.LogCaptureFixture, *names: str) -> str:
    with caplog.at_level(logging.INFO, logger="pair_detr"):
        assert check_dataset.main(list(names)) == 0
    return caplog.text


def test_sizes_and_empty_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("sizes_train", tmp_path, [(40, 30), (20, 20)])
    text = run(caplog, "sizes_train")
    assert "sizes_train: images from 20x20 to 40x30 pixels" in text
    assert "sizes_train: boxes: 100% small" in text
    assert "sizes_train: no boxes of: dog" in text
    assert "the content of another image" not in text


def test_images_in_two_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Noise of the same name and size is the same image here."""
    register("shared_train", tmp_path / "train", [(40, 30), (20, 20), (31, 20)])
    register("shared_test", tmp_path / "test", [(40, 30), (25, 25), (31, 20)])
    text = run(caplog, "shared_train", "shared_test")
    assert "shared_train and shared_test share 2 images: " in text
    assert f"{tmp_path / 'train' / '1.png'} = {tmp_path / 'test' / '1.png'}" in text


def test_an_archive_that_was_unpacked_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("twice_train", tmp_path, [(40, 30), (20, 20), (40, 30)])
    shutil.copy(tmp_path / "1.png", tmp_path / "3.png")
    assert "twice_train: 1 image has the content of another image" in run(caplog, "twice_train")


def test_parts_of_a_set_share_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register("divided", tmp_path, [(40, 30), (20, 20), (30, 30), (25, 25)])
    shutil.copy(tmp_path / "annotations.json", tmp_path / "copy.json")
    register_split("divided", 0.5)
    with caplog.at_level(logging.INFO, logger="pair_detr"):
        check_dataset.main(["divided", "divided_train", "divided_val"])
    assert "divided_train: " in caplog.text and " share " not in caplog.text
    register_coco("divided_copy", str(tmp_path / "copy.json"), str(tmp_path))
    assert "divided and divided_copy share 4 images" in run(caplog, "divided", "divided_copy")
