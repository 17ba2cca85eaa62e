"""Panoptic data in both of Detectron2's forms, and from a config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import PANOPTIC_SIZE, make_cfg, write_coco, write_panoptic
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic_separated
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic as register_with_detectron2
from PIL import Image
from torchvision.ops import masks_to_boxes

from pair_detr.data import (
    DetectionMapper,
    build_train_loader,
    check_dataset,
    class_names_of,
    load_dataset,
    load_training_dicts,
    panoptic_classes,
    register_coco,
    register_from_config,
)
from pair_detr.data.checks.trainable import unreadable_images
from pair_detr.data.datasets.panoptic_png import rgb_to_id

pytestmark = pytest.mark.usefixtures("catalogs")

WIDTH, HEIGHT = PANOPTIC_SIZE


def cfg_for(name: str, masks: bool = True) -> CfgNode:
    cfg = make_cfg(TRAIN=(name,), TEST=(name,))
    cfg.MODEL.MASK_ON = masks
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (HEIGHT,), WIDTH
    cfg.INPUT.RESIZE_CROP.ENABLED = False
    return cfg


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Registers "tiny_panoptic" as a config does."""
    paths = write_panoptic(tmp_path / "panoptic")
    entry = {"NAME": "tiny_panoptic", "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry]))
    return paths


def test_ids_of_colors_by_hand() -> None:
    colors = np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)
    assert rgb_to_id(colors).tolist() == [[1 + 2 * 256 + 3 * 65536, 256**3 - 1]]


def test_classes_of_a_config_put_things_first(files: dict[str, Path]) -> None:
    assert class_names_of("tiny_panoptic") == ["cat", "sky", "grass"]
    classes = panoptic_classes("tiny_panoptic")
    assert classes.is_thing == (True, False, False)
    metadata = MetadataCatalog.get("tiny_panoptic")
    assert metadata.thing_dataset_id_to_contiguous_id == {9: 0}
    assert metadata.stuff_dataset_id_to_contiguous_id == {2: 1, 4: 2}


def test_instances_are_the_segments_of_the_file(files: dict[str, Path]) -> None:
    cfg = cfg_for("tiny_panoptic")
    dicts = load_training_dicts(cfg)
    assert [Path(record["file_name"]).name for record in dicts] == ["11.png", "12.png"]
    instances = DetectionMapper(cfg, is_train=True)(dicts[0])["instances"]
    # By increasing id: 7, 256 (cats; 9 is a crowd), 300 (sky), 70000 (grass).
    assert instances.gt_classes.tolist() == [0, 0, 1, 2]
    expected = torch.zeros(4, HEIGHT, WIDTH, dtype=torch.bool)
    expected[0, 12:20, 5:15] = expected[1, 18:30, 20:40] = expected[2, :10] = expected[3, 10:, :30] = True
    expected[3] &= ~expected[:2].any(0)
    assert torch.equal(instances.gt_masks.tensor, expected)
    assert instances.gt_boxes.tensor.tolist() == [[5, 12, 15, 20], [20, 18, 40, 30], [0, 0, 48, 10], [0, 10, 30, 32]]
    assert not {"pan_seg_file_name", "segments_info"} & DetectionMapper(cfg, is_train=True)(dicts[0]).keys()


def test_segments_under_augmentation(files: dict[str, Path]) -> None:
    cfg = cfg_for("tiny_panoptic")
    cfg.INPUT.FLIP_BOTH_AXES = True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (24, 64), 120
    cfg.INPUT.RESIZE_CROP.ENABLED, cfg.INPUT.RESIZE_CROP.PROB = True, 0.5
    cfg.INPUT.RESIZE_CROP.SCALES, cfg.INPUT.RESIZE_CROP.SIZE_RANGE = [30, 50], [16, 28]
    record = load_training_dicts(cfg)[0]
    mapper = DetectionMapper(cfg, is_train=True)
    for seed in range(20):
        np.random.seed(seed)
        item = mapper(record)
        masks = item["instances"].gt_masks.tensor
        assert masks.shape[1:] == item["image"].shape[1:]
        assert masks.flatten(1).any(1).all()
        # Segments never overlap.
        assert masks.sum(0).max() <= 1
        tight = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        assert (item["instances"].gt_boxes.tensor - tight).abs().max() <= 1.5


