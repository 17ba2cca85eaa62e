"""Text in the encodings of other programs, and JSON in them."""

import codecs
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pair_detr.data.json_files import read_json, write_json
from pair_detr.data.text_files import read_text

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
        ("cat\nnaïve\n".encode("latin-1"), r"a\.txt is not text in UTF-8: byte 0xef at position 6, in line 2\. Save"),
        ("图像\n".encode("gbk"), r"a\.txt is not text in UTF-8: byte 0xcf at position 2"),
        (b"cat\n\0\0\0\0", r"a\.txt is not text in UTF-8: byte 0x00 at position 4, in line 2\. Replace"),
        (b"\0" * 8, r"a\.txt is not text in UTF-8: byte 0x00 at position 0"),
        (codecs.BOM_UTF16_LE + b"a\0b", r"a\.txt is not text in UTF-16: byte 0x62 at position 4"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"a\.txt is not text in UTF-8: byte 0x89 at position 0"),
        (gzip.compress(b"{}"), r"a\.txt is not text in UTF-8: it is a gzip archive\. Unpack it"),
    ],
)
def test_what_is_no_unicode_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match=message) as caught:
            read(tmp_path / "a.txt")
        assert "JSON" not in str(caught.value)


def test_bad_json_is_named(tmp_path: Path) -> None:
    for text in ("{", "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[NaN, Infinity]")
    assert str(read_json(tmp_path / "a.json")) == "[nan, inf]"


def test_the_locale_does_not_matter(tmp_path: Path) -> None:
    """In a process whose own encoding is ASCII."""
    (tmp_path / "in.json").write_text(json.dumps("naïve 猫", ensure_ascii=False), encoding="utf-8")
    code = (
        "import sys, locale; from pair_detr.data.json_files import read_json, write_json\n"
        "assert open(sys.argv[1]).encoding != 'utf-8', locale.getpreferredencoding()\n"
        "write_json(read_json(sys.argv[1]), sys.argv[2])"
    )
    files = [str(tmp_path / name) for name in ("in.json", "out.json")]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, *files], check=True, env=environment)
    assert read_json(files[1]) == "naïve 猫"


def test_written_json_is_utf_8(tmp_path: Path) -> None:
    write_json({"name": "猫"}, tmp_path / "new" / "a.json")
    assert json.loads((tmp_path / "new" / "a.json").read_bytes().decode("utf-8")) == {"name": "猫"}
