from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_cfg, restored_catalogs, write_image
from PIL import Image

from pair_detr.data import class_names_of, load_dataset, register_from_config
from pair_detr.studies import digits


def make(root: Path, output: str) -> Path:
    photos = root / "photos"
    photos.mkdir(exist_ok=True)
    write_image(photos / "small.jpg", 100, 90)
    write_image(photos / "wide.jpg", 900, 200)
    arguments = ["--train-photos", str(photos), "--val-photos", str(photos), "--output", str(root / output)]
    digits.main([*arguments, "--train", "6", "--val", "3"])
    return root / output


def test_boxes_are_around_what_is_drawn(tmp_path: Path) -> None:
    root = make(tmp_path, "digits")
    # The same again, without digits: what differs is drawn.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "_places", lambda rng: [])
        canvas, labels = digits._draw(tmp_path / "photos" / "small.jpg", "train", np.random.default_rng(0))
    assert (canvas.shape, labels) == ((240, 320, 3), [])
    rng = np.random.default_rng(0)
    drawn, labels = digits._draw(tmp_path / "photos" / "small.jpg", "train", rng)
    changed = (drawn != canvas).any(-1)
    inside = np.zeros_like(changed)
    for label in labels:
        x, y, width, height = np.array(label.split()[1:], float) * [320, 240, 320, 240]
        left, top = round(x - width / 2), round(y - height / 2)
        box = changed[top : top + round(height), left : left + round(width)]
        assert box.mean() > 0.4
        # The faint edges of the ink are outside.
        inside[max(0, top - 9) : top + round(height) + 9, max(0, left - 9) : left + round(width) + 9] = True
    assert not (changed & ~inside).any()
    assert Image.open(root / "train/images/0000.jpg").size == (320, 240)


def test_it_is_a_dataset_and_the_same_each_time(tmp_path: Path) -> None:
    root, again = make(tmp_path, "once"), make(tmp_path, "again")
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 2 * (6 + 3) + 1
    assert all((root / file).read_bytes() == (again / file).read_bytes() for file in files)
    with restored_catalogs():
        register_from_config(make_cfg(REGISTER=[{"NAME": "digits_study", "FORMAT": "auto", "ROOT": str(root)}]))
        assert class_names_of("digits_study_train") == [str(digit) for digit in range(10)]
        assert [len(load_dataset(f"digits_study_{split}")) for split in ("train", "val")] == [6, 3]
        assert all(1 <= len(record["annotations"]) <= 8 for record in load_dataset("digits_study_train"))


def test_a_folder_without_photographs_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no photographs"):
        digits.main([*("--train-photos", str(tmp_path)), "--val-photos", "x", "--output", str(tmp_path / "out")])
