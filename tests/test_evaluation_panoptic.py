"""Panoptic quality and AP of panoptic data in all their forms; each remedy that a message names helps."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, restored_catalogs, write_image, write_panoptic
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Instances
from engine_helpers import restored_loggers, tiny_options
from PIL import Image

from pair_detr.data import load_dataset, panoptic_classes, register_coco_panoptic, register_from_config
from pair_detr.data.panoptic_files import id_to_rgb, read_segment_ids, rgb_to_id
from pair_detr.engine import argument_parser, build_evaluator, main
from pair_detr.engine.evaluation import require_test_set

needs_panopticapi = pytest.mark.skipif(
    importlib.util.find_spec("panopticapi") is None, reason="needs the package panopticapi"
)


@pytest.fixture(autouse=True)
def _catalogs() -> Iterator[None]:
    with restored_catalogs(), restored_loggers():
        yield


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


@needs_panopticapi
@pytest.mark.parametrize("form", ["RGB", "RGBA", "L", "I;16", "P", "palette of ids", "mixed"])
def test_quality_whatever_the_kind_of_pixels(tmp_path: Path, form: str) -> None:
    paths = register(tmp_path / "data")
    for number, file in enumerate(sorted(paths["SEGMENTS"].iterdir())):
        ids = rgb_to_id(np.asarray(Image.open(file)))
        kind = form if form != "mixed" else ("RGB", "L")[number]
        image = Image.fromarray(ids.astype(np.uint16 if kind == "I;16" else np.uint8))
        if kind == "P":
            image = image.convert("P")
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        elif kind == "palette of ids":
            image = Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE)
        elif kind in ("RGB", "RGBA"):
            image = Image.open(file).convert(kind)
        image.save(file)
        assert Image.open(file).mode == ("P" if kind == "palette of ids" else kind)
    cfg = cfg_for("own", tmp_path / "out")
    require_test_set(cfg, "own")
    assert_by_hand(quality(cfg, "own"))


@needs_panopticapi
def test_quality_without_area_and_crowds_and_with_names_that_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images a/x.png and b/x.png with ids as text; relative paths; things by true and false."""
    paths = register(tmp_path / "data")
    content = json.loads(paths["JSON"].read_text())
    for image, annotation, folder in zip(content["images"], content["annotations"], ("a", "b"), strict=True):
        for key in ("IMAGES", "SEGMENTS"):
            (paths[key] / folder).mkdir()
        (paths["IMAGES"] / image["file_name"]).rename(paths["IMAGES"] / folder / "x.png")
        (paths["SEGMENTS"] / annotation["file_name"]).rename(paths["SEGMENTS"] / folder / "x.png")
        image["file_name"] = annotation["file_name"] = f"{folder}/x.png"
        image["id"] = annotation["image_id"] = f"image {folder}"
        for segment in annotation["segments_info"]:
            del segment["area"]
            if not segment["iscrowd"]:
                del segment["iscrowd"]
    for category in content["categories"]:
        category["isthing"] = bool(category["isthing"])
    edit(paths["JSON"], **content)
    monkeypatch.chdir(tmp_path)
    folders = [str(paths[key].relative_to(tmp_path)) for key in ("JSON", "SEGMENTS", "IMAGES")]
    register_coco_panoptic("relative", *folders)
    cfg = cfg_for("relative", tmp_path / "out")
    require_test_set(cfg, "relative")
    assert_by_hand(quality(cfg, "relative"))
    file = tmp_path / "out" / "inference" / "relative" / "predictions.json"
    written = json.loads(file.read_text())
    assert [x["image_id"] for x in written["annotations"]] == ["image a", "image b"]
    assert [x["category_id"] for x in written["annotations"][0]["segments_info"]] == [9, 4, 2]
    assert [x["id"] for x in written["images"]] == ["image a", "image b"]
    evaluator = build_evaluator(cfg, "relative")
    evaluator.reset()
    records, outputs = predictions("relative")
    evaluator.process(records[:1], outputs[:1])
    with pytest.raises(ValueError, match=r'"relative": there are no predictions for 1 of its 2 images.*image b'):
        evaluator.evaluate()
    with pytest.raises(
        ValueError, match=r"predictions are made for image 5 \(c\.png\), which its ground truth has not"
    ):
        evaluator.process([{"image_id": 5, "file_name": "c.png"}], outputs[:1])


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