def test_boxes_alone_need_no_file_of_segments(files: dict[str, Path]) -> None:
    cfg = cfg_for("tiny_panoptic", masks=False)
    dicts = load_training_dicts(cfg)
    for file in files["SEGMENTS"].iterdir():
        file.unlink()
    instances = DetectionMapper(cfg, is_train=True)(dicts[0])["instances"]
    assert instances.gt_classes.tolist() == [0, 0, 1, 2]
    assert instances.gt_boxes.tensor[0].tolist() == [5, 12, 15, 20]
    assert not instances.has("gt_masks")


def test_the_training_loader_takes_panoptic_data(files: dict[str, Path]) -> None:
    cfg = cfg_for("tiny_panoptic")
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0
    batch = next(iter(build_train_loader(cfg)))
    assert sorted(len(item["instances"].gt_masks) for item in batch) == [1, 4]


def test_checks(files: dict[str, Path]) -> None:
    report = check_dataset("tiny_panoptic")
    assert (report.num_images, report.num_boxes, report.num_masks) == (2, 5, 5)
    assert [count.boxes for count in report.classes.values()] == [2, 2, 1]
    assert report.trainable and not report.missing_masks
    Image.new("RGB", (5, 5)).save(files["SEGMENTS"] / "seg12.png")
    (problem,) = unreadable_images(load_dataset("tiny_panoptic"))
    assert "seg12.png has 5x5 pixels, but its image" in problem and "48x32" in problem
    (files["SEGMENTS"] / "seg11.png").unlink()
    assert check_dataset("tiny_panoptic").missing_files == [str(files["SEGMENTS"] / "seg11.png")]


def test_unreadable_segments_are_named(files: dict[str, Path]) -> None:
    cfg = cfg_for("tiny_panoptic")
    record = load_training_dicts(cfg)[0]
    (files["SEGMENTS"] / "seg11.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"seg11\.png cannot be read as a picture of segments"):
        DetectionMapper(cfg, is_train=True)(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), 'there is no list "categories"'),
        (lambda c: c["categories"][0].pop("isthing"), r"categories\[0\] has no isthing"),
        (lambda c: c["categories"][0].update(isthing="perhaps"), "category 2 has isthing 'perhaps'"),
        (lambda c: c["categories"][0].update(name=None), "category 2 has name null"),
        (lambda c: c["images"][0].update(height=0), "image 11 has height 0"),
        (lambda c: c["annotations"][0].update(image_id=5), "image 5 is annotated, but not among the images"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("bbox"), "a segment of image 11 has no bbox"),
        (lambda c: c["annotations"].append(5), r"annotations\[2\] is not an object"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "image 11 is annotated twice"),
        (
            lambda c: c["annotations"][0].update(segments_info=None),
            "the annotation of image 11 has no file_name, or no list segments",
        ),
        (lambda c: c["annotations"][0].update(segments_info=[5]), "a segment of image 11 is not an object"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(iscrowd=[1]),
            r"segment 7 of image 11 has iscrowd \[1\], not 0 or 1",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=3), "segment 7 of image 11 has category"),
    ],
)
def test_faults_of_the_json_file_are_named(files: dict[str, Path], change: Any, message: str) -> None:
    content = json.loads(files["JSON"].read_text())
    change(content)
    files["JSON"].write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"panoptic\.json: {message}.*Correct the file"):
        load_dataset("tiny_panoptic")


def test_flags_and_ids_as_other_programs_write_them(files: dict[str, Path]) -> None:
    expected = load_dataset("tiny_panoptic")
    content = json.loads(files["JSON"].read_text())
    content["images"][0].update(id="11", width=f"{WIDTH}")
    for category, thing in zip(content["categories"], ("0", None, "true"), strict=True):
        category.update(isthing=thing, name=f" {category['name']} ")
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        for segment in annotation["segments_info"]:
            segment.update(category_id=float(segment["category_id"]), iscrowd=str(segment["iscrowd"]))
    files["JSON"].write_text(json.dumps(content))
    records = load_dataset("tiny_panoptic")
    assert records == expected
    assert {type(a["iscrowd"]) for record in records for a in (*record["annotations"], *record["segments_info"])} == {
        int
    }
    assert panoptic_classes("tiny_panoptic").is_thing == (True, False, False)


