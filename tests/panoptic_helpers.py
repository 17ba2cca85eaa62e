"""Tiny panoptic data, and the output of models that find their segments, exactly or nearly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, write_panoptic
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from PIL import Image

from pair_detr.data import load_dataset, panoptic_classes, register_from_config
from pair_detr.data.datasets.panoptic_png import id_to_rgb, read_segment_ids, rgb_to_id
from pair_detr.evaluation.build import build_evaluator, require_test_set


def cfg_for(name: str, output: Path, **keys: Any) -> CfgNode:
    """Of a panoptic model, unless ``keys`` say otherwise."""
    cfg = make_cfg(TRAIN=(name,), TEST=(name,))
    keys = {"MODEL__MASK_ON": True, "MODEL__DETR__PANOPTIC__ENABLED": True, "OUTPUT_DIR": str(output)} | keys
    cfg.merge_from_list([part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    return cfg


def register(folder: Path, name: str = "own", **entries: str) -> dict[str, Path]:
    """The data of :func:`write_panoptic`, with ids below 256 alone (70000 is 5, 256 is 4, 300 is 3)."""
    paths = write_panoptic(folder)
    text = paths["JSON"].read_text()
    for old, new in ((70000, 5), (256, 4), (300, 3)):
        text = text.replace(f'"id": {old}', f'"id": {new}')
        for file in paths["SEGMENTS"].iterdir():
            ids = rgb_to_id(np.asarray(Image.open(file)))
            ids[ids == old] = new
            Image.fromarray(id_to_rgb(ids)).save(file)
    paths["JSON"].write_text(text)
    entry = {"NAME": name, "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
    register_from_config(make_cfg(REGISTER=[entry | entries]))
    return paths


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def predictions(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """By hand: one cat is found with IoU 0.75, the other is not; grass is right; sky is called grass in image 12."""
    records = load_dataset(name)
    first = torch.zeros(32, 48, dtype=torch.int32)
    first[12:18, 5:15] = 1
    first[:10] = 3
    ids = {segment["category_id"]: segment["id"] for segment in records[0]["segments_info"]}
    pixels = read_segment_ids(records[0]["pan_seg_file_name"], list(ids.values()))
    first[torch.from_numpy(pixels == ids[2])] = 2
    info = [(1, True, 0), (2, False, 2), (3, False, 1)]
    outputs = [
        {"panoptic_seg": (first, [{"id": i, "isthing": thing, "category_id": c} for i, thing, c in info])},
        {
            "panoptic_seg": (
                torch.ones(32, 48, dtype=torch.int32),
                [{"id": 1, "isthing": False, "category_id": 2}],
            )
        },
    ]
    return records, outputs


def quality(cfg: CfgNode, name: str) -> dict[str, float]:
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    evaluator.process(*predictions(name))
    return evaluator.evaluate()["panoptic_seg"]


def assert_by_hand(results: dict[str, float]) -> None:
    # cat: IoU 60 / 80 / (1 + 0.5 missed); sky: 1 / (1 + 0.5 missed); grass: 1 / (1 + 0.5 too many).
    assert results["PQ_th"] == pytest.approx(100 * 0.75 / 1.5)
    assert results["PQ_st"] == pytest.approx(100 / 1.5)
    assert results["PQ"] == pytest.approx((50 + 200 / 1.5) / 3)


def detections(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segments as detections, stuff and crowds among them."""
    records = load_dataset(name)
    outputs = []
    for record in records:
        segments = record["segments_info"]
        ids = read_segment_ids(record["pan_seg_file_name"], [segment["id"] for segment in segments])
        instances = Instances(ids.shape, scores=torch.linspace(1, 0.9, len(segments)))
        instances.pred_classes = torch.tensor([segment["category_id"] for segment in segments]).long()
        numbers = np.array([segment["id"] for segment in segments], dtype=int).reshape(-1, 1, 1)
        instances.pred_masks = torch.from_numpy(ids == numbers)
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        outputs.append({"instances": instances})
    return records, outputs


def average_precision(cfg: CfgNode, name: str) -> dict[str, dict[str, float]]:
    require_test_set(cfg, name)
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    evaluator.process(*detections(name))
    return evaluator.evaluate()


COCO = {"TEST__EVALUATOR": "coco"}
BOXES = {"MODEL__MASK_ON": False, "MODEL__DETR__PANOPTIC__ENABLED": False}


def things_alone(paths: dict[str, Path]) -> None:
    """Leaves stuff out, in the categories too."""
    content = json.loads(paths["JSON"].read_text())
    content["categories"] = [c for c in content["categories"] if c["isthing"]]
    for annotation in content["annotations"]:
        annotation["segments_info"] = [s for s in annotation["segments_info"] if s["category_id"] == 9]
    edit(paths["JSON"], **content)


def write_things(folder: Path, name: str, **changes: Any) -> str:
    """The segments of things in COCO's format for detection."""
    things = [i for i, is_thing in enumerate(panoptic_classes(name).is_thing) if is_thing]
    annotations = [
        {"image_id": r["image_id"], "category_id": 9, "bbox": a["bbox"], "area": 80, "iscrowd": a["iscrowd"]}
        for r in load_dataset(name)
        for a in r["annotations"]
        if a["category_id"] in things
    ]
    content = {
        "images": [{"id": own, "file_name": f"{own}.png", "width": 48, "height": 32} for own in (11, 12)],
        "annotations": [a | {"id": number} for number, a in enumerate(annotations)],
        "categories": [{"id": 9, "name": "cat"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content | changes))
    return str(file)
