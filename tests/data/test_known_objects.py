"""Images with labels that have boxes in another dataset: what the labels are not of."""

from pathlib import Path

import pytest
import torch
from data_helpers import make_cfg, write_coco
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from pair_detr.data import register_coco
from pair_detr.data.dataset_mixture import load_source_dicts, source_options
from pair_detr.data.multi_dataset import MultiDatasetMapper
from pair_detr.data.samplers import repeat_factors
from pair_detr.modeling.batching import pack_image_labels

pytestmark = pytest.mark.usefixtures("catalogs")

SIZE = (40, 40)


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Two images: in the first one, an object of each of two classes, and a crowd. Both have the label 1 elsewhere."""
    annotations = [
        {"image_id": 1, "bbox": [4, 8, 20, 16], "category_id": 1},
        {"image_id": 1, "bbox": [24, 8, 8, 8], "category_id": 2},
        {"image_id": 1, "bbox": [0, 0, 30, 30], "category_id": 1, "iscrowd": 1},
        {"image_id": 2, "bbox": [24, 8, 8, 8], "category_id": 2},
    ]
    register_coco("known", str(write_coco(tmp_path, annotations, [SIZE] * 2)), str(tmp_path))
    images = DatasetCatalog.get("known")
    labeled = [
        {key: image[key] for key in ("file_name", "image_id", "height", "width")}
        | {"pos_category_ids": [1], "annotations": []}
        for image in images
    ]
    DatasetCatalog.register("labeled", lambda: labeled)
    MetadataCatalog.get("labeled").set(
        thing_classes=MetadataCatalog.get("known").thing_classes, annotation_type="image"
    )
    cfg = make_cfg(TRAIN=("known", "labeled"))
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (40,), "none"
    return cfg


def labeled_images(cfg: CfgNode) -> list[dict]:
    return [record for record in load_source_dicts(cfg) if record["ann_type"] == "image"]


@pytest.mark.parametrize("masks", [False, True])
def test_objects_of_other_classes_are_known(cfg: CfgNode, masks: bool) -> None:
    first, second = labeled_images(cfg)
    assert [(a["bbox"], a.get("iscrowd", 0)) for a in first["annotations"]] == [
        ([4, 8, 20, 16], 0),
        ([0, 0, 30, 30], 1),
    ]
    assert second["annotations"] == []
    cfg.MODEL.MASK_ON = masks
    mapped = list(map(MultiDatasetMapper(cfg, source_options(cfg)), (first, second)))
    targets = pack_image_labels(mapped, [SIZE] * 2)
    known = targets.image_labels.known
    torch.testing.assert_close(known.boxes, torch.tensor([[0.35, 0.4, 0.5, 0.4]]))
    assert known.image_index.tolist() == [0]
    assert targets.counts == [0, 0]
    assert torch.equal(targets.to(torch.device("cpu")).image_labels.known.boxes, known.boxes)
    assert pack_image_labels(mapped[1:], [SIZE]).image_labels.known is None


def test_they_do_not_count_in_how_often_an_image_is_shown(cfg: CfgNode) -> None:
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    images = labeled_images(cfg)
    without = [image | {"annotations": []} for image in images]
    assert repeat_factors(cfg, images).tolist() == repeat_factors(cfg, without).tolist() == [1.0, 1.0]


def test_classes_of_boxes_as_labels_are_of_these_boxes(cfg: CfgNode) -> None:
    """The same images, with the classes of their boxes for labels: all that is annotated is what the labels are of."""
    cfg.DATASETS.TRAIN = ("known", "known")
    cfg.DATALOADER.DATASET_ANN = ["box", "image"]
    assert [image["annotations"] for image in labeled_images(cfg)] == [[], []]


def test_images_are_known_by_their_files(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are spelled; objects that two datasets have count once."""
    first = DatasetCatalog.get("labeled")[0]
    monkeypatch.chdir(tmp_path)
    relative = first | {"file_name": f"./{Path(first['file_name']).name}"}
    DatasetCatalog.register("relative", lambda: [relative])
    MetadataCatalog.get("relative").set(
        thing_classes=MetadataCatalog.get("known").thing_classes, annotation_type="image"
    )
    cfg.DATASETS.TRAIN = ("known", "relative", "known")
    (found,) = labeled_images(cfg)
    assert [own["bbox"] for own in found["annotations"]] == [[4, 8, 20, 16], [0, 0, 30, 30]]


def test_instances_are_optional() -> None:
    known = Instances(SIZE, gt_boxes=Boxes(torch.tensor([[4.0, 8.0, 24.0, 24.0]])), gt_classes=torch.tensor([1]))
    batch = [{"pos_category_ids": [0]}, {"pos_category_ids": [2], "instances": known}]
    assert pack_image_labels(batch, [SIZE] * 2).image_labels.known.image_index.tolist() == [1]
    assert pack_image_labels(batch[:1], [SIZE]).image_labels.known is None
