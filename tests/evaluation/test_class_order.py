"""Test sets with the classes of the model in another order, and with others."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import make_cfg, predict, write_coco, write_panoptic, write_voc
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from engine_helpers import tiny_options, write_dataset
from open_vocabulary_helpers import make_vocabulary

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.data import (
    class_names_of,
    load_dataset,
    load_training_dicts,
    register_coco,
    register_from_config,
    register_voc,
)
from pair_detr.data.class_matching import ClassMismatchError, match_order
from pair_detr.data.datasets import from_config as registration
from pair_detr.engine import argument_parser, main
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.tools import check_dataset as tool

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.mark.parametrize(
    ("names", "others", "expected"),
    [
        (["cat", "dog"], ["cat", "dog"], None),
        (["Traffic_Light", "dog"], ["traffic light", "Dog"], None),
        (["cat", "dog", "owl"], ["owl", "cat", "dog"], (1, 2, 0)),
        (["hot-dog", "cat"], ["Cat", "hot dog"], (1, 0)),
        # The same position by position, so that nobody needs to tell them apart.
        (["cat", "cat"], ["cat", "cat"], None),
    ],
)
def test_equal_names_are_found(names: list[str], others: list[str], expected: tuple[int, ...] | None) -> None:
    assert match_order(names, others) == expected


@pytest.mark.parametrize(
    ("names", "others", "message"),
    [
        (["cat", "dog"], ["cat"], "^in the first alone: dog$"),
        (["cat"], ["cat", "dog"], "^in the second alone: dog$"),
        (["cat", "dog"], ["cat", "owl"], "^in the first alone: dog; in the second alone: owl$"),
        (["cat", "dog", "cat"], ["cat", "cat", "dog"], "in another order, and cat, cat are not unique"),
        (["cat", "cat", "dog"], ["cat", "dog", "dog"], "in the first alone: cat; in the second alone: dog"),
        (list(map(str, range(99))), [], r"0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 89 more"),
    ],
)
def test_other_names_are_named(names: list[str], others: list[str], message: str) -> None:
    with pytest.raises(ClassMismatchError, match=message):
        match_order(names, others)


def objects(folder: Path) -> list[dict[str, Any]]:
    """Two objects of cat and one of dog in each of three images."""
    boxes = [
        {"image_id": 1 + n // 3, "bbox": [3 * n, 2 * n, 12 + n, 14], "category_id": (1, 2, 1)[n % 3]} for n in range(9)
    ]
    return [box | {"area": box["bbox"][2] * 14} for box in boxes]


def register(name: str, folder: Path, categories: list[str]) -> str:
    """The objects, with categories in another order or of other names, by position of cat and dog."""
    file = write_coco(folder, objects(folder), [(60, 50)] * 3)
    content = json.loads(file.read_text())
    # Classes are in the order of category ids.
    order = {"cat": 1, "dog": 2}
    ids = {order.get(category.lower(), 9): 10 + number for number, category in enumerate(categories)}
    content["categories"] = [{"id": 10 + number, "name": category} for number, category in enumerate(categories)]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids.get(annotation["category_id"], 10)
    file.write_text(json.dumps(content))
    register_coco(name, str(file), str(folder))
    return name


def evaluate(cfg: CfgNode, name: str, output: Path) -> dict[str, dict[str, float]]:
    """Of a model that finds the objects of "train" nearly, with its classes."""
    inputs, outputs = predict(load_dataset("train"), noise=1)
    if cfg.MODEL.DETR.CLASS_AGNOSTIC:
        for output_of_image in outputs:
            output_of_image["instances"].pred_classes[:] = 0
    evaluator = build_evaluator(cfg, name, str(output))
    evaluator.reset()
    evaluator.process(inputs, outputs)
    before = [output["instances"].pred_classes.clone() for output in outputs]
    assert all(torch.equal(x["instances"].pred_classes, y) for x, y in zip(outputs, before, strict=True))
    return evaluator.evaluate()


@pytest.mark.parametrize("kind", ["coco", "pascal_voc"])
def test_ap_is_that_of_the_same_order(tmp_path: Path, kind: str) -> None:
    register("train", tmp_path / "train", ["cat", "dog"])
    register("turned", tmp_path / "turned", ["Dog", "cat"])
    assert class_names_of("turned") == ["Dog", "cat"]
    cfg = make_cfg(TRAIN=("train",), TEST=("train", "turned"))
    cfg.TEST.EVALUATOR = kind
    require_test_set(cfg, "turned")
    expected = evaluate(cfg, "train", tmp_path / "out")
    results = evaluate(cfg, "turned", tmp_path / "turned_out")
    assert set(results) == set(expected) == ({"bbox"} if kind == "coco" else {"bbox", "voc"})
    for task in results:
        assert 20 < results[task]["AP"] < 100
        assert results[task]["AP"] == pytest.approx(expected[task]["AP"])
    assert results["bbox"]["AP-Dog"] == pytest.approx(expected["bbox"]["AP-dog"])
    written = json.loads((tmp_path / "turned_out" / "coco_instances_results.json").read_text())
    # Dog is 10 and cat 11 there.
    assert [x["category_id"] for x in written] == [11, 10, 11] * 3


def test_voc_data_with_classes_by_the_alphabet(tmp_path: Path) -> None:
    """The classes of a VOC folder are sorted: those of a COCO file need not be."""
    register_voc("voc", str(write_voc(tmp_path / "voc")), "train")
    register("train", tmp_path / "train", ["dog", "cat"])
    inputs, outputs = predict(load_dataset("voc"), noise=0)
    for output in outputs:
        output["instances"].pred_classes = 1 - output["instances"].pred_classes
    evaluator = build_evaluator(make_cfg(TRAIN=("train",)), "voc", str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    assert [results[task]["AP"] for task in ("voc", "bbox")] == pytest.approx([100, 100])


@pytest.mark.parametrize("categories", [["cat", "owl"], ["cat"], ["cat", "dog", "owl"]])
def test_other_classes_stop_at_the_start(tmp_path: Path, categories: list[str]) -> None:
    register("train", tmp_path / "train", ["cat", "dog"])
    register("other", tmp_path / "other", categories)
    cfg = make_cfg(TRAIN=("train",), TEST=("other",))
    message = rf"2 classes \(cat, dog\).*\"other\" has {len(categories)} class(es)? \({', '.join(categories)}\)"
    for check in (require_test_set, build_evaluator):
        with pytest.raises(ValueError, match=message):
            check(cfg, "other")
    cfg.MODEL.DETR.CLASS_AGNOSTIC = True
    require_test_set(cfg, "other")
    assert evaluate(cfg, "other", tmp_path / "out")["bbox"]["AP50"] > 0


def test_a_config_with_the_number_of_classes_makes_no_difference(tmp_path: Path) -> None:
    """As the config.yaml of a run has it."""
    register("train", tmp_path / "train", ["cat", "dog"])
    register("other", tmp_path / "other", ["cat", "owl"])
    cfg = make_cfg(TRAIN=("train",), TEST=("other",))
    cfg.MODEL.DETR.NUM_CLASSES = 2
    with pytest.raises(ValueError, match="in the first alone: dog; in the second alone: owl"):
        require_test_set(cfg, "other")


def test_panoptic_data_in_another_order_stop(tmp_path: Path) -> None:
    for name, ids in (("train", (2, 4, 9)), ("turned", (4, 2, 9))):
        paths = write_panoptic(tmp_path / name)
        text = paths["JSON"].read_text()
        content = json.loads(text)
        for category, own in zip(content["categories"], ids, strict=True):
            category["id"] = own
        paths["JSON"].write_text(json.dumps(content))
        entry = {"NAME": name, "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
        register_from_config(make_cfg(REGISTER=[entry]))
    cfg = make_cfg(TRAIN=("train",), TEST=("turned",))
    cfg.MODEL.MASK_ON = cfg.MODEL.DETR.PANOPTIC.ENABLED = True
    with pytest.raises(
        ValueError, match=r'"turned" has the classes of the model, but in another order, which panoptic'
    ):
        require_test_set(cfg, "turned")
    cfg.DATASETS.TRAIN = ("train", "turned")
    with pytest.raises(ValueError, match=r'panoptic dataset "turned" has the classes of "train" in another order'):
        load_training_dicts(cfg)


def test_training_sets_in_another_order_are_mapped(tmp_path: Path) -> None:
    register("train", tmp_path / "train", ["cat", "dog"])
    register("turned", tmp_path / "turned", ["dog", "cat"])
    first = load_training_dicts(make_cfg(TRAIN=("train",)))
    both = load_training_dicts(make_cfg(TRAIN=("train", "turned")))
    labels = [[a["category_id"] for a in record["annotations"]] for record in both]
    assert labels == 2 * [[a["category_id"] for a in record["annotations"]] for record in first] == 6 * [[0, 1, 0]]
    # The catalog is as it was.
    assert [a["category_id"] for a in load_dataset("turned")[0]["annotations"]] == [1, 0, 1]
    register("other", tmp_path / "other", ["dog", "owl"])
    for number in (0, 2):
        cfg = make_cfg(TRAIN=("train", "other"))
        cfg.MODEL.DETR.NUM_CLASSES = number
        with pytest.raises(
            ValueError, match=r'mixes datasets of different classes: "other" has 2 classes \(dog, owl\)'
        ):
            load_training_dicts(cfg)


def run(entry: dict[str, str], output: Path, *flags: str, **changes: Any) -> dict[str, Any]:
    options = tiny_options(entry, output, **changes)
    return main(argument_parser().parse_args(["--num-gpus", "1", *flags, *options]))


def test_weights_and_test_sets_in_any_order(tmp_path: Path) -> None:
    """Weights of classes one, two; the config's training and test data may each have them as two, one."""
    entries = {}
    for name, names in (("straight", ["one", "two"]), ("turned", ["Two", "one"])):
        (tmp_path / name).mkdir()
        entries[name] = write_dataset(tmp_path / name, f"class_order_{name}")
        file = Path(entries[name]["JSON"])
        content = json.loads(file.read_text())
        content["categories"] = [{"id": number, "name": own} for number, own in enumerate(names, start=1)]
        if name == "turned":
            for annotation in content["annotations"]:
                annotation["category_id"] = 3 - annotation["category_id"]
        file.write_text(json.dumps(content))
    both = {"DATASETS__REGISTER": list(entries.values())}
    trained = run(entries["straight"], tmp_path / "run", SOLVER__MAX_ITER=30, SOLVER__BASE_LR=0.01)
    assert trained == {}
    weights = {"MODEL__WEIGHTS": str(tmp_path / "run" / "model_final.pth"), **both}
    results = {}
    for training in ("straight", "turned"):
        for test in ("straight", "turned"):
            tests = {"DATASETS__TRAIN": (entries[training]["NAME"],), "DATASETS__TEST": (entries[test]["NAME"],)}
            found = run(entries["straight"], tmp_path / "out", "--eval-only", **weights, **tests)["bbox"]
            results[training, test] = {key.lower(): value for key, value in found.items()}
    expected = results["straight", "straight"]
    assert expected["ap50"] > 0 and expected["ap-one"] != expected["ap-two"]
    for found in results.values():
        assert found == pytest.approx(expected, nan_ok=True)


