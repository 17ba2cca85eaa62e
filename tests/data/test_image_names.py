"""Files that a dataset names and that are not there: which, what their names get wrong, and what to do."""

import errno
import json
import logging
import os
import unicodedata
from pathlib import Path

import pytest
from data_helpers import make_cfg, write_coco, write_image
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from pair_detr.data import check_dataset, load_dataset, load_training_dicts, register_coco, register_voc
from pair_detr.tools import check_dataset as tool

pytestmark = pytest.mark.usefixtures("catalogs")


def register(name: str, folder: Path, file_names: list[str], files: list[str]) -> Path:
    """Images of the given names in the JSON, their files below ``folder``, and the image folder folder/images."""
    root = folder / "images"
    json_file = write_coco(folder / "json", [{"image_id": 1, "bbox": [1, 1, 9, 9]}], [(40, 30)] * len(file_names))
    content = json.loads(json_file.read_text())
    for image, file_name in zip(content["images"], file_names, strict=True):
        image["file_name"] = file_name
    json_file.write_text(json.dumps(content))
    root.mkdir(exist_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / file, 40, 30)
    register_coco(name, str(json_file), str(root))
    return root


@pytest.mark.parametrize(
    ("file_names", "files", "hint"),
    [
        # The JSON's names begin with the image folder, once or more; or the folder has a level more than they say.
        (["images/a.png"], ["images/a.png"], 'the folder "images" is one too many'),
        (["data/images/a.png"], ["images/a.png"], "the names have folders that are not here"),
        (["train/a.png"], ["images/a.png"], 'the folder "train" is one too many'),
        (["a.png"], ["images/train/a.png"], 'the folder "train" is left out'),
        (["a/b.png"], ["images/train/a/b.png"], 'the folder "train" is left out'),
        (["/home/bob/images/a.png"], ["images/a.png"], "the names have folders that are not here"),
        (["C:\\data\\a.png"], ["images/a.png"], "the names have folders that are not here"),
        (["images\\a.png"], ["images/a.png"], 'the folder "images" is one too many'),
        (["a.PNG"], ["images/a.png"], "upper and lower case differ"),
        (["Train/a.png"], ["images/train/a.png"], "upper and lower case differ"),
        (["a.jpg"], ["images/a.png"], "the suffixes differ"),
        (["a"], ["images/a.png"], "the suffixes differ"),
        (["scan.1"], ["images/scan.1.png"], "the suffixes differ"),
        (["a%20b.png"], ["images/a b.png"], "characters are escaped as in web addresses"),
        (["a b.png"], ["images/a%20b.png"], "characters are escaped as in web addresses"),
        (["a.png "], ["images/a.png"], "there is a space at an end"),
        ([unicodedata.normalize("NFC", "ä.png")], ["images/" + unicodedata.normalize("NFD", "ä.png")], "NFC and NFD"),
        (["a.png"], ["images/b.png", "images/a.txt.png"], ""),
        (["data:image/png;base64," + "A" * 5000], ["images/b.png"], ""),
        (["a\0b.png"], ["images/b.png"], ""),
    ],
)
def test_what_the_names_of_missing_files_get_wrong(
    tmp_path: Path, file_names: list[str], files: list[str], hint: str
) -> None:
    root = register("names", tmp_path, file_names, files)
    report = check_dataset("names")
    assert len(report.missing_files) == 1 and not report.trainable
    with pytest.raises(FileNotFoundError) as error:
        load_training_dicts(make_cfg(TRAIN=("names",)))
    if not hint:
        assert report.missing_hint == ""
        assert "Restore them, correct the image folder, or remove them from the annotations." in str(error.value)
        return
    assert hint in report.missing_hint and report.missing_hint in str(error.value)
    assert f", but {tmp_path / files[0]} does: " in report.missing_hint
    # The file that the message names is there, and what was right stays so.
    assert (tmp_path / files[0]).is_file() and root.is_dir()


