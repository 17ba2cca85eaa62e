"""Folders of classes as people have them: with hidden copies, loose images, and lists in other encodings."""

from pathlib import Path

import pytest
from data_helpers import write_image

from pair_detr.data import class_names_of, load_dataset, register_image_folder

pytestmark = pytest.mark.usefixtures("catalogs")


def write_folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, 8, 8)
    return root


def ids(name: str) -> list[str]:
    return [record["image_id"] for record in load_dataset(name)]


def test_hidden_folders_are_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hidden = (".ipynb_checkpoints/0.jpg", "__MACOSX/cat/._0.jpg", "cat/._0.jpg", "cat/@eaDir/0.jpg")
    root = write_folder(tmp_path / ".cache" / "photos", "cat/0.jpg", "dog/0.jpg", "loose.jpg", *hidden)
    (root / "cat" / "Thumbs.db").touch()
    register_image_folder("photos", root)
    assert class_names_of("photos") == ["cat", "dog"]
    # Said once, however often they are loaded.
    assert ids("photos") == ["cat/0.jpg", "dog/0.jpg"]
    left_out, loose = [record.getMessage() for record in caplog.records]
    assert "left out hidden files (4)" in left_out and "cat/@eaDir (1)" in left_out and "__MACOSX (1)" in left_out
    assert "1 image is in no folder of a class, and left out: loose.jpg" in loose
    # A class that is named is taken at its word.
    register_image_folder("named", root, {".ipynb_checkpoints": "copy"})
    assert ids("named") == [".ipynb_checkpoints/0.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_class_files_of_other_encodings_and_folders_with_spaces(tmp_path: Path, encoding: str) -> None:
    root = write_folder(tmp_path / "photos", "n01/0.png", "traffic cone/0.png", "n02/0.png")
    file = tmp_path / "names.txt"
    file.write_bytes("traffic cone traffic cone, pylon\r\nn02\tnaïve 猫\r\nn01 tench\r\n".encode(encoding))
    register_image_folder("photos", root, file)
    assert class_names_of("photos") == ["traffic cone", "naïve 猫", "tench"]
    assert ids("photos") == ["traffic cone/0.png", "n02/0.png", "n01/0.png"]


def test_a_folder_that_is_named_twice(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", "n01/0.png")
    (tmp_path / "names.txt").write_text("n01 tench\nn01 carp\n")
    register_image_folder("photos", root, tmp_path / "names.txt")
    with pytest.raises(ValueError, match=r"names\.txt has the folder n01 twice"):
        load_dataset("photos")
