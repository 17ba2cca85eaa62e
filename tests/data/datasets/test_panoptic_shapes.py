"""Panoptic shapes, and a panoptic training from data to evaluation."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from pair_detr import Predictor
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.config_files import load_config
from pair_detr.data import (
    DetectionMapper,
    check_dataset,
    load_dataset,
    make_panoptic_shapes,
    make_shapes,
    panoptic_classes,
)
from pair_detr.data.datasets.panoptic_shapes import register_panoptic_shapes
from pair_detr.data.datasets.shapes import CLASS_NAMES, draw_image
from pair_detr.engine.trainer import Trainer


@pytest.fixture
def shapes(tmp_path: Path) -> Iterator[Path]:
    """A handful of images under the names of the 8000."""
    with restored_catalogs():
        for split in ("train", "val"):
            for catalog in (DatasetCatalog, MetadataCatalog):
                catalog.pop(f"panoptic_shapes_{split}", None)
        make_shapes(str(tmp_path), num_train=4, num_val=2)
        assert make_panoptic_shapes(tmp_path)
        register_panoptic_shapes(tmp_path)
        yield tmp_path


def test_segments_are_the_drawn_pixels(shapes: Path) -> None:
    assert check_dataset("panoptic_shapes_train").trainable
    classes = panoptic_classes("panoptic_shapes_train")
    assert classes.names == ("circle", "rectangle", "triangle", "background")
    assert classes.is_thing == (True, True, True, False)
    mapper = DetectionMapper(load_config("quickstart_panoptic", ["INPUT.RANDOM_FLIP", "none"]), is_train=True)
    for index, record in enumerate(load_dataset("panoptic_shapes_train")):
        instances = mapper(record)["instances"]
        _, drawn = draw_image(np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0, index))))
        assert instances.gt_classes.tolist() == [class_id for class_id, _ in drawn] + [3]
        expected = torch.from_numpy(np.stack([mask for _, mask in drawn]))
        assert torch.equal(instances.gt_masks.tensor[:-1], expected)
        assert torch.equal(instances.gt_masks.tensor[-1], ~expected.any(0))


def test_classes_are_known_before_the_shapes_are_made(tmp_path: Path) -> None:
    with restored_catalogs():
        for split in ("train", "val"):
            for catalog in (DatasetCatalog, MetadataCatalog):
                catalog.pop(f"panoptic_shapes_{split}", None)
        register_panoptic_shapes(tmp_path)
        assert panoptic_classes("panoptic_shapes_val").is_thing == (True, True, True, False)


def test_made_once_for_the_same_shapes(shapes: Path) -> None:
    assert not make_panoptic_shapes(shapes)
    make_shapes(str(shapes), num_train=3, num_val=2)
    assert make_panoptic_shapes(shapes)
    assert len(load_dataset("panoptic_shapes_train")) == 3


def test_training_and_evaluation(shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("panopticapi")
    options = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    options += ["MODEL.DEVICE", "cpu", "MODEL.DETR.NUM_CLASSES", "4", "TEST.IMS_PER_BATCH", "2"]
    trainer = Trainer(load_config("quickstart_panoptic", options))
    # All queries are sure, so that there are segments to evaluate.
    trainer.model.panoptic = type(trainer.model.panoptic)(trainer.model.panoptic.classes, 0.0, 0)
    trainer.train()
    results = trainer._last_eval_results
    assert {"panoptic_seg", "bbox", "segm"} <= results.keys()
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100
    losses = trainer.storage.histories()
    assert {"loss_mask", "loss_dice"} <= losses.keys()
    (folder,) = (tmp_path / "out" / "inference").iterdir()
    predictions = json.loads((folder / "predictions.json").read_text())
    assert len(predictions["annotations"]) == 2
    assert any(annotation["segments_info"] for annotation in predictions["annotations"])


def test_predictions_can_be_drawn(shapes: Path, tmp_path: Path) -> None:
    """By Detectron2's Visualizer, from a predictor of the config and a checkpoint that names its classes."""
    pytest.importorskip("cv2")
    from detectron2.utils.visualizer import Visualizer

    options = ["MODEL.DEVICE", "cpu", "MODEL.DETR.NUM_CLASSES", "4", "MODEL.DETR.PANOPTIC.SCORE_THRESHOLD", "0.0"]
    trained = build_model(load_config("quickstart_panoptic", options))
    trained.class_names = [*CLASS_NAMES, "background"]
    AtomicCheckpointer(trained, str(tmp_path)).save("model")
    predictor = Predictor(load_config("quickstart_panoptic", [*options, "MODEL.WEIGHTS", str(tmp_path / "model.pth")]))
    assert predictor.metadata.thing_classes == [*CLASS_NAMES, "background"]
    assert predictor.metadata.stuff_classes == ["things"] * 3 + ["background"]
    image = np.zeros((80, 120, 3), dtype=np.uint8)
    output = predictor(image)
    segment_map, segments = output["panoptic_seg"]
    assert segment_map.shape == (80, 120) and segments
    drawn = Visualizer(image, predictor.metadata).draw_panoptic_seg(segment_map, segments).get_image()
    assert drawn.any()
    instances = output["instances"][:3]
    assert Visualizer(image, predictor.metadata).draw_instance_predictions(instances).get_image().any()