def test_a_resumed_run_has_the_order_that_it_was_trained_with(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "resumed")
    run(entry, tmp_path / "out", SOLVER__MAX_ITER=1)
    file = Path(entry["JSON"])
    for names, difference in ((["two", "one"], "they are in another order"), (["one", "three"], "in the first alone")):
        content = json.loads(file.read_text())
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        file.write_text(json.dumps(content))
        MetadataCatalog.pop("resumed")
        DatasetCatalog.pop("resumed")
        registration._registered.pop("resumed")
        for flags in (("--resume",), ("--resume", "--eval-only")):
            with pytest.raises(CheckpointError, match=rf"have 2 classes \({', '.join(names)}\).*\({difference}"):
                run(entry, tmp_path / "out", *flags, SOLVER__MAX_ITER=3, DATASETS__TEST=("resumed",))
    # The remedy.
    weights = {"MODEL__WEIGHTS": str(tmp_path / "out" / "model_final.pth")}
    run(entry, tmp_path / "new", SOLVER__MAX_ITER=1, **weights)


def test_open_vocabulary(tmp_path: Path) -> None:
    register("train", tmp_path / "train", ["cat", "dog"])
    register("turned", tmp_path / "turned", ["dog", "cat"])
    register("other", tmp_path / "other", ["cat", "owl"])
    make_vocabulary(["cat", "dog"]).save(tmp_path / "texts.npy")
    cfg = make_cfg(TRAIN=(), TEST=("turned", "other"))
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(tmp_path / "texts.npy")
    require_test_set(cfg, "turned")
    expected = evaluate(cfg, "train", tmp_path / "out")["bbox"]
    assert evaluate(cfg, "turned", tmp_path / "out")["bbox"]["AP"] == pytest.approx(expected["AP"])
    with pytest.raises(ValueError, match=r"2 classes \(cat, dog\), those of .*texts\.npy, but test set \"other\""):
        require_test_set(cfg, "other")