def test_most_of_the_missing_files_decide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file_names = ["gone.png", "A.png", *(f"images/{i}.png" for i in range(40))]
    register("most", tmp_path, file_names, ["images/a.png", *(f"images/{i}.png" for i in range(40))])
    with caplog.at_level(logging.INFO, logger="pair_detr"):
        assert not tool.check("most", open_images=False)
    (hint,) = (message for message in caplog.messages if message.startswith("most: missing images: "))
    assert 'the folder "images" is one too many; correct the image folder, or the file names' in hint


def test_backslashes_are_read_as_slashes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ["images/train/a.png", "images/b\\c.png", "images/d.png"]
    root = register("windows", tmp_path, ["train\\a.png", "b\\c.png", "d.png"], files)
    with caplog.at_level(logging.WARNING, logger="pair_detr"):
        records = load_dataset("windows")
        # A name that has one is left alone.
        names = [record["file_name"] for record in records]
        assert names == [str(root / name) for name in ("train/a.png", "b\\c.png", "d.png")]
        assert len(load_training_dicts(make_cfg(TRAIN=("windows",)))) == 3
    found = [message for message in caplog.messages if "backslashes" in message]
    assert found == ['Dataset "windows": 1 file name has backslashes, which are read as slashes.']


@pytest.mark.parametrize("address", ["http://a.b/c/1.jpg", "https://a.b/1.jpg", "ftp://a.b/1.jpg"])
@pytest.mark.parametrize("joined", [False, True])
def test_web_addresses_are_refused(tmp_path: Path, address: str, joined: bool) -> None:
    """Detectron2 would download each image when it first comes to it."""
    if joined:
        register("web", tmp_path, [address], [])
    else:
        record = {"file_name": address, "image_id": 1, "width": 40, "height": 30, "annotations": []}
        DatasetCatalog.register("web", lambda: [record])
        MetadataCatalog.get("web").thing_classes = ["cat"]
    assert not check_dataset("web").trainable
    with pytest.raises(FileNotFoundError, match=r"is a web address: .*Download them into the image folder"):
        load_training_dicts(make_cfg(TRAIN=("web",)))


def test_addresses_with_a_handler_are_accepted() -> None:
    class Handler(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["own://"]

    def register_address(name: str, address: str) -> None:
        record = {"file_name": address, "image_id": 1, "width": 40, "height": 30, "annotations": []}
        DatasetCatalog.register(name, lambda: [record])

    PathManager.register_handler(Handler(), allow_override=True)
    register_address("own", "own://bucket/1.jpg")
    register_address("unknown", "nobody://bucket/1.jpg")
    assert check_dataset("own").missing_files == []
    report = check_dataset("unknown")
    assert report.missing_files == ["nobody://bucket/1.jpg"]
    assert "Nothing opens nobody://bucket/1.jpg: register a handler of nobody://" in report.missing_hint


# ---- annotations that cannot be read ----


def test_remedies_have_to_do_with_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    file = write_coco(folder, [{"image_id": 1, "bbox": [1, 1, 9, 9]}], [(40, 30)])
    for name, path in (("gone", folder / "gone.json"), ("folder", folder), ("below", file / "x.json")):
        register_coco_instances(name, {}, str(path), str(folder))
    for name, remedy in (
        ("gone", "Correct the path where the dataset is registered."),
        ("folder", "It is a folder: register the file with the annotations."),
        ("below", "Correct the path where the dataset is registered."),
    ):
        with pytest.raises(OSError) as error:
            load_dataset(name)
        assert str(error.value).endswith(remedy) and "DETECTRON2_DATASETS" not in str(error.value)
    # Detectron2's own, and whatever is registered below the folder of the datasets.
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"DETECTRON2_DATASETS \(now {tmp_path}\) to the folder that holds"):
        load_dataset("gone")
    register_voc("voc", str(tmp_path.parent / "voc"), "train", ["cat"])
    with pytest.raises(FileNotFoundError, match=r"voc.*; correct the dataset's folder\.$"):
        load_dataset("voc")


def test_files_without_permission() -> None:
    def load() -> list[dict]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "train.json")

    DatasetCatalog.register("private", load)
    with pytest.raises(
        OSError, match=r"Permission denied: 'train\.json'\. Make it readable for the user who runs this\.$"
    ):
        load_dataset("private")
