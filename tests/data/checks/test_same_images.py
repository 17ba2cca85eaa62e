"""Files with the same content."""

from pathlib import Path

from pair_detr.data.checks.same_images import same_files


def test_files_are_compared_as_a_whole(tmp_path: Path) -> None:
    """Of the same size and start, and only those; others are read no further."""
    start = bytes(5000)
    contents = {"a": start + b"1", "b": start + b"2", "c": start + b"1", "d": b"short", "e": b"short", "f": b"other"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in ("f", "e", "b", "a", "d", "c", "a", "gone")]
    groups = [[Path(file).name for file in group] for group in same_files(files)]
    assert sorted(groups) == [["a", "c"], ["e", "d"]]
    assert same_files([]) == []
