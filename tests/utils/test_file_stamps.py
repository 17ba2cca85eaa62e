from pathlib import Path

from pair_detr.utils.file_stamps import are_unchanged, record_read, recorded_reads
from pair_detr.utils.text_files import read_text


def test_nested_blocks_record_what_each_reads(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text("x")
    with recorded_reads() as outer:
        with recorded_reads() as inner:
            read_text(files[0])
        read_text(files[1])
    read_text(files[2])
    assert (list(inner), list(outer)) == ([str(files[0])], [str(file) for file in files[:2]])


def test_changes(tmp_path: Path) -> None:
    file, absent = tmp_path / "a", tmp_path / "absent"
    file.write_text("x")
    with recorded_reads() as stamps:
        for path in (file, absent, tmp_path, "s3://bucket/a"):
            record_read(path)
    assert are_unchanged(stamps)
    file.write_text("xy")
    assert not are_unchanged({str(file): stamps[str(file)]})
    absent.touch()
    assert not are_unchanged({str(absent): stamps[str(absent)]})
    assert not are_unchanged({str(tmp_path): stamps[str(tmp_path)]})
