"""Base and novel classes: OV-COCO's files, boxes turned into labels, LVIS without rare boxes, AP50 of each split."""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from data_helpers import make_cfg, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pair_detr.data import class_names_of, load_dataset, register_coco, register_from_config, register_image_labels
from pair_detr.data.datasets.lvis import register_lvis_base
from pair_detr.data.datasets.ov_coco import BASE_CLASSES, NOVEL_CLASSES, labels_from_captions, register_ov_coco
from pair_detr.evaluation.build import build_evaluator
from pair_detr.tools import make_ov_coco, withhold_boxes

pytestmark = pytest.mark.usefixtures("catalogs")

COCO_CLASSES = MetadataCatalog.get("coco_2017_train").thing_classes


def fresh_registration(root: Path, register: Callable[[Path], None], *names: str) -> None:
    """Registers built-in datasets anew, below another folder."""
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    register(root)


OV_COCO_NAMES = (
    "ovcoco_2017_train_base",
    "ovcoco_2017_val",
    "ovcoco_2017_train_image_labels",
    "coco_zeroshot_train",
    "coco_generalized_zeroshot_val",
)


def test_the_split_is_that_of_the_papers() -> None:
    assert (len(BASE_CLASSES), len(NOVEL_CLASSES)) == (48, 17)
    assert len({*BASE_CLASSES, *NOVEL_CLASSES}) == 65 and {*BASE_CLASSES, *NOVEL_CLASSES} <= {*COCO_CLASSES}
    # Those that the literature leaves out.
    assert {*COCO_CLASSES} - {*BASE_CLASSES, *NOVEL_CLASSES} == {
        *("traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat"),
        *("baseball glove", "tennis racket", "wine glass", "hot dog", "potted plant", "dining table"),
        *("cell phone", "teddy bear", "hair drier"),
    }
    for name in OV_COCO_NAMES:
        classes = MetadataCatalog.get(name).thing_classes
        assert classes == [c for c in COCO_CLASSES if c in {*BASE_CLASSES, *NOVEL_CLASSES}]
        assert MetadataCatalog.get(name).novel_classes == list(NOVEL_CLASSES)


def test_ov_coco_of_the_sample(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "datasets" / "coco"
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / "coco" / split).symlink_to(source / split)
        (tmp_path / "coco" / "annotations" / f"instances_{split}.json").symlink_to(
            source / "annotations" / f"instances_{split}.json"
        )
    make_ov_coco.main(["--root", str(tmp_path)])
    fresh_registration(tmp_path, register_ov_coco, *OV_COCO_NAMES)

    with redirect_stdout(io.StringIO()):
        coco = {
            split: COCO(str(source / "annotations" / f"instances_{split}.json")) for split in ("train2017", "val2017")
        }
    for name, split, wanted in (
        ("ovcoco_2017_train_base", "train2017", BASE_CLASSES),
        ("ovcoco_2017_val", "val2017", (*BASE_CLASSES, *NOVEL_CLASSES)),
        ("coco_zeroshot_train", "train2017", BASE_CLASSES),
    ):
        expected = {
            c: len(coco[split].getAnnIds(catIds=coco[split].getCatIds([c]))) for c in COCO_CLASSES if c in wanted
        }
        dicts = load_dataset(name)
        classes = class_names_of(name)
        found = Counter(classes[a["category_id"]] for record in dicts for a in record["annotations"])
        assert found == Counter({c: n for c, n in expected.items() if n}) and found.total() > 100
        assert all(record["annotations"] for record in dicts)
        # The same boxes as in COCO itself.
        of_image = {a["id"]: a for a in coco[split].dataset["annotations"]}
        images = {record["image_id"] for record in dicts}
        names = {i: c["name"] for i, c in coco[split].cats.items()}
        assert images == {a["image_id"] for a in of_image.values() if names[a["category_id"]] in wanted}
    labels = load_dataset("ovcoco_2017_train_image_labels")
    classes = class_names_of("ovcoco_2017_train_image_labels")
    for record in labels:
        annotations = coco["train2017"].imgToAnns[record["image_id"]]
        shown = {names[a["category_id"]] for a in annotations} & set(classes)
        assert {classes[i] for i in record["pos_category_ids"]} == shown and record["annotations"] == []
    assert any(classes[i] in NOVEL_CLASSES for record in labels for i in record["pos_category_ids"])


