"""What the tests of tools that use a trained model share."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from model_helpers import build, tiny_cfg

from pair_detr.engine import AtomicCheckpointer

CLASSES = ("cat", "dog", "owl")


def save_model(folder: Path, cfg: CfgNode | None = None, variant: str = "pair_detr", **detr: Any) -> list[str]:
    """Saves a tiny model for CLASSES, and the arguments of a tool that choose it."""
    cfg = tiny_cfg(variant, **detr) if cfg is None else cfg
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    model = build(cfg)
    model.class_names = list(CLASSES)
    AtomicCheckpointer(model, str(folder)).save("model")
    (folder / "config.yaml").write_text(cfg.dump())
    return ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "model.pth")]