def test_the_tool_compares_data_sets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    caplog.set_level(logging.INFO, logger="pair_detr")
    register("train", tmp_path / "train", ["cat", "dog"])
    register("turned", tmp_path / "turned", ["dog", "Cat"])
    register("other", tmp_path / "other", ["cat", "owl"])
    assert tool.main(["train", "turned"]) == 0
    assert caplog.messages[-1] == "turned: classes: those of train in another order; they are matched by name"
    assert tool.main(["train", "other"]) == 1
    assert "it has 2 classes (cat, owl), train 2 classes (cat, dog) (in the first alone: owl; in" in caplog.messages[-1]
    # What is no dataset has been said before.
    assert tool.main(["nowhere", "train"]) == 1
    assert "classes: " not in caplog.messages[-1]
    entry = {"FORMAT": "coco", "JSON": str(tmp_path / "train" / "annotations.json"), "IMAGES": str(tmp_path / "train")}
    other = {**entry, "NAME": "other_own", "JSON": str(tmp_path / "other" / "annotations.json")}
    content = {"TRAIN": ["own"], "TEST": ["other_own", "own"], "REGISTER": [{**entry, "NAME": "own"}, other]}
    config = tmp_path / "own.yaml"
    config.write_text(json.dumps({"VERSION": 2, "DATASETS": content}))
    caplog.clear()
    assert tool.main(["--config-file", str(config)]) == 1
    assert sum("images, " in message for message in caplog.messages) == 2
    assert caplog.messages[-1].startswith("other_own: classes: it has 2 classes (cat, owl), own 2 classes (cat, dog)")
    # Training sets that are mixed are brought to the classes of the first.
    content |= {"TRAIN": ["own", "other_own"], "TEST": []}
    mixed = {"VERSION": 2, "DATASETS": content, "DATALOADER": {"SAMPLER_TRAIN": "MultiDatasetSampler"}}
    config.write_text(json.dumps(mixed))
    assert tool.main(["--config-file", str(config)]) == 0
    with pytest.raises(SystemExit):
        tool.main([])


def test_a_data_set_without_names_of_classes_is_not_compared() -> None:
    register_names = {"train": ["cat", "dog"], "nameless": None}
    for name, names in register_names.items():
        DatasetCatalog.register(name, lambda: [])
        if names:
            MetadataCatalog.get(name).thing_classes = names
    MetadataCatalog.get("nameless").evaluator_type = "coco"
    with pytest.raises(ValueError, match='"nameless" has no images'):
        require_test_set(make_cfg(TRAIN=("train",), TEST=("nameless",)), "nameless")