def test_missing_ov_coco_names_the_command(tmp_path: Path) -> None:
    fresh_registration(tmp_path, register_ov_coco, *OV_COCO_NAMES)
    with pytest.raises(FileNotFoundError, match=r"ovcoco_val2017.json.*pair_detr\.tools\.make_ov_coco"):
        load_dataset("ovcoco_2017_val")


def test_labels_from_captions() -> None:
    captions = ["Two dogs and a hot dog", "A Couch, a bus.", "A category of buses", "nothing", "scarf and carrots"]
    ids = {"dog": 18, "couch": 63, "bus": 6, "carrot": 57}
    content = {
        "images": [{"id": i} for i in range(4)],
        "annotations": [{"image_id": min(i, 3), "caption": text} for i, text in enumerate(captions)],
    }
    result = labels_from_captions(content)
    expected = [["dog"], ["bus", "couch"], ["bus"], ["carrot"]]
    assert [image["pos_category_ids"] for image in result["images"]] == [[ids[c] for c in names] for names in expected]
    assert len(result["categories"]) == 65


def test_withheld_boxes_become_labels(tmp_path: Path) -> None:
    boxes = [
        {"image_id": 1, "bbox": [1, 1, 5, 5], "category_id": 1},
        {"image_id": 1, "bbox": [2, 2, 5, 5], "category_id": 2},
    ]
    boxes += [
        {"image_id": 2, "bbox": [3, 3, 5, 5], "category_id": 1},
        {"image_id": 3, "bbox": [4, 4, 5, 5], "category_id": 2},
    ]
    source = write_coco(tmp_path, boxes, [(30, 20)] * 4)
    withhold_boxes.main([str(source), str(tmp_path / "out" / "cats"), "--classes", "DOG"])
    kept, labeled = (tmp_path / "out" / f"cats_{kind}.json" for kind in ("boxes", "image_labels"))
    register_coco("kept", str(kept), str(tmp_path))
    register_image_labels("labeled", labeled, tmp_path)
    assert [[a["bbox"][0] for a in r["annotations"]] for r in load_dataset("kept")] == [[1], [3], [], []]
    assert class_names_of("kept") == class_names_of("labeled") == ["cat", "dog"]
    assert [(r["image_id"], r["pos_category_ids"]) for r in load_dataset("labeled")] == [(1, [1]), (3, [1])]
    withhold_boxes.main([str(source), str(tmp_path / "all"), "--classes", "dog", "--all-labels"])
    images = json.loads((tmp_path / "all_image_labels.json").read_text())["images"]
    assert [(image["id"], image["pos_category_ids"]) for image in images] == [(1, [1, 2]), (3, [2])]
    with pytest.raises(
        ValueError, match=r"--classes: owl is not among the categories, which are cat, dog \(of .*json\)"
    ):
        withhold_boxes.main([str(source), str(tmp_path / "all"), "--classes", "dog,owl"])
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    for content, lacking in (
        ("[]", "images, annotations, categories"),
        ('{"images": [], "annotations": []}', "categories"),
    ):
        source.write_text(content)
        with pytest.raises(ValueError, match=rf"\.json has no {lacking}: .*COCO's format"):
            withhold_boxes.main([str(source), str(tmp_path / "all"), "--classes", "dog"])


def test_inputs_of_ov_coco_are_checked_first(tmp_path: Path) -> None:
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    content = json.dumps({"images": [], "annotations": [], "categories": categories})
    (folder / "instances_train2017.json").write_text(content)
    with pytest.raises(FileNotFoundError, match=r"^\S*instances_val2017\.json do not exist.*--root"):
        make_ov_coco.main(["--root", str(tmp_path)])
    (folder / "instances_val2017.json").write_text(content)
    with pytest.raises(FileNotFoundError, match=r"^\S*captions_train2017\.json do not exist"):
        make_ov_coco.main(["--root", str(tmp_path), "--captions"])
    (folder / "captions_train2017.json").write_text("[]")
    with pytest.raises(ValueError, match=r"captions_train2017\.json has no images, annotations: "):
        make_ov_coco.main(["--root", str(tmp_path), "--captions"])
    assert len(list(folder.iterdir())) == 3
    make_ov_coco.main(["--root", str(tmp_path)])
    assert len(list(folder.iterdir())) == 6


