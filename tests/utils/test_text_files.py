"""Text in the encodings of other programs, and JSON in them."""

import codecs
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import restored_catalogs, voc_annotation, voc_object, write_coco, write_image

from pair_detr.data import class_names_of, load_dataset, register_coco
from pair_detr.utils.json_files import read_json, write_json
from pair_detr.utils.text_files import read_text

TEXT = '{"name": "naïve 猫 😀", "first": "一"}\n'
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_unicode_encoding_reads_the_same(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.json") == TEXT
    assert read_json(str(tmp_path / "a.json")) == {"name": "naïve 猫 😀", "first": "一"}


def test_utf_16_of_the_other_byte_order_has_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"))
    assert read_text(tmp_path / "a.txt") == TEXT


def test_line_ends_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n"
    for empty in (b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE):
        (tmp_path / "a.txt").write_bytes(empty)
        assert read_text(tmp_path / "a.txt") == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\nnaïve\n".encode("latin-1"), r"a\.txt is not text in utf-8: byte 0xef at position 6, in line 2\. Save"),
        ("图像\n".encode("gbk"), r"a\.txt is not text in utf-8: byte 0xcf at position 2"),
        (b"cat\n\0\0\0\0", r"a\.txt is not text in utf-8: byte 0x00 at position 4, in line 2\. Replace"),
        (codecs.BOM_UTF16_LE + b"a\0\0\0", r"a\.txt is not text in utf-16: byte 0x00 at position 4"),
        (b"0 0.5 0.5 0\0 0.5\n", r"a\.txt is not text in utf-8: byte 0x00 at position 11"),
        (b"\0" * 8, r"a\.txt is not text in utf-8: byte 0x00 at position 0"),
        (codecs.BOM_UTF16_LE + b"a\0b", r"a\.txt is not text in utf-16: byte 0x62 at position 4"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"a\.txt is not text in utf-8: byte 0x89 at position 0"),
        (gzip.compress(b"{}", mtime=0), r"a\.txt is not text in utf-8: it is a gzip archive\. Unpack it"),
    ],
)
def test_what_is_no_unicode_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match=message) as caught:
            read(tmp_path / "a.txt")
        assert "JSON" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_coco_files_of_other_encodings(tmp_path: Path, encoding: str) -> None:
    file = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 2, 3, 4]}], [(20, 10)])
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "猫"
    file.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    with restored_catalogs():
        register_coco("other", str(file), str(tmp_path))
        (record,) = load_dataset("other")
        assert class_names_of("other") == ["猫", "dog"]
    assert record["annotations"][0]["bbox"] == [1, 2, 3, 4]


def test_pipes_and_devices_are_no_text(tmp_path: Path) -> None:
    """One would be waited for, the other has no end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/full")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match=rf"{name} is a pipe or a device, not a file"):
            read_text(tmp_path / name)


def test_bad_json_is_named(tmp_path: Path) -> None:
    for text in ("{", "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[NaN, Infinity]")
    assert str(read_json(tmp_path / "a.json")) == "[nan, inf]"


def test_the_locale_does_not_matter(tmp_path: Path) -> None:
    """In a process whose own encoding is ASCII."""
    for folder in (
        "yolo/images",
        "yolo/labels",
        "voc/Annotations",
        "voc/JPEGImages",
        "voc/ImageSets/Main",
        "photos/n01",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for image in ("yolo/images/a.png", "voc/JPEGImages/a.png", "photos/n01/a.png"):
        write_image(tmp_path / image, 8, 8)
    coco = json.loads(write_coco(tmp_path / "coco", [{"image_id": 1, "bbox": [1, 2, 3, 4]}], [(20, 10)]).read_text())
    coco["categories"] = [{"id": 1, "name": "猫"}]
    texts = {
        "a.json": json.dumps(["猫"], ensure_ascii=False),
        "a.txt": "猫|ねこ",
        "yolo/data.yaml": "# 猫\ntrain: images\nnames: [猫]",
        "yolo/labels/a.txt": "0 0.5 0.5 1 1",
        "voc/ImageSets/Main/train.txt": "a",
        "voc/Annotations/a.xml": voc_annotation(8, 8, voc_object("猫", 1, 1, 8, 8)),
        "names.txt": "n01 猫",
        "coco.json": json.dumps(coco, ensure_ascii=False),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    code = """if True:
        from pair_detr.data import class_names_of, register_coco, register_image_folder, register_voc, register_yolo
        from pair_detr.utils.json_files import read_json, write_json
        from pair_detr.open_vocabulary import read_class_list
        assert open("a.json").encoding != "utf-8"
        register_yolo("yolo", "yolo")
        register_voc("voc", "voc", "train")
        register_image_folder("photos", "photos", "names.txt")
        register_coco("coco", "coco.json", "coco")
        names = [class_names_of(name) for name in ("yolo", "voc", "photos", "coco")]
        write_json([read_json("a.json"), list(read_class_list("a.txt")), *names], "out.json")
    """
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    assert read_json(tmp_path / "out.json") == [["猫"]] * 6


def test_written_json_is_utf_8(tmp_path: Path) -> None:
    write_json({"name": "猫"}, tmp_path / "new" / "a.json")
    assert json.loads((tmp_path / "new" / "a.json").read_bytes().decode("utf-8")) == {"name": "猫"}
