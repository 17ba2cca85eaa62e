"""Evaluation of masks and panoptic segments: ground truth fed back is perfect, and what is missing is said."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, needs_panopticapi, write_coco, write_panoptic
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluators, SemSegEvaluator
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util
from torch import Tensor

from pair_detr.data import DetectionMapper, load_dataset, panoptic_classes, register_coco, register_from_config
from pair_detr.data.datasets.panoptic_png import rgb_to_id
from pair_detr.evaluation import COCOEvaluator, ReorderedClassesEvaluator
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.modeling.postprocessing.masks import BatchMasks
from pair_detr.modeling.postprocessing.panoptic import PanopticOptions, segment_all, semantic
from pair_detr.structures import Batch

pytestmark = pytest.mark.usefixtures("catalogs")


def cfg_for(name: str, output: Path, panoptic: bool = False) -> CfgNode:
    cfg = make_cfg(TRAIN=(name,), TEST=(name,))
    cfg.OUTPUT_DIR = str(output)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.DETR.PANOPTIC.ENABLED = panoptic
    return cfg


def ground_truth(record: dict[str, Any]) -> Instances:
    """Objects of an image as the mapper reads them, at the image's own size; crowds are not among them."""
    cfg = make_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (0,), 9999
    return DetectionMapper(cfg, is_train=True)(record)["instances"]


def as_detections(truth: Instances) -> Instances:
    result = Instances(truth.image_size, pred_boxes=truth.gt_boxes, pred_classes=truth.gt_classes)
    result.scores = torch.linspace(1, 0.9, len(truth))
    result.pred_masks = truth.gt_masks.tensor
    return result