@pytest.mark.parametrize("stuff", [True, False])
@pytest.mark.parametrize("model", [{}, {"MODEL__DETR__PANOPTIC__ENABLED": False}, BOXES])
def test_ap_of_the_segments_of_things(tmp_path: Path, stuff: bool, model: dict[str, Any]) -> None:
    """The remedy TEST.EVALUATOR coco of several messages, for any model."""
    paths = register(tmp_path / "data")
    if not stuff:
        things_alone(paths)
        # An image without things has no pixels either.
        Image.new("RGB", (48, 32)).save(paths["SEGMENTS"] / "seg12.png")
    results = average_precision(cfg_for("own", tmp_path / "out", **model, **COCO), "own")
    assert set(results) == ({"bbox"} if model is BOXES else {"bbox", "segm"})
    assert all(metrics["AP"] == pytest.approx(100) for metrics in results.values())
    (file,) = (tmp_path / "out").rglob("coco_instances_results.json")
    assert {x["category_id"] for x in json.loads(file.read_text())} == {9}
    # A mask that is shifted is worse.
    if model is not BOXES:
        evaluator = build_evaluator(cfg_for("own", tmp_path / "out", **model, **COCO), "own")
        records, outputs = detections("own")
        for output in outputs:
            output["instances"].pred_masks = output["instances"].pred_masks.roll(3, 2)
        evaluator.reset()
        evaluator.process(records, outputs)
        assert evaluator.evaluate()["segm"]["AP"] < 60


@needs_panopticapi
def test_remedies_for_data_without_stuff(tmp_path: Path) -> None:
    paths = register(tmp_path / "data")
    things_alone(paths)
    cfg = cfg_for("own", tmp_path / "out")
    for check in (require_test_set, build_evaluator):
        with pytest.raises(ValueError, match=r'own has no classes of stuff: set TEST\.EVALUATOR "coco"'):
            check(cfg, "own")
    cfg = cfg_for("own", tmp_path / "out", **BOXES)
    for check in (require_test_set, build_evaluator):
        with pytest.raises(
            ValueError, match=r'model is not.*TEST\.EVALUATOR "coco".*INSTANCES in DATASETS\.REGISTER\.$'
        ):
            check(cfg, "own")
    assert average_precision(cfg_for("own", tmp_path / "out", **BOXES, **COCO), "own")["bbox"]["AP"] == pytest.approx(
        100
    )
    # The other remedy.
    register(tmp_path / "other", "other", INSTANCES=write_things(tmp_path, "own"))
    assert average_precision(cfg_for("other", tmp_path / "out", **BOXES), "other")["bbox"]["AP"] == pytest.approx(100)


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


@needs_panopticapi
def test_remedies_for_data_with_stuff(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register(tmp_path / "data")
    with pytest.raises(ValueError, match=r"or set MODEL\.DETR\.PANOPTIC\.ENABLED and MODEL\.MASK_ON to True"):
        require_test_set(cfg_for("own", tmp_path / "out", **BOXES), "own")
    cfg = cfg_for("own", tmp_path / "out")
    require_test_set(cfg, "own")
    assert_by_hand(quality(cfg, "own"))
    # A file of things that lacks an image.
    things = write_things(tmp_path, "own", images=[{"id": 11, "file_name": "11.png", "width": 48, "height": 32}])
    register(tmp_path / "partly", "partly", INSTANCES=things)
    cfg = cfg_for("partly", tmp_path / "out", **BOXES)
    with pytest.raises(
        ValueError, match=r"1 of its 2 images are not in .*instances\.json.*\(12\)\. Add them, or leave"
    ):
        require_test_set(cfg, "partly")
    write_things(tmp_path, "own")
    assert average_precision(cfg, "partly")["bbox"]["AP"] == pytest.approx(100)
    write_things(tmp_path, "own", images=[])
    assert average_precision(cfg_for("own", tmp_path / "out", **BOXES, **COCO), "own")["bbox"]["AP"] == pytest.approx(
        100
    )
    # One that is gone.
    Path(things).unlink()
    caplog.clear()
    require_test_set(cfg_for("partly", tmp_path / "out"), "partly")
    assert f'"partly": there will be no AP of things, as {things} does not exist' in caplog.text


def test_remedies_where_a_mean_would_be_over_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: object())
    paths = register(tmp_path / "data")
    whole = json.loads(paths["JSON"].read_text())
    for kept, what, remedy in (
        ((2, 4), "thing", "take it out of DATASETS.TEST"),
        ((9,), "stuff", 'set TEST.EVALUATOR "coco", for the AP of things alone'),
    ):
        for annotation in whole["annotations"]:
            segments = annotation["segments_info"]
            annotation["all"] = annotation.get("all", segments)
            annotation["segments_info"] = [s for s in annotation["all"] if s["category_id"] in kept]
        edit(paths["JSON"], **whole)
        cfg = cfg_for("own", tmp_path / "out")
        with pytest.raises(
            ValueError, match=rf"no segment of any {what} class.*Add images that show some, or {remedy}"
        ):
            require_test_set(cfg, "own")
    assert average_precision(cfg_for("own", tmp_path / "out", **COCO), "own")["segm"]["AP"] == pytest.approx(100)


