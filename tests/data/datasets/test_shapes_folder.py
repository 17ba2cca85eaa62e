"""The folder of the generated shapes: several processes that make it, killed ones, and what the user has there."""

import json
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from PIL import Image
from process_helpers import FORK, kill, running

from pair_detr.data import make_panoptic_shapes, make_shapes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a few shapes."""
    folder = tmp_path / "shapes"
    make_shapes(str(folder), 30, 1)
    return folder


def counts(folder: Path) -> tuple[int, int]:
    return tuple(len(list((folder / split).iterdir())) for split in ("train", "val"))


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("numbers", [(5, 5, 5, 5), (4, 5, 6, 7)])
def test_processes_that_make_them_at_once_wait_for_each_other(
    tmp_path: Path, there: bool, numbers: tuple[int, ...]
) -> None:
    folder = tmp_path / "data" / "shapes"
    if there:
        make_shapes(str(folder), 3, 2)

    def make(pipe: Connection, count: int) -> None:
        pipe.recv()
        pipe.send(make_shapes(str(folder), count, 2))

    pipes, processes = [], []
    for number in numbers:
        here, inside = FORK.Pipe()
        pipes.append(here)
        processes.append(FORK.Process(target=make, args=(inside, number)))
        processes[-1].start()
    for pipe in pipes:
        pipe.send("go")
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    made = [pipe.recv() for pipe in pipes]
    assert made.count(True) == len(set(numbers))
    stamp = json.loads((folder / "shapes.json").read_text())
    assert counts(folder) == (stamp["train"], 2)
    assert [path.name for path in folder.parent.iterdir()] == ["shapes"]


@pytest.mark.parametrize("needed", [False, True])
def test_what_killed_processes_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: bool
) -> None:
    folder = tmp_path / "shapes"
    if not needed:
        make_shapes(str(folder), 2, 1)

    def make(pipe: Connection) -> None:
        saved = Image.Image.save

        def stop_at_second(self: Image.Image, file: Path, **options: object) -> None:
            if file.name == "000001.png":
                pipe.send(True)
                signal.pause()
            saved(self, file, **options)

        monkeypatch.setattr(Image.Image, "save", stop_at_second)
        make_shapes(str(folder), 3, 1)

    with running(make) as (process, pipe):
        pipe.recv()
        (left,) = tmp_path.glob(".pair_detr-*")
        assert (left / "new" / "train" / "000000.png").exists()
        kill(process)
    assert make_shapes(str(folder), 2, 1) == needed
    assert not left.exists() and counts(folder) == (2, 1)


@pytest.mark.parametrize("name", ["notes.txt", "train/mine.png", "annotations/mine.json", "labels/0.txt", "texts.npy"])
def test_what_the_user_keeps_there_is_not_lost(root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"years of work")
    with pytest.raises(FileExistsError, match=rf"also holds what was not made by pair_detr: .*{Path(name).name}"):
        make_shapes(str(root), 3, 1)
    assert (root / name).read_bytes() == b"years of work" and (root / "train" / "000029.png").exists()
    assert not make_shapes(str(root), 30, 1)


def test_what_was_made_of_the_shapes_is_replaced_with_them(root: Path) -> None:
    make_panoptic_shapes(root)
    (root / "train" / ".DS_Store").touch()
    assert make_shapes(str(root), 3, 1)
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "shapes.json", "train", "val"]


@pytest.mark.parametrize("content", ["{}", "[]", '{"version": 2}', "text"])
def test_data_of_the_user_with_a_file_of_that_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "shapes.json").write_text(content)
    with pytest.raises(FileExistsError, match="holds no shapes made by pair_detr: choose another folder"):
        make_shapes(str(tmp_path), 1, 1)
    assert (tmp_path / "shapes.json").read_text() == content


def test_panoptic_shapes_leave_a_folder_of_the_user(root: Path) -> None:
    own = root / "panoptic_val" / "mine.png"
    own.parent.mkdir()
    own.touch()
    with pytest.raises(FileExistsError, match=r"panoptic_val is to hold the segments .* mine\.png"):
        make_panoptic_shapes(root)
    own.rename(own.with_name("000000.png"))
    assert make_panoptic_shapes(root)
