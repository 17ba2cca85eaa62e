"""Files in folders that also contain what programs hide there."""

import glob
import logging
import os
import random
from pathlib import Path

import pytest

from pair_detr.images.reading import find_images
from pair_detr.utils.file_search import find_files, match_files, search_files

HIDDEN = (
    *(
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "__MACOSX/a.jpg",
        "__MACOSX/sub/._a.jpg",
        "sub/._b.jpg",
        "sub/@eaDir/b.jpg",
    ),
    *(".Trash-1000/files/c.jpg", "sub/.thumbnails/deep/b.jpg", "$RECYCLE.BIN/d.jpg", ".hidden.jpg"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, and hidden ones, in a folder that lies in a hidden one."""
    folder = tmp_path / ".cache" / "data"
    shown = ("a.jpg", "sub/b.JPG", "sub/deep.er/c.v1.png", "notes.txt", "sub/Thumbs.db", ".DS_Store", "d.jpg/e.txt")
    for name in (*shown, *HIDDEN):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path, files: list[Path]) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]


def test_hidden_files_and_folders_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = search_files(folder, {".jpg", ".png"})
    assert names(folder, found.files) == ["a.jpg", "sub/b.JPG", "sub/deep.er/c.v1.png"]
    assert names(folder, found.others) == ["d.jpg/e.txt", "notes.txt"]
    assert sorted(names(folder, found.hidden)) == sorted(HIDDEN)
    assert find_files(folder, {".jpg", ".png"}) == find_images(folder) == found.files
    (message, again) = [record.getMessage() for record in caplog.records]
    assert message == again
    assert message.startswith(f"{folder}: left out hidden files (9), by file or folder: ")
    for part in (".ipynb_checkpoints (1)", "__MACOSX (2)", "sub/._b.jpg (1)", "sub/.thumbnails (1)", ".hidden.jpg (1)"):
        assert part in message


def test_one_level_of_folders(folder: Path) -> None:
    found = search_files(folder, {".jpg"}, recursive=False)
    assert (names(folder, found.files), names(folder, found.hidden)) == (["a.jpg"], [".hidden.jpg"])


def test_links_are_followed_once(tmp_path: Path) -> None:
    for name in ("data/own/a.jpg", "elsewhere/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "linked again").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    assert names(tmp_path, search_files(tmp_path / "data", {".jpg"}).files) == ["data/linked/b.jpg", "data/own/a.jpg"]


@pytest.mark.parametrize("links", [1, 2])
def test_patterns_go_once_around_a_loop_of_links(tmp_path: Path, links: int) -> None:
    """The shell's own would go around 40 times, and with two links 2 to the power of 40 times."""
    for name in ("data/a.jpg", "data/sub/b.jpg", "elsewhere/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for number in range(links):
        (tmp_path / "data" / "sub" / f"up{number}").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    os.mkfifo(tmp_path / "data" / "pipe.jpg")
    (tmp_path / "data" / "dead.jpg").symlink_to(tmp_path / "nothing")
    expected = ["data/a.jpg", "data/linked/c.jpg", "data/sub/b.jpg"]
    assert names(tmp_path, match_files(tmp_path / "data" / "**" / "*.jpg")) == expected
    assert names(tmp_path, match_files(tmp_path / "**" / "*.jpg")) == expected
    assert names(tmp_path, match_files(tmp_path / "data" / "*" / "*" / "*.jpg")) == ["data/sub/up0/a.jpg"]


def test_patterns_match_what_the_shells_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    for _ in range(200):
        folder = tmp_path.joinpath(*rng.choices(["a", "b", ".h", "c[1]", "d d"], k=rng.randint(0, 4)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / rng.choice(["x.jpg", "y.png", ".z.jpg", "w[2].jpg"])).touch()
    monkeypatch.chdir(tmp_path)
    patterns = ["**/*.jpg", "**", "**/*", "*/*.jpg", "a/**/b/*.png", "a/**/b/**/*.jpg", ".h/*", ".*", "**/.h/*.jpg"]
    patterns += ["c[[]1]/*", "[ab]/**/x.jpg", "*", "none/*", "**/a", "?/x.jpg", "**/**/*.jpg", "a/../b/*", "x.jpg/*"]
    for pattern in patterns:
        for start in ("", f"{tmp_path}/"):
            expected = {Path(file) for file in glob.glob(start + pattern, recursive=True)}  # noqa: PTH207
            assert match_files(Path(start + pattern)) == sorted(path for path in expected if path.is_file())


def test_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        search_files(tmp_path / "nowhere", {".jpg"})


def test_formats_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.HEIC", "c.HEIC", "d.jfif", "e.txt", "f.pdf"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path, find_images(tmp_path)) == ["a.jpg", "d.jfif"]
    assert "2 images are of formats that are not read, and left out: .HEIC (2). Convert" in caplog.text