def test_without_panopticapi_there_is_ap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tmp_path / "data")
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'To do without, set TEST\.EVALUATOR "coco", for the AP of things alone'):
        require_test_set(cfg_for("own", tmp_path / "out"), "own")
    assert average_precision(cfg_for("own", tmp_path / "out", **COCO), "own")["segm"]["AP"] == pytest.approx(100)


def test_the_separated_form_without_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panoptic quality needs the standard form's files; AP does without."""
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: object())
    write_image(tmp_path / "a.jpg", 48, 32)
    Image.fromarray(np.ones((32, 48), dtype=np.uint8)).save(tmp_path / "stuff.png")
    box = {"bbox": [5, 12, 10, 8], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    box["segmentation"] = [[5, 12, 15, 12, 15, 20, 5, 20]]
    record = {"file_name": str(tmp_path / "a.jpg"), "image_id": 1, "width": 48, "height": 32, "annotations": [box]}
    DatasetCatalog.register("apart", lambda: [record | {"sem_seg_file_name": str(tmp_path / "stuff.png")}])
    MetadataCatalog.get("apart").set(
        evaluator_type="coco_panoptic_seg",
        thing_classes=["cat"],
        stuff_classes=["things", "sky"],
        thing_dataset_id_to_contiguous_id={9: 0},
        stuff_dataset_id_to_contiguous_id={0: 0, 2: 1},
    )
    with pytest.raises(
        ValueError, match=r'no panoptic_json and panoptic_root in its metadata; set TEST\.EVALUATOR "coco"'
    ):
        require_test_set(cfg_for("apart", tmp_path), "apart")
    cfg = cfg_for("apart", tmp_path, **COCO)
    require_test_set(cfg, "apart")
    evaluator = build_evaluator(cfg, "apart")
    evaluator.reset()
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[0, 12:20, 5:15] = masks[1, :10] = True
    found = Instances((32, 48), pred_masks=masks, scores=torch.ones(2), pred_classes=torch.tensor([0, 1]))
    found.pred_boxes = BitMasks(masks).get_bounding_boxes()
    evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100) and results["segm"]["AP"] > 80


@needs_panopticapi
def test_training_ends_with_a_result(tmp_path: Path) -> None:
    """Of one-channel files with stuff by its quality, of things alone by AP, for boxes and for masks."""
    paths = register(tmp_path / "data")
    for file in paths["SEGMENTS"].iterdir():
        Image.fromarray(np.asarray(Image.open(file))[..., 0]).save(file)
    masks = {"MODEL__MASK_ON": True, "MODEL__DETR__PANOPTIC__ENABLED": True}

    def run(name: str, **changes: Any) -> dict[str, Any]:
        entry = {"NAME": name, "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
        changes |= {"DATASETS__TEST": (name,), "SOLVER__MAX_ITER": 1, "SOLVER__IMS_PER_BATCH": 2}
        options = tiny_options(entry, tmp_path / "out", **changes)
        return main(argument_parser().parse_args(["--num-gpus", "1", *options]))

    assert set(run("with_stuff", **masks, MODEL__DETR__PANOPTIC__SCORE_THRESHOLD=0.0)) == {"panoptic_seg"}
    things_alone(paths)
    Image.new("L", (48, 32)).save(paths["SEGMENTS"] / "seg12.png")
    assert set(run("things", **masks, TEST__EVALUATOR="coco")) == {"bbox", "segm"}
    assert set(run("things", TEST__EVALUATOR="coco")) == {"bbox"}