def test_separated_form(tmp_path: Path) -> None:
    """Instances as polygons, stuff in a file; Detectron2's own registration."""
    for folder in ("images", "stuff"):
        (tmp_path / folder).mkdir()
    instance = {"image_id": 1, "bbox": [5, 12, 10, 8], "segmentation": [[5, 12, 15, 12, 15, 20, 5, 20]]}
    crowd = {"image_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {"size": [32, 48], "counts": [1536]}}
    file = write_coco(tmp_path / "images", [instance, crowd], [PANOPTIC_SIZE])
    # load_sem_seg() takes images to be .jpg.
    (tmp_path / "images" / "1.png").rename(tmp_path / "images" / "1.jpg")
    file.write_text(file.read_text().replace("1.png", "1.jpg"))
    stuff = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    stuff[:10], stuff[10:20, 20:], stuff[30:] = 1, 2, 255
    Image.fromarray(stuff).save(tmp_path / "stuff" / "1.png")
    metadata = {
        "thing_classes": ["cat", "dog"],
        "thing_dataset_id_to_contiguous_id": {1: 0, 2: 1},
        "stuff_classes": ["things", "sky", "grass"],
        "stuff_dataset_id_to_contiguous_id": {0: 0, 92: 1, 93: 2},
    }
    register_coco_panoptic_separated(
        "apart", metadata, str(tmp_path / "images"), "", "", str(tmp_path / "stuff"), str(file)
    )
    name = "apart_separated"
    assert class_names_of(name) == ["cat", "dog", "sky", "grass"]
    for masks in (True, False):
        cfg = cfg_for(name, masks)
        item = DetectionMapper(cfg, is_train=True)(load_training_dicts(cfg)[0])
        assert "sem_seg" not in item
        instances = item["instances"]
        assert instances.gt_classes.tolist() == [0, 2, 3]
        assert instances.gt_boxes.tensor.tolist() == [[5, 12, 15, 20], [0, 0, 48, 10], [20, 10, 48, 20]]
        assert instances.has("gt_masks") == masks
    cfg = cfg_for(name)
    masks = DetectionMapper(cfg, is_train=True)(load_training_dicts(cfg)[0])["instances"].gt_masks.tensor
    assert masks[0, 12:20, 5:15].all() and masks[0].sum() == 80
    assert torch.equal(masks[1:], torch.stack([torch.from_numpy(stuff == 1), torch.from_numpy(stuff == 2)]))


def test_standard_form_of_detectron2_on_real_data(shared_dir: Path) -> None:
    folder = shared_dir / "datasets" / "panoptic_sample" / "sample_data"
    file = folder / "panoptic_examples.json"
    register_with_detectron2(
        "sample",
        _get_builtin_metadata("coco_panoptic_standard"),
        str(folder / "input_images"),
        str(folder / "panoptic_examples"),
        str(file),
    )
    cfg = cfg_for("sample")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (0,), 9999
    content = json.loads(file.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    dicts = load_training_dicts(cfg)
    assert len(dicts) == 2
    for record, annotation in zip(dicts, content["annotations"], strict=True):
        assert (record["height"], record["width"]) == sizes[record["image_id"]]
        instances = DetectionMapper(cfg, is_train=True)(record)["instances"]
        segments = [segment for segment in annotation["segments_info"] if not segment["iscrowd"]]
        assert instances.gt_masks.tensor.flatten(1).sum(1).tolist() == [segment["area"] for segment in segments]
        boxes = torch.tensor([segment["bbox"] for segment in segments], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        # The boxes in the file are not always tight.
        assert (instances.gt_boxes.tensor - boxes).abs().median() == 0
        names = {category["id"]: category["name"] for category in content["categories"]}
        found = [class_names_of("sample")[i] for i in instances.gt_classes.tolist()]
        assert found == [names[segment["category_id"]] for segment in segments]
    assert len(DatasetCatalog.get("sample")) == 2
    assert "annotations" not in DatasetCatalog.get("sample")[0]


def test_config_and_detectron2_read_the_same(shared_dir: Path) -> None:
    folder = shared_dir / "datasets" / "panoptic_sample" / "sample_data"
    entry = {
        "NAME": "by_config",
        "FORMAT": "coco_panoptic",
        "JSON": str(folder / "panoptic_examples.json"),
        "SEGMENTS": str(folder / "panoptic_examples"),
        "IMAGES": str(folder / "input_images"),
    }
    register_from_config(make_cfg(REGISTER=[entry]))
    builtin = panoptic_classes("coco_2017_val_panoptic")
    assert panoptic_classes("by_config") == builtin
    assert check_dataset("by_config").trainable


def test_instances_of_other_data_stay_as_they_are(tmp_path: Path) -> None:
    register_coco("plain", str(write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 2, 3, 4]}], [(9, 9)])), str(tmp_path))
    assert load_dataset("plain") == DatasetCatalog.get("plain")
