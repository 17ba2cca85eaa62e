"""Custom data in LVIS's format, registered by Detectron2's function: from the file to its AP."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, save_a_part, write_image
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.structures import Boxes, BoxMode, Instances

from pair_detr.data import check_dataset, class_names_of, load_dataset, load_training_dicts
from pair_detr.data.checks.missing_files import explain_missing
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.evaluation.lvis import complete
from pair_detr.modeling.class_sampling import build_federated_sampler

pytestmark = pytest.mark.usefixtures("catalogs")


def content_of(folder: Path) -> dict:
    """Two images; a bolt in each and a nut in the second, whose ids are neither contiguous nor in this order."""
    for number in (1, 2):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        write_image(folder / "train" / f"{number}.png", 64, 48)
    images = [
        {"id": 10, "file_name": "train/1.png", "width": 64, "height": 48},
        {"id": 11, "coco_url": "http://a.b/train/2.png", "width": 64, "height": 48},
    ]
    boxes = [(10, 7, [1, 2, 10, 20]), (11, 7, [3, 4, 20, 10]), (11, 3, [30, 20, 10, 12])]
    return {
        "images": images,
        "categories": [{"id": 7, "name": "bolt"}, {"id": 3, "name": "nut"}],
        "annotations": [{"id": i, "image_id": n, "category_id": c, "bbox": b} for i, (n, c, b) in enumerate(boxes)],
    }


def register(name: str, folder: Path, content: dict, **metadata: object) -> str:
    (folder / f"{name}.json").write_text(json.dumps(content))
    register_lvis_instances(name, metadata, str(folder / f"{name}.json"), str(folder))
    return name


# Detectron2 has metadata for names with v1, of the 1203 classes of LVIS, and none for others.
@pytest.mark.parametrize("name", ["own", "lvis_v1_own"])
def test_classes_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    register(name, tmp_path, content_of(tmp_path))
    assert class_names_of(name) == ["nut", "bolt"]
    first, second = load_dataset(name)
    assert [record["file_name"] for record in (first, second)] == [str(tmp_path / f"train/{i}.png") for i in (1, 2)]
    assert [(a["category_id"], a["bbox"], a["bbox_mode"]) for a in second["annotations"]] == [
        (1, [3, 4, 20, 10], BoxMode.XYWH_ABS),
        (0, [30, 20, 10, 12], BoxMode.XYWH_ABS),
    ]
    report = check_dataset(name)
    assert report.trainable and {key: count.boxes for key, count in report.classes.items()} == {"nut": 1, "bolt": 2}
    cfg = make_cfg(TRAIN=(name,), TEST=(name,))
    assert len(load_training_dicts(cfg)) == 2
    require_test_set(cfg, name)
    # The federated loss knows how often each class is.
    cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES = 1
    torch.testing.assert_close(build_federated_sampler(cfg).weights, torch.tensor([1.0, 2.0]).sqrt())


def test_a_part_of_lvis_has_its_classes(tmp_path: Path) -> None:
    content = content_of(tmp_path) | {"categories": [{"id": c["id"], "name": c["name"]} for c in LVIS_CATEGORIES]}
    register("part", tmp_path, content)
    assert class_names_of("part") == MetadataCatalog.get("lvis_v1_val").thing_classes
    assert [a["category_id"] for a in load_dataset("part")[1]["annotations"]] == [6, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), r'there is no list "categories" in it'),
        (
            lambda c: c["annotations"][1].update(category_id=8),
            "annotation 1 of image 11 has category_id 8, which is not among the categories",
        ),
        (lambda c: c["annotations"][1].update(image_id=8), "annotation 1 of image 8 has image_id 8, which is not am"),
        (lambda c: c["annotations"][1].pop("bbox"), "annotation 1 of image 11 has no bbox"),
        (lambda c: c["annotations"][1].update(id=0), "annotation 0 of image 11 occurs more than once"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\] has neither file_name nor coco_url"),
        (lambda c: c["images"].append(3), r"images\[2\] is not an object"),
        (lambda c: c["categories"].clear(), "categories is empty"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, change: Callable[[dict], object], message: str) -> None:
    content = content_of(tmp_path)
    change(content)
    register("bad", tmp_path, content)
    with pytest.raises(ValueError, match=rf'"bad" cannot be loaded: .*bad\.json: .*{message}.*Correct the file: every'):
        load_dataset("bad")


def test_classes_of_the_metadata_have_to_be_those_of_the_file(tmp_path: Path) -> None:
    register("same", tmp_path, content_of(tmp_path), thing_classes=["nut", "bolt"])
    assert class_names_of("same") == ["nut", "bolt"] and len(load_dataset("same")) == 2
    register("other", tmp_path, content_of(tmp_path), thing_classes=["bolt", "nut"])
    with pytest.raises(
        ValueError, match=r"other\.json has the categories nut, bolt, but .* are bolt, nut: leave these"
    ):
        load_dataset("other")


@pytest.mark.parametrize("masks", [False, True])
def test_average_precision(
    tmp_path: Path, masks: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has neither frequencies, areas nor the classes that are not in an image; one false positive is found."""
    pytest.importorskip("lvis", reason="the package lvis is not installed")
    name = register("own", tmp_path, content_of(tmp_path))
    cfg = make_cfg(TEST=(name,))
    cfg.MODEL.MASK_ON = masks
    evaluator = build_evaluator(cfg, name, str(tmp_path / "out"))
    assert ("3 objects have no segmentation" in caplog.text) == masks
    evaluator.reset()
    for record in load_dataset(name):
        boxes = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in record["annotations"]]
        classes = [a["category_id"] for a in record["annotations"]]
        scores = [0.5] * len(boxes)
        if record["image_id"] == 10:
            # There is no nut in the first image, and nobody has said that nuts may be missing there.
            boxes, classes, scores = [*boxes, [40, 30, 50, 40]], [*classes, 0], [*scores, 0.9]
        instances = Instances((48, 64), pred_boxes=Boxes(torch.tensor(boxes).float()))
        instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(classes)
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()
    # Nuts: a false positive before the one object, so that precision is 1/2 at any recall. Bolts: all are found.
    assert results.keys() == {"bbox"}
    assert results["bbox"]["AP"] == pytest.approx(75) and results["bbox"]["APf"] == pytest.approx(75)
    # Nothing is of a rare class, nor large.
    assert np.isnan([results["bbox"][key] for key in ("APr", "APc", "APl")]).all()
    found = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert sorted(result["category_id"] for result in found) == [3, 3, 7, 7]
    # Its files are whole or as they were, and nothing else is left.
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert before.keys() == {"instances_predictions.pth", "lvis_instances_results.json"}
    monkeypatch.setattr(torch, "save", save_a_part)
    with pytest.raises(OSError, match="full"):
        evaluator.evaluate()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_fields_as_other_programs_write_them(tmp_path: Path) -> None:
    content = content_of(tmp_path)
    content["images"][0]["id"] = 10.0
    bolt, second, nut = content["annotations"]
    bolt.update(image_id="10", category_id="7", iscrowd="0", area="7")
    second.update(iscrowd=None, ignore=None, area=-1)
    nut.update(ignore="1")
    register("own", tmp_path, content)
    objects = [annotation for record in load_dataset("own") for annotation in record["annotations"]]
    assert [(a["category_id"], a["iscrowd"], a.get("area")) for a in objects] == [(1, 0, 7), (1, 0, None), (0, 1, None)]
    require_test_set(make_cfg(TEST=("own",)), "own")
    complete(content)
    assert [(a["image_id"], a["ignore"], a["area"]) for a in content["annotations"]] == [
        (10, 0, 7),
        (11, 0, 200),
        (11, 1, 120),
    ]
    assert [image["neg_category_ids"] for image in content["images"]] == [[3], []]


def test_image_folder_without_a_slash(tmp_path: Path) -> None:
    """Detectron2's loader joins folder and name as they are."""
    content_of(tmp_path)
    hint = explain_missing([f"{tmp_path}train/1.png"], str(tmp_path))
    assert "let the image folder end with a slash" in hint and str(tmp_path / "train/1.png") in hint
