"""What the tests of tools that use a trained model share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_helpers import restored_catalogs, write_coco
from detectron2.config import CfgNode
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from model_helpers import build, tiny_cfg

from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.data import register_coco

CLASSES = ("cat", "dog", "owl")


def save_model(folder: Path, cfg: CfgNode | None = None, variant: str = "pair_detr", **detr: Any) -> list[str]:
    """Saves a tiny model for CLASSES, and the arguments of a tool that choose it."""
    cfg = tiny_cfg(variant, **detr) if cfg is None else cfg
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    model = build(cfg)
    model.class_names = list(CLASSES[: model.num_classes])
    AtomicCheckpointer(model, str(folder)).save("model")
    (folder / "config.yaml").write_text(cfg.dump())
    return ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "model.pth")]


def write_metrics(folder: Path, points: dict[int, float]) -> Path:
    """A log in Detectron2's form: iterations count from 0 and AP is in percent."""
    folder.mkdir()
    rows = [{"iteration": i - 1, "bbox/AP": ap * 100, "total_loss": 1.0} for i, ap in points.items()]
    rows.insert(1, {"iteration": rows[0]["iteration"] + 5, "total_loss": 2.0})
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """All that is drawn, texts included, lies within the figure."""
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01, box
    assert box.x1 <= width + 0.01, (box, width)
    assert box.y1 <= height + 0.01, (box, height)


def pets(tmp_path: Path) -> Iterator[str]:
    """An image of 60 x 40 pixels with a dog, a crowd and a cat, and one without objects; its classes are cat, dog."""
    annotations = [
        {"image_id": 1, "bbox": [5, 10, 20, 15], "category_id": 2},
        {"image_id": 1, "bbox": [0, 0, 30, 30], "iscrowd": 1},
        {"image_id": 1, "bbox": [30, 5, 12, 24], "category_id": 1},
    ]
    with restored_catalogs():
        register_coco("pets", str(write_coco(tmp_path / "pets", annotations, [(60, 40), (50, 50)])), tmp_path / "pets")
        yield "pets"
