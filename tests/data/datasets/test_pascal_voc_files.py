"""Pascal VOC's files as people have them: names with spaces, files next to the images, other encodings."""

import unicodedata
from pathlib import Path

import pytest
from data_helpers import edit, voc_annotation, voc_object, write_image

from pair_detr.data.datasets.pascal_voc import infer_class_names, load_voc


def write_voc(root: Path, *images: str, lines: str | bytes = "") -> Path:
    """Writes images with an annotation each, which has a bolt, and the split train."""
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    for image in images:
        add_image(root, image)
        file = (root / "Annotations" / image).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(voc_annotation(40, 30, voc_object("bolt", 1, 1, 9, 9)))
    return root


def add_image(root: Path, image: str) -> None:
    (root / "JPEGImages" / image).parent.mkdir(parents=True, exist_ok=True)
    write_image(root / "JPEGImages" / image, 40, 30)


def loaded(root: Path, split: str | None = "train") -> dict[str, str]:
    """The paths of the images below their folder, by image_id."""
    records = load_voc(str(root), split, ["bolt"])
    assert all(len(record["annotations"]) == 1 for record in records)
    files = {r["image_id"]: Path(r["file_name"]).relative_to(root / "JPEGImages").as_posix() for r in records}
    assert len(files) == len(records)
    return files


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("scan", "scan"),
        ("scan (1)", "scan (1)"),
        ("  scan (2)\t\r", "scan (2)"),
        ("scan -1", "scan"),
        ("scan  0", "scan"),
        # A name first: there is such an image.
        ("scan 1", "scan 1"),
        ("scan 1 1", "scan 1"),
        ("scan (1)  1", "scan (1)"),
        ("scan.jpg", "scan"),
        ("scan (1).xml", "scan (1)"),
        ("scan.JPG -1", "scan"),
        ("JPEGImages/scan (2).jpg", "scan (2)"),
        ("./JPEGImages/scan.jpg ./Annotations/scan.xml", "scan"),
        (r"C:\data\VOC\JPEGImages\scan (1).jpg", "scan (1)"),
        ("img.v1", "img.v1"),
        ("img.v1.jpg  1", "img.v1"),
        ("sub folder/scan", "sub folder/scan"),
        ("Annotations/sub folder/scan.xml", "sub folder/scan"),
    ],
)
def test_a_line_is_a_name_first(tmp_path: Path, line: str, name: str) -> None:
    files = [f"{stem}.jpg" for stem in ("scan", "scan (1)", "scan (2)", "scan 1", "img", "img.v1", "sub folder/scan")]
    assert loaded(write_voc(tmp_path, *files, lines=f"{line}\n\n")) == {name: f"{name}.jpg"}


@pytest.mark.parametrize(
    "line", ["scan 2", "scan two", "scan scan (1)", "(1)", "scan.txt", "other/scan", "scan.xml.jpg"]
)
def test_a_line_that_names_nothing(tmp_path: Path, line: str) -> None:
    root = write_voc(tmp_path, "scan.jpg", "scan (1).jpg", lines=f"scan\n{line}\n")
    with pytest.raises(FileNotFoundError) as caught:
        loaded(root)
    assert f"JPEGImages lacks 1 of the 2 images for {root}/ImageSets/Main/train.txt: {line}. Add" in str(caught.value)


def test_an_image_that_is_listed_twice_is_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_voc(tmp_path, "scan.jpg", "b.jpg", lines="scan\nb\nscan.jpg\nscan 1\n")
    assert loaded(root) == {"scan": "scan.jpg", "b": "b.jpg"}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "train.txt names 1 image more than once; each is used once: scan." in message
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"train\.txt names no images"):
        loaded(root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_other_encodings_and_composed_letters(tmp_path: Path, encoding: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    root = write_voc(tmp_path, f"{decomposed}.jpg", "猫.jpg", lines=f"{composed}\r\n猫\r\n".encode(encoding))
    assert loaded(root) == {decomposed: f"{decomposed}.jpg", "猫": "猫.jpg"}


def test_files_next_to_the_images_and_hidden_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_voc(tmp_path, "a.JPG", "b.png", lines="a\nb\n")
    for name in ("a.txt", "a.json", "a.xml", "b.txt", "Thumbs.db"):
        (root / "JPEGImages" / name).write_text("0 0.5 0.5 0.1 0.1")
    for name in ("Annotations/._a.xml", "Annotations/.ipynb_checkpoints/a-checkpoint.xml", "JPEGImages/._a.JPG"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\0\5\26\7Mac OS X")
    for split in ("train", None):
        assert loaded(root, split) == {"a": "a.JPG", "b": "b.png"}
    assert infer_class_names(str(root)) == ["bolt"]
    assert "left out hidden files (2)" in caplog.text and ".ipynb_checkpoints (1)" in caplog.text


def test_several_images_with_one_annotation(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "a.jpg", "b.jpg", lines="a\nb\n")
    add_image(root, "a.png")
    for split in ("train", None):
        with pytest.raises(ValueError, match=r"JPEGImages/a\.jpg and .*/a\.png with .*/a\.xml\. Remove or rename all"):
            loaded(root, split)
    # The list may say which one, and so may the annotation.
    lists = root / "ImageSets" / "Main"
    (lists / "png.txt").write_text("a.png\nb.bmp")
    assert loaded(root, "png") == {"a": "a.png", "b": "b.jpg"}
    (lists / "both.txt").write_text("a.png\na.jpg")
    with pytest.raises(ValueError, match="not clear what belongs together"):
        loaded(root, "both")
    for filename, image in (("a.png", "a.png"), (r"C:\photos\a.jpg", "a.jpg")):
        annotation = voc_annotation(40, 30, voc_object("bolt", 1, 1, 9, 9))
        (root / "Annotations" / "a.xml").write_text(
            annotation.replace("<size>", f"<filename>{filename}</filename><size>")
        )
        assert loaded(root) == loaded(root, None) == {"a": image, "b": "b.jpg"}
    (root / "Annotations" / "b.XML").write_text(annotation)
    with pytest.raises(ValueError, match=r"b\.jpg with .*b\.XML and .*b\.xml"):
        loaded(root)


def test_images_and_annotations_that_lack_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_voc(tmp_path, "a.jpg", "b.jpg", lines="a\nb\nc\n")
    add_image(root, "c.jpg")
    with pytest.raises(FileNotFoundError, match=r"Annotations lacks 1 of the 3 annotations for .*train\.txt: c\. Add"):
        loaded(root)
    assert loaded(root, None) == {"a": "a.jpg", "b": "b.jpg"}
    assert "1 image has no annotation, and left out: c." in caplog.text
    (root / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"JPEGImages lacks 1 of the 2 images for .*Annotations: b\. Add"):
        loaded(root, None)


def test_class_names_in_the_declared_encoding(tmp_path: Path) -> None:
    root = write_voc(tmp_path, "a.jpg", lines="a")
    edit(root / "Annotations" / "a.xml", "<annotation>", '<?xml version="1.0" encoding="gbk"?><annotation>')
    edit(root / "Annotations" / "a.xml", "bolt", "螺栓")
    (root / "Annotations" / "a.xml").write_bytes((root / "Annotations" / "a.xml").read_text().encode("gbk"))
    assert infer_class_names(str(root)) == ["螺栓"]
    assert load_voc(str(root), "train", ["螺栓"])[0]["annotations"][0]["category_id"] == 0