def predictions(coco: COCO, seed: int) -> dict[int, Instances]:
    """The objects of each image, some of them moved, missed, or given another class, and boxes of nothing."""
    rng = np.random.default_rng(seed)
    order = {category: index for index, category in enumerate(sorted(coco.cats))}
    result = {}
    for image_id, image in coco.imgs.items():
        boxes, labels = [], []
        for annotation in coco.imgToAnns[image_id]:
            x, y, w, h = annotation["bbox"]
            dx, dy = rng.normal(0, 0.15, 2) * (w, h)
            boxes.append([x + dx, y + dy, x + dx + w, y + dy + h])
            keep = rng.random() < 0.8
            labels.append(order[annotation["category_id"]] if keep else int(rng.integers(len(order))))
        boxes.append([0, 0, 5, 5])
        labels.append(int(rng.integers(len(order))))
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes))
        instances.pred_classes = torch.tensor(labels)
        instances.scores = torch.tensor(rng.random(len(boxes)))
        result[image_id] = instances
    return result


def test_ap50_of_the_splits_is_that_of_pycocotools(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = [
        {
            "image_id": int(rng.integers(1, 6)),
            "bbox": [*rng.integers(0, 10, 2).tolist(), 8, 7],
            "category_id": c,
            "area": 56,
        }
        for c in (1, 2, 5)
        for _ in range(9)
    ]
    source = write_coco(tmp_path, boxes, [(30, 20)] * 5)
    content = json.loads(source.read_text())
    # The last class has no objects: it must count in neither split.
    content["categories"] += [{"id": 5, "name": "owl"}, {"id": 9, "name": "yak"}]
    source.write_text(json.dumps(content))
    entry = {
        "NAME": "v",
        "FORMAT": "coco",
        "JSON": str(source),
        "IMAGES": str(tmp_path),
        "NOVEL_CLASSES": ["dog", "yak"],
    }
    cfg = make_cfg(REGISTER=[entry])
    register_from_config(cfg)
    evaluator = build_evaluator(cfg, "v", str(tmp_path / "out"))
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(source))
    found = predictions(coco, seed=1)
    evaluator.reset()
    evaluator.process([{"image_id": i} for i in found], [{"instances": x} for x in found.values()])
    results = evaluator.evaluate()["bbox"]

    detections = [
        {"image_id": i, "category_id": sorted(coco.cats)[c], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": s}
        for i, x in found.items()
        for (x0, y0, x1, y1), s, c in zip(
            x.pred_boxes.tensor.tolist(), x.scores.tolist(), x.pred_classes.tolist(), strict=True
        )
    ]
    for key, ids in (("AP50-base", [1, 5]), ("AP50-novel", [2, 9]), ("AP50", [1, 2, 5, 9])):
        with redirect_stdout(io.StringIO()):
            official = COCOeval(coco, coco.loadRes(detections), "bbox")
            official.params.catIds = ids
            official.evaluate()
            official.accumulate()
            official.summarize()
        assert results[key] == pytest.approx(100 * official.stats[1], abs=1e-6)
    assert 5 < results["AP50-base"] < 99 and results["AP50-novel"] != pytest.approx(results["AP50-base"], abs=0.1)


def test_splits_without_predictions_or_objects(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 1, 5, 5], "area": 25}], [(30, 20)])
    register_coco("v", str(source), str(tmp_path), novel_classes=["dog"])
    evaluator = build_evaluator(make_cfg(), "v", str(tmp_path / "out"))
    evaluator.reset()
    empty = Instances(
        (20, 30), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0), pred_classes=torch.zeros(0).long()
    )
    evaluator.process([{"image_id": 1}], [{"instances": empty}])
    results = evaluator.evaluate()["bbox"]
    # Nothing is found of the class that has an object.
    assert results["AP"] == results["AP50-base"] == 0 and np.isnan(results["AP50-novel"])
    evaluator.reset()
    right = Instances((20, 30), pred_boxes=Boxes(torch.tensor([[1.0, 1, 6, 6]])), scores=torch.ones(1))
    right.pred_classes = torch.zeros(1).long()
    evaluator.process([{"image_id": 1}], [{"instances": right}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP50-base"] == pytest.approx(100) and np.isnan(results["AP50-novel"])
    MetadataCatalog.get("v").novel_classes.append("owl")
    with pytest.raises(ValueError, match="v: the novel classes owl are not among its classes"):
        build_evaluator(make_cfg(), "v", str(tmp_path / "out"))


def test_lvis_base_has_no_rare_boxes(shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = sorted(json.loads((shared_dir / "lvis/lvis_v1_train_cat_info.json").read_text()), key=lambda c: c["id"])
    metadata = MetadataCatalog.get("lvis_v1_train_norare")
    rare = [entry["name"] for entry in info if entry["frequency"] == "r"]
    assert len(rare) == 337 and len(metadata.thing_classes) == 1203 and len(metadata.novel_classes) == 337
    for entry, name, count, synonyms in zip(
        info, metadata.thing_classes, metadata.class_image_count, metadata.thing_synonyms, strict=True
    ):
        assert name in entry["synonyms"] and synonyms == entry["synonyms"]
        assert (name in metadata.novel_classes) == (entry["frequency"] == "r")
        assert count == {"id": entry["id"], "image_count": 0 if entry["frequency"] == "r" else entry["image_count"]}

    ids = {kind: next(entry["id"] for entry in info if entry["frequency"] == kind) for kind in "rcf"}
    polygon = [[1, 1, 5, 1, 5, 5]]
    annotations = [
        {"id": 1 + n, "image_id": 1, "category_id": i, "bbox": [1, 1, 4, 4], "segmentation": polygon, "area": 8}
        for n, i in enumerate((ids["f"], ids["r"], ids["c"], ids["r"]))
    ]
    image = {"id": 1, "coco_url": "http://a.b/train2017/1.jpg", "width": 9, "height": 9, "neg_category_ids": []}
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis" / "lvis_v1_train.json").write_text(json.dumps({"images": [image], "annotations": annotations}))

    class LVIS:
        """What Detectron2 uses of the package."""

        def __init__(self, file: str) -> None:
            content = json.loads(Path(file).read_text())
            self.imgs = {entry["id"]: entry for entry in content["images"]}
            self.img_ann_map = {i: [a for a in content["annotations"] if a["image_id"] == i] for i in self.imgs}

        def load_imgs(self, ids: list[int]) -> list[dict]:
            return [self.imgs[i] for i in ids]

    package = ModuleType("lvis")
    package.LVIS = LVIS
    monkeypatch.setitem(sys.modules, "lvis", package)
    fresh_registration(tmp_path, register_lvis_base, "lvis_v1_train_norare")
    (record,) = load_dataset("lvis_v1_train_norare")
    assert [a["category_id"] for a in record["annotations"]] == [ids["f"] - 1, ids["c"] - 1]
    assert record["file_name"] == str(tmp_path / "coco" / "train2017" / "1.jpg")
    monkeypatch.setitem(sys.modules, "lvis", None)
    fresh_registration(tmp_path, register_lvis_base, "lvis_v1_train_norare")
    with pytest.raises(
        ImportError, match='"lvis_v1_train_norare" is read with the package lvis, which is not installed'
    ):
        load_dataset("lvis_v1_train_norare")


def test_lvis_evaluation_with_the_package(shared_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("lvis", reason="the package lvis is not installed")
    info = json.loads((shared_dir / "lvis/lvis_v1_train_cat_info.json").read_text())
    ids = {kind: [entry["id"] for entry in info if entry["frequency"] == kind][:2] for kind in "rcf"}
    image = {"id": 1, "width": 64, "height": 64, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    image["coco_url"] = "http://a.b/train2017/1.jpg"
    shown = [number for numbers in ids.values() for number in numbers]
    box = {"image_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "segmentation": [[5, 5, 25, 5, 25, 25]]}
    annotations = [{"id": 1 + n, "category_id": number, **box} for n, number in enumerate(shown)]
    file = tmp_path / "lvis_v1_val.json"
    file.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": info}))
    MetadataCatalog.get("lvis_v1_tiny").set(json_file=str(file), evaluator_type="lvis")
    DatasetCatalog.register("lvis_v1_tiny", lambda: [])
    evaluator = build_evaluator(make_cfg(), "lvis_v1_tiny", str(tmp_path / "out"))
    evaluator.reset()
    # All but one of the two rare objects are found.
    found = torch.tensor([number - 1 for number in shown[1:]])
    instances = Instances((64, 64), pred_classes=found, scores=torch.ones(len(found)))
    instances.pred_boxes = Boxes(torch.tensor([[5.0, 5, 25, 25]]).repeat(len(found), 1))
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert [results[key] for key in ("APr", "APc", "APf")] == pytest.approx([50, 100, 100])
