"""XML in the encoding that it declares."""

import codecs
from pathlib import Path

import pytest

from pair_detr.utils.xml_files import read_xml


def write_xml(file: Path, name: str, encoding: str, declared: str | None = None) -> Path:
    """Writes an object with a name, declared to be in ``encoding`` unless ``declared`` says something else."""
    declared = encoding if declared is None else declared
    declaration = f'<?xml version="1.0" encoding="{declared}"?>\r\n' if declared else ""
    text = f"{declaration}<annotation><object><name>{name}</name></object></annotation>"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(
    ("name", "encoding", "declared"),
    [
        ("naïve", "utf-8", ""),
        ("naïve", "latin-1", "ISO-8859-1"),
        ("naïve", "cp1252", "windows-1252"),
        ("猫", "utf-8", "UTF-8"),
        ("猫", "utf-8-sig", "utf-8"),
        ("猫", "utf-16", "utf-16"),
        ("猫", "utf-16-le", "utf-16"),
        ("猫", "utf-16", ""),
        ("猫", "gbk", "gbk"),
        ("猫", "gb2312", "GB2312"),
        # Not in the standard of 1980, but in what is written under its name.
        ("鎔", "gbk", "gb2312"),
        ("貓", "big5", "Big5"),
        ("猫", "shift_jis", "Shift_JIS"),
        ("①", "cp932", "x-sjis"),
        ("고양이", "euc-kr", "EUC-KR"),
        ("кот", "koi8-r", "KOI8-R"),
        # As .NET writes them: the encoding of its strings, and a byte order mark that says better.
        ("猫", "utf-8", "utf-16"),
        ("猫", "utf-8-sig", "gbk"),
    ],
)
def test_the_declared_encoding_counts(tmp_path: Path, name: str, encoding: str, declared: str) -> None:
    root = read_xml(write_xml(tmp_path / "a.xml", name, encoding, declared))
    assert root.findtext("object/name") == name


@pytest.mark.parametrize(
    ("name", "encoding", "declared", "message"),
    [
        (
            "naïve",
            "latin-1",
            "utf-8",
            r"a\.xml is not text in utf-8: byte 0xef at position \d+, in line 2\. Save it as",
        ),
        ("naïve", "latin-1", "", r"a\.xml is not text in utf-8: byte 0xef"),
        ("naïve", "latin-1", "us-ascii", r"a\.xml is not text in ascii: byte 0xef"),
        ("cat", "utf-8", "klingon", r'a\.xml declares the encoding "klingon", which is not known: save it as UTF-8'),
        # Codecs of Python's that are no encodings of text.
        ("cat", "utf-8", "hex", r'a\.xml declares the encoding "hex"'),
        ("cat", "utf-8", "undefined", r'a\.xml declares the encoding "undefined"'),
        ("nuts & bolts", "gbk", "gbk", r"a\.xml is not valid XML \(.*line 2, column"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, encoding: str, declared: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_xml(write_xml(tmp_path / "a.xml", name, encoding, declared))


def test_entities_are_refused(tmp_path: Path) -> None:
    """Each of them could stand for many of the one before."""
    document = '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'
    (tmp_path / "a.xml").write_text(document)
    (tmp_path / "b.xml").write_bytes(codecs.BOM_UTF16_LE + document.encode("utf-16-le"))
    for file in ("a.xml", "b.xml"):
        with pytest.raises(ValueError, match=rf"{file} declares entities"):
            read_xml(tmp_path / file)
    (tmp_path / "a.xml").write_text('<!DOCTYPE annotation SYSTEM "voc.dtd"><annotation/>')
    assert read_xml(tmp_path / "a.xml").tag == "annotation"
