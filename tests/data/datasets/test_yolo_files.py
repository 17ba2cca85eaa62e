"""YOLO's files as people have them: in other encodings, with hidden copies, with names that do not fit."""

import codecs
import unicodedata
from pathlib import Path

import pytest
from data_helpers import write_image

from pair_detr.data import class_names_of, load_dataset, register_yolo
from pair_detr.data.datasets.yolo import load_yolo

pytestmark = pytest.mark.usefixtures("catalogs")

BOX = "0 0.5 0.5 0.5 0.5\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, 0.jpg and 1.jpg, with a box each."""
    (tmp_path / "data.yaml").write_text("train: train/images\nnames: [bolt]\n")
    for name in ("0", "1"):
        add(tmp_path, f"{name}.jpg", f"{name}.txt")
    return tmp_path


def add(root: Path, image: str, labels: str = "") -> None:
    """Adds an image, and labels if they are named."""
    file = root / "train" / "images" / image
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, 40, 20)
    if labels:
        file = root / "train" / "labels" / labels
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(BOX)


def boxes(root: Path) -> dict[str, int]:
    """The number of boxes by the name of the image."""
    return {Path(record["file_name"]).name: len(record["annotations"]) for record in load_yolo(root, "train")}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_encodings(root: Path, encoding: str) -> None:
    yaml = "train: train.txt\r\nnames:\r\n- naïve 猫\r\n"
    (root / "data.yaml").write_bytes(yaml.encode(encoding))
    (root / "train.txt").write_bytes("train\\images\\1.jpg\r\n./train/images/0.jpg\r\n".encode(encoding))
    (root / "train" / "labels" / "0.txt").write_bytes("0\t0.5 0.5  0.5 0.5 \r\n\r\n".encode(encoding))
    (root / "train" / "labels" / "1.txt").write_bytes(codecs.BOM_UTF8)
    register_yolo("y", root)
    first, second = load_dataset("y")
    assert class_names_of("y") == ["naïve 猫"]
    assert [a["bbox"] for a in first["annotations"]] == [[10, 5, 30, 15]] and second["annotations"] == []


def test_labels_that_are_no_text_are_named(root: Path) -> None:
    (root / "train" / "labels" / "0.txt").write_bytes(b"0 0.5 0.5 0.5 0.5 \xff\n")
    with pytest.raises(ValueError, match=r"labels/0\.txt is not text in utf-8: byte 0xff at position 18, in line 1\. "):
        load_yolo(root, "train")
    (root / "data.yaml").write_bytes("names: [naïve]\ntrain: train/images".encode("latin-1"))
    with pytest.raises(ValueError, match=r"data\.yaml is not text in utf-8"):
        load_yolo(root, "train")