def run(evaluator: Any, records: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    evaluator.reset()
    evaluator.process(records, outputs)
    return evaluator.evaluate()


def test_masks_of_the_ground_truth_have_an_ap_of_100(shared_dir: Path, tmp_path: Path) -> None:
    """Real data: polygons, with crowds among the annotations."""
    folder = shared_dir / "datasets" / "coco"
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    content["images"] = [image for image in content["images"] if image["height"] < 500][:4]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (tmp_path / "few.json").write_text(json.dumps(content))
    register_coco("few", str(tmp_path / "few.json"), str(folder / "val2017"))
    records = load_dataset("few")
    outputs = [{"instances": as_detections(ground_truth(record))} for record in records]
    results = run(build_evaluator(cfg_for("few", tmp_path), "few"), records, outputs)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)
    # A mask without its last rows is not perfect: the masks are what is compared.
    for output in outputs:
        masks = output["instances"].pred_masks
        masks[:, masks.shape[1] // 2 :] = False
    worse = run(build_evaluator(cfg_for("few", tmp_path), "few"), records, outputs)
    assert worse["segm"]["AP"] < 80
    assert worse["bbox"]["AP"] == pytest.approx(100)


def test_tasks_follow_the_model_and_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    polygon = [[1, 1, 9, 1, 9, 9]]
    objects = [{"image_id": 1, "bbox": [1, 1, 8, 8], "segmentation": polygon} for _ in range(2)]
    register_coco("masked", str(write_coco(tmp_path / "masked", objects, [(20, 20)])), tmp_path / "masked")
    cfg = cfg_for("masked", tmp_path)
    assert build_evaluator(cfg, "masked")._tasks == ("bbox", "segm")
    cfg.MODEL.MASK_ON = False
    assert build_evaluator(cfg, "masked")._tasks == ("bbox",)
    cfg.MODEL.MASK_ON = True
    del objects[1]["segmentation"]
    register_coco("partly", str(write_coco(tmp_path / "partly", objects, [(20, 20)])), tmp_path / "partly")
    assert build_evaluator(cfg, "partly")._tasks == ("bbox",)
    assert '"partly": 1 object has no mask to compare with: annotation 1 of 1.png has no segmentation' in caplog.text
    # Neither would pycocotools read a polygon of two points.
    objects[1]["segmentation"] = [[1, 1, 9, 9]]
    register_coco("badly", str(write_coco(tmp_path / "badly", objects, [(20, 20)])), tmp_path / "badly")
    assert build_evaluator(cfg, "badly")._tasks == ("bbox",)


class KnownMasks:
    """Stands for a mask head that is always right."""

    def __init__(self, masks: Tensor, padded_size: tuple[int, int]) -> None:
        """Takes (N, H, W) masks of the first image in a batch."""
        self.logits = torch.full((len(masks), *padded_size), -10.0)
        self.logits[:, : masks.shape[1], : masks.shape[2]] = torch.where(masks, 10.0, -10.0)

    def image_parts(self, memory: None) -> None:
        """Nothing is common to the masks."""

    def __call__(self, asked: object, query: Tensor, counts: list[int], parts: None) -> Tensor:
        """The masks of the queries."""
        assert counts == [len(query), 0]
        return self.logits[query]


def panoptic_output(record: dict[str, Any], name: str) -> dict[str, Any]:
    """What a model returns that has one sure query a segment, crowds included, in no order; from its mask head on.

    It sees the image at twice its size, and padded. Some query wins in every pixel, so that one for the unlabeled ones
    is needed: they count for nothing.
    """
    classes = panoptic_classes(name)
    ids = rgb_to_id(np.asarray(Image.open(record["pan_seg_file_name"]).convert("RGB")))
    segments = record["segments_info"]
    masks = torch.stack([torch.from_numpy(ids == segment["id"]) for segment in segments])
    labels = torch.tensor([segment["category_id"] for segment in segments])
    crowd = torch.tensor([bool(segment["iscrowd"]) for segment in segments])
    # The labels of stuff occur twice, as two queries may well find the same stuff.
    is_thing = torch.tensor(classes.is_thing)
    again = torch.cat([torch.arange(len(labels)), (~is_thing[labels]).nonzero()[:, 0]])
    order = again[torch.randperm(len(again))]
    masks, labels, crowd = masks[order], labels[order], crowd[order]
    height, width = ids.shape
    large = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    padded = (2 * height + 9, 2 * width + 31)
    asked = SimpleNamespace(memory=None, states=torch.zeros(2, len(masks), 1))
    images = Batch(torch.zeros(2, 3, *padded), None, [large.shape[1:], padded], [ids.shape, padded])
    at_output_size = BatchMasks(KnownMasks(large, padded), asked, images)
    things = (is_thing[labels] & ~crowd).nonzero()[:, 0]
    class_probs = 0.9 * torch.nn.functional.one_hot(labels, len(is_thing)).float()
    output = segment_all(at_output_size, 0, things, class_probs, PanopticOptions(classes, 0.85, 4))
    instances = Instances(ids.shape, pred_classes=labels[things], scores=torch.linspace(1, 0.9, len(things)))
    instances.pred_masks = output.pop("pred_masks")
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    return output | {"instances": instances}


def register_sample(shared_dir: Path, form: str) -> str:
    folder = shared_dir / "datasets" / "panoptic_sample" / "sample_data"
    images, segments, file = folder / "input_images", folder / "panoptic_examples", folder / "panoptic_examples.json"
    instances = folder / "panoptic_coco_detection_format.json"
    if form == "config":
        entry = {"NAME": "sample_config", "FORMAT": "coco_panoptic", "INSTANCES": str(instances)}
        entry |= {"JSON": str(file), "SEGMENTS": str(segments), "IMAGES": str(images)}
        register_from_config(make_cfg(REGISTER=[entry]))
    else:
        metadata = _get_builtin_metadata("coco_panoptic_standard")
        register_coco_panoptic("sample_standard", metadata, str(images), str(segments), str(file))
    return f"sample_{form}"


@needs_panopticapi
@pytest.mark.parametrize("form", ["config", "standard"])
def test_ground_truth_fed_back_has_a_pq_of_100(shared_dir: Path, tmp_path: Path, form: str) -> None:
    name = register_sample(shared_dir, form)
    cfg = cfg_for(name, tmp_path, panoptic=True)
    require_test_set(cfg, name)
    records = load_dataset(name)
    outputs = [panoptic_output(record, name) for record in records]
    for record, output in zip(records, outputs, strict=True):
        crowds = [s["id"] for s in record["segments_info"] if s["iscrowd"]]
        assert crowds, "the sample shows how crowds count"
        segment_map, segments = output["panoptic_seg"]
        assert segment_map.shape == (record["height"], record["width"])
        assert len(segments) == len(record["segments_info"])
    results = run(build_evaluator(cfg, name), records, outputs)
    for metric in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st"):
        assert results["panoptic_seg"][metric] == pytest.approx(100), metric
    if form == "config":
        # panopticapi's conversion has annotations of stuff, which are not asked for.
        assert results["segm"]["AP"] == pytest.approx(100)


@needs_panopticapi
def test_pq_is_that_of_the_definition(tmp_path: Path) -> None:
    """By hand: a cat found with IoU 0.75, one not found, grass right, sky called grass."""
    paths = write_panoptic(tmp_path / "data")
    entry = {"NAME": "pq", "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry]))
    cfg = cfg_for("pq", tmp_path / "out", panoptic=True)
    records = load_dataset("pq")
    first = torch.zeros(32, 48, dtype=torch.int32)
    first[12:20, 5:15] = 1
    first[18:20, 5:15] = 0
    first[10:, :30][torch.from_numpy(_ids(records[0]) == 70000)[10:, :30]] = 2
    first[:10] = 3
    infos = [(1, True, 0), (2, False, 2), (3, False, 1)]
    outputs = [
        {"panoptic_seg": (first, [{"id": i, "isthing": t, "category_id": c} for i, t, c in infos])},
        {
            "panoptic_seg": (
                torch.ones(32, 48, dtype=torch.int32),
                [{"id": 1, "isthing": False, "category_id": 2}],
            )
        },
    ]
    results = run(build_evaluator(cfg, "pq"), records, outputs)["panoptic_seg"]
    # cat: IoU 60 / 80 / (1 + 0.5 missed); sky: 1 / (1 + 0.5 missed); grass: 1 / (1 + 0.5 too many).
    assert results["PQ_th"] == pytest.approx(100 * 0.75 / 1.5)
    assert results["PQ_st"] == pytest.approx(100 / 1.5)
    assert results["PQ"] == pytest.approx((50 + 200 / 1.5) / 3)


def _ids(record: dict[str, Any]) -> np.ndarray:
    return rgb_to_id(np.asarray(Image.open(record["pan_seg_file_name"])))


@needs_panopticapi
def test_evaluators_of_panoptic_data(tmp_path: Path) -> None:
    paths = write_panoptic(tmp_path / "data")
    box = {"image_id": 11, "category_id": 9, "bbox": [5, 12, 10, 8], "area": 80, "iscrowd": 0, "id": 1}
    mask = torch.zeros(32, 48, dtype=torch.bool)
    mask[12:20, 5:15] = True
    rle = mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    box["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    content = json.loads(paths["JSON"].read_text())
    instances = {
        "images": content["images"],
        "annotations": [box],
        "categories": [c for c in content["categories"] if c["isthing"]],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    entry = {"NAME": "both", "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry | {"INSTANCES": str(tmp_path / "instances.json")}]))
    cfg = cfg_for("both", tmp_path / "out", panoptic=True)
    panoptic, things = build_evaluator(cfg, "both")._evaluators
    assert isinstance(panoptic, COCOPanopticEvaluator)
    assert isinstance(things, ReorderedClassesEvaluator)
    # Detections of stuff do not disturb the AP of things.
    detections = Instances((32, 48), pred_boxes=Boxes([[0, 0, 48, 10], [5, 12, 15, 20]]), scores=torch.ones(2))
    detections.pred_classes, detections.pred_masks = torch.tensor([1, 0]), torch.stack([~mask, mask])
    results = run(things, load_dataset("both")[:1], [{"instances": detections}])
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
    # Without panoptic segments of the model, the things are left.
    cfg.MODEL.DETR.PANOPTIC.ENABLED = False
    (things,) = build_evaluator(cfg, "both")._evaluators
    assert isinstance(things, ReorderedClassesEvaluator)
    register_from_config(make_cfg(REGISTER=[entry | {"NAME": "alone"}]))
    with pytest.raises(ValueError, match=r"alone is panoptic, but the model is not.*set MODEL\.DETR\.PANOPTIC"):
        build_evaluator(cfg, "alone")


@needs_panopticapi
def test_separated_data_are_evaluated_as_semantic_too(tmp_path: Path) -> None:
    paths = write_panoptic(tmp_path / "data")
    entry = {"NAME": "apart", "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry]))
    load_dataset("apart")
    record = {"file_name": "a.jpg", "image_id": 11, "sem_seg_file_name": str(tmp_path / "stuff.png")}
    record |= {"width": 4, "height": 4, "annotations": []}
    Image.fromarray(np.tile(np.array([0, 1, 2, 255], dtype=np.uint8), (4, 1))).save(tmp_path / "stuff.png")
    metadata = MetadataCatalog.get("apart").as_dict() | {
        "thing_classes": ["cat"],
        "stuff_classes": ["things", "sky", "grass"],
        "stuff_dataset_id_to_contiguous_id": {0: 0, 2: 1, 4: 2},
    }
    MetadataCatalog.pop("apart")
    MetadataCatalog.get("apart").set(**metadata)
    DatasetCatalog.pop("apart")
    DatasetCatalog.register("apart", lambda: [record])
    evaluator = build_evaluator(cfg_for("apart", tmp_path, panoptic=True), "apart")
    assert isinstance(evaluator, DatasetEvaluators)
    (semantic_evaluator,) = [e for e in evaluator._evaluators if isinstance(e, SemSegEvaluator)]
    # Classes: cat, sky, grass; a channel each for things, sky, grass.
    classes = panoptic_classes("apart")
    masks = torch.eye(3)[:, None, [0, 1, 2, 0]].expand(-1, 4, -1)
    scores = semantic(masks, torch.eye(3), torch.tensor(classes.channels))
    results = run(semantic_evaluator, [record], [{"sem_seg": scores}])
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)


def test_what_panoptic_quality_needs_is_said_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_panoptic(tmp_path / "data")
    entry = {"NAME": "early", "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry]))
    cfg = cfg_for("early", tmp_path / "out", panoptic=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "panopticapi", None)
        patch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"early is computed by panopticapi: run .*github\.com/cocodataset"):
            require_test_set(cfg, "early")
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: object())
    require_test_set(cfg, "early")
    content = json.loads(paths["JSON"].read_text())
    content["annotations"][0] |= {key: content["annotations"][1][key] for key in ("file_name", "segments_info")}
    paths["JSON"].write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no segment of any thing class"):
        require_test_set(cfg, "early")


def test_things_evaluator_is_for_data_with_stuff_alone(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [1, 1, 8, 8]}
    register_coco("plain", str(write_coco(tmp_path, [box], [(9, 9)])), str(tmp_path))
    assert type(build_evaluator(cfg_for("plain", tmp_path / "out"), "plain")) is COCOEvaluator
