"""Configs that need files which do not come with the package: they say where to get them."""

import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from data_helpers import restored_catalogs
from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.config_files import config_file, load_config
from pair_detr.data import load_dataset, register_from_config
from pair_detr.data.datasets import builtin

FOLDER = config_file("r50").parent

# What the package's own configs need from elsewhere, by the words that say where it is to be had.
FOREIGN = {
    "bases/bccd.yaml": ("Shenggan/BCCD_Dataset", "MIT", "datasets/bccd/{Annotations,ImageSets/Main,JPEGImages}"),
    "examples/bccd.yaml": ("bases/bccd.yaml",),
    "conditional_detr/bccd.yaml": ("bases/bccd.yaml",),
    "detr/bccd.yaml": ("bases/bccd.yaml",),
    "detic/bccd_boxsup.yaml": ("bases/bccd.yaml", "MIT", "withhold_boxes", "random_text_weights"),
    "detic/bccd_image_labels.yaml": ("bccd_boxsup.yaml", "MODEL.WEIGHTS"),
    "detic/coco_sample_photos.yaml": ("cocodataset.org", "CC BY 4.0", "facebookresearch/Detic", "Apache-2.0"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_configs_that_need_files_say_where_to_get_them(name: str) -> None:
    text = (FOLDER / name).read_text()
    head = text[: re.search(r"^[^#]", text, re.MULTILINE).start()]
    assert all(words in head for words in FOREIGN[name])


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_missing_points_to_the_first_lines(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with restored_catalogs(), pytest.raises(FileNotFoundError, match=r"he first lines of .* come from"):
        cfg = load_config(name)
        for entry in [entry for entry in DatasetCatalog if entry.startswith("bccd")]:
            DatasetCatalog.remove(entry)
            MetadataCatalog.pop(entry)
        builtin.register_bccd(str(tmp_path / "bccd"))
        register_from_config(cfg)
        load_dataset(cfg.DATASETS.TRAIN[0])


def test_the_command_in_the_config_makes_coco_s_annotations_of_bccd(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the layout of its repository, without JSON files; the two invalid boxes are only in the XML files."""
    source, folder = shared_dir / "datasets" / "bccd", tmp_path / "datasets" / "bccd"
    folder.mkdir(parents=True)
    for part in ("Annotations", "ImageSets", "JPEGImages"):
        (folder / part).symlink_to(source / part)
    text = (FOLDER / "bases" / "bccd.yaml").read_text()
    # Between the quotes of python -c "...", without the comment signs.
    commented = re.search(r'python -c "\n(.*?)"\n', text, re.DOTALL).group(1)
    program = re.sub(r"^#     ", "", commented, flags=re.MULTILINE)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    with restored_catalogs():
        DatasetCatalog.clear()
        MetadataCatalog.clear()
        # As on the first import of the package.
        importlib.reload(builtin)
        exec(program, {})
    for split in ("train", "val"):
        made = json.loads((folder / "annotations" / f"bccd_{split}.json").read_text())
        expected = json.loads((source / "annotations" / f"bccd_{split}.json").read_text())
        assert len(made["images"]) == len(expected["images"])
        assert [(x["id"], x["name"]) for x in made["categories"]] == [(1, "RBC"), (2, "WBC"), (3, "Platelets")]
        assert Counter(x["category_id"] for x in made["annotations"]) == Counter(
            x["category_id"] for x in expected["annotations"]
        )