def test_hidden_copies_are_no_data(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (".ipynb_checkpoints/0-checkpoint.jpg", "__MACOSX/._0.jpg", "._1.jpg"):
        add(root, name, f"{name[:-4]}.txt")
    assert boxes(root) == {"0.jpg": 1, "1.jpg": 1}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "left out hidden files (3)" in message and ".ipynb_checkpoints (1)" in message
    # A list is taken at its word.
    (root / "list.txt").write_text("train/images/.ipynb_checkpoints/0-checkpoint.jpg")
    (root / "data.yaml").write_text("train: list.txt\nnames: [bolt]\n")
    assert boxes(root) == {"0-checkpoint.jpg": 1}


def test_labels_without_an_image_are_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "train" / "labels"
    texts = {
        "gone.txt": BOX,
        "sub/b.txt": BOX,
        "empty.txt": "",
        "classes.txt": "bolt\nnut\n",
        "._0.txt": BOX,
        "a.md": BOX,
    }
    (folder / "sub").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    assert boxes(root) == {"0.jpg": 1, "1.jpg": 1}
    (message,) = [record.getMessage() for record in caplog.records]
    assert f'"train" has 2 files of labels without an image, whose objects are lost: {folder}/gone.txt, ' in message
    assert f"{folder}/sub/b.txt. Restore the images" in message
    # A list may name some of the images alone.
    caplog.clear()
    (root / "list.txt").write_text("train/images/0.jpg")
    (root / "data.yaml").write_text("train: list.txt\nnames: [bolt]\n")
    assert boxes(root) == {"0.jpg": 1} and not caplog.records


def test_labels_next_to_images_without_an_image(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("0.jpg", "2.jpg"):
        (root / "all").mkdir(exist_ok=True)
        write_image(root / "all" / name, 40, 20)
    for name, text in {"0.txt": BOX, "1.txt": BOX, "classes.txt": "bolt"}.items():
        (root / "all" / name).write_text(text)
    (root / "data.yaml").write_text("train: all\nnames: [bolt]\n")
    assert boxes(root) == {"0.jpg": 1, "2.jpg": 0}
    assert f'"train" has 1 file of labels without an image, whose objects are lost: {root}/all/1.txt.' in caplog.text


def test_images_that_share_labels_are_an_error(root: Path) -> None:
    add(root, "0.png")
    with pytest.raises(ValueError, match=r"images/0\.jpg and .*images/0\.png have .*labels/0\.txt\. Remove all but"):
        load_yolo(root, "train")
    # Without objects it does not matter whose they are.
    (root / "train" / "labels" / "0.txt").write_text("")
    assert boxes(root) == {"0.jpg": 0, "0.png": 0, "1.jpg": 1}


def test_names_with_dots_spaces_accents_and_endings_in_upper_case(root: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    files = {
        "img.v1.JPG": "img.v1.txt",
        "a b (1).jpg": "a b (1).txt",
        "c.jpg": "c.TXT",
        f"{composed}.jpg": f"{decomposed}.txt",
    }
    for image, labels in files.items():
        add(root, image, labels)
    assert boxes(root) == {"0.jpg": 1, "1.jpg": 1} | dict.fromkeys(files, 1)


def test_an_image_that_is_named_in_several_ways_is_one(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "list.txt").write_text("train/images/0.jpg\ntrain/../train/images/0.jpg\n")
    (root / "data.yaml").write_text("train: [list.txt, train/images]\npath:\nnames: [bolt]\n")
    assert [record["image_id"] for record in load_yolo(root, "train")] == ["train/images/0.jpg", "train/images/1.jpg"]
    assert '"train" names 1 image more than once; each is used once: train/images/0.jpg.' in caplog.text


def test_paths_of_windows_are_resolved_as_there(root: Path) -> None:
    """By their text: what is before ".." need not exist, nor is it where labels are looked for."""
    write_image(root / "train" / "2.jpg", 40, 20)
    (root / "train" / "2.txt").write_text(BOX)
    lines = [r"train\images\..\images\0.jpg", r"gone\..\train\images\1.jpg", r"train\images\..\2.jpg"]
    (root / "list.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: gone\\..\\list.txt\nnames: [bolt]\n")
    records = load_yolo(root, "train")
    assert [record["image_id"] for record in records] == ["train/2.jpg", "train/images/0.jpg", "train/images/1.jpg"]
    assert [len(record["annotations"]) for record in records] == [1, 1, 1]
    (root / "list.txt").write_text(r"train\images\..\9.jpg")
    with pytest.raises(FileNotFoundError, match=f'images of "train" do not exist: {root}/train/9.jpg. Correct the'):
        load_yolo(root, "train")


def test_lists_without_images_and_names_that_are_no_text(root: Path) -> None:
    (root / "list.txt").write_text("\n")
    (root / "data.yaml").write_text("train: list.txt\nnames: [bolt]\n")
    with pytest.raises(FileNotFoundError, match=r"train names .*list\.txt, which has no images"):
        load_yolo(root, "train")
    (root / "data.yaml").write_text("train: train/images\nnames: [yes, no, bolt]\n")
    with pytest.raises(ValueError, match=r'data\.yaml: names has True, False; put these in quotes: "no"'):
        load_yolo(root, "train")
