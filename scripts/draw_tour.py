"""Draws docs/tour.png: what an image becomes on its way through the quick start's model; shapes are those of a run."""

from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import nn
from torchvision.ops import masks_to_boxes

from pair_detr.config_files import load_config
from pair_detr.data.datasets.shapes import draw_image
from pair_detr.utils.atomic import atomic_write

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "tour.png"
COLORS = {"data": "#dbe9f6", "model": "#e3f1dc", "training": "#fbe3d4", "inference": "#ece2f3"}


def main() -> None:
    """Runs a batch of two images of different sizes through the model, and draws the tensors."""
    image, shapes = draw_image(np.random.default_rng(8))
    boxes = masks_to_boxes(torch.from_numpy(np.stack([mask for _, mask in shapes])))
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 4.6])
    _draw_image(figure.add_subplot(grid[0]), image, boxes.numpy())
    _draw_flow(figure.add_subplot(grid[1]), tensor_shapes(image))
    with atomic_write(OUTPUT) as temporary:
        figure.savefig(temporary, dpi=110)


def tensor_shapes(image: np.ndarray) -> dict[str, str]:
    """Shapes of what the stages give for a batch with ``image`` and a smaller one, by the names in the figure."""
    cfg = load_config("quickstart")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 3
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    seen: dict[str, str] = {}

    def watch(module: nn.Module, name: str) -> None:
        def note(_: nn.Module, __: object, output: object) -> None:
            tensor = getattr(output, "tokens", output)
            tensor = tensor[0] if isinstance(tensor, tuple) else tensor
            seen[name] = " x ".join(map(str, tensor.shape))

        module.register_forward_hook(note)

    detector = model.detector
    for name, module in {
        "features": detector.input_proj,
        "memory": detector.encoder,
        "states": detector.decoder,
        "logits": detector.class_head,
        "boxes": detector.box_head,
    }.items():
        watch(module, name)
    smaller = T.ResizeTransform(*image.shape[:2], 72, 72).apply_image(image)
    tensors = [torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))) for x in (image, smaller)]
    with torch.no_grad():
        seen["batch"] = " x ".join(map(str, model.preprocess([{"image": x} for x in tensors]).images.shape))
        found = model([{"image": x} for x in tensors])
    seen["instances"] = f"{len(found[0]['instances'])} an image"
    return seen


def _draw_image(axes: Axes, image: np.ndarray, boxes: np.ndarray) -> None:
    axes.imshow(image)
    for left, top, right, bottom in boxes:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=2))
    axes.set_title("an entry of the catalog:\nfile name, boxes, classes", fontsize=10)
    axes.set_axis_off()


def _draw_flow(axes: Axes, shapes: dict[str, str]) -> None:
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 6)
    axes.set_axis_off()

    def stage(
        x: float, y: float, title: str, detail: str, kind: str, width: float = 1.75
    ) -> tuple[float, float, float]:
        axes.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                1.0,
                boxstyle="round,pad=0.04",
                facecolor=COLORS[kind],
                edgecolor="#555555",
                linewidth=0.8,
            )
        )
        axes.text(x + width / 2, y + 0.68, title, ha="center", va="center", fontsize=9.5, weight="bold")
        axes.text(x + width / 2, y + 0.29, detail, ha="center", va="center", fontsize=7.8, linespacing=1.25)
        return x, y, width

    def arrow(start: tuple[float, float], end: tuple[float, float], label: str = "") -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "shrinkA": 3, "shrinkB": 3})
        if label:
            axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12, label, fontsize=7.5, ha="center")

    stage(0.1, 4.6, "mapper", "augmented image,\nInstances", "data")
    stage(2.6, 4.6, "preprocess", f"normalized, padded, mask\n{shapes['batch']}", "model")
    stage(5.1, 4.6, "backbone, projection", f"features\n{shapes['features']}", "model")
    stage(7.6, 4.6, "encoder", f"memory\n{shapes['memory']}", "model", 2.1)
    stage(7.6, 2.9, "decoder", f"states, layers x images x\nqueries x width: {shapes['states']}", "model", 2.1)
    stage(5.1, 2.9, "heads", f"logits {shapes['logits']}\nboxes {shapes['boxes']}", "model")
    stage(2.6, 2.9, "postprocess", f"best scores, pixels of the\noriginal: {shapes['instances']}", "inference")
    stage(0.1, 2.9, "evaluator", "AP from\nInstances", "inference")
    stage(7.6, 1.2, "top-left decoder", "the corner of each query's\nbox; in training only", "training", 2.1)
    stage(5.1, 1.2, "matching", "one object, one query:\nHungarian, in every layer", "training")
    stage(2.6, 1.2, "criterion", "class, L1, GIoU,\ncorner and pair losses", "training")
    stage(0.1, 1.2, "trainer", "gradients, clipped;\nAdamW", "training")
    for x in (1.85, 4.35, 6.85):
        arrow((x, 5.1), (x + 0.75, 5.1))
    arrow((8.65, 4.6), (8.65, 3.9))
    arrow((8.65, 2.9), (8.65, 2.2))
    axes.text(8.72, 2.48, "same memory\nand queries", fontsize=7.5, va="center")
    arrow((7.6, 3.4), (6.85, 3.4))
    arrow((5.1, 3.4), (4.35, 3.4), "eval")
    arrow((2.6, 3.4), (1.85, 3.4))
    arrow((5.97, 2.9), (5.97, 2.2))
    axes.text(6.04, 2.48, "training", fontsize=7.5)
    arrow((7.6, 1.7), (6.85, 1.7))
    arrow((5.1, 1.7), (4.35, 1.7))
    arrow((2.6, 1.7), (1.85, 1.7))
    for x, (kind, text) in zip(
        (0.1, 2.0, 4.6, 7.0),
        {
            "data": "pair_detr/data",
            "model": "pair_detr/modeling, meta_arch.py",
            "training": "criterion.py, matching.py, engine",
            "inference": "meta_arch.py, data/*_evaluation.py",
        }.items(),
        strict=True,
    ):
        axes.add_patch(Rectangle((x, 0.35), 0.22, 0.22, facecolor=COLORS[kind], edgecolor="#555555", linewidth=0.8))
        axes.text(x + 0.3, 0.46, text, fontsize=8, va="center")


if __name__ == "__main__":
    main()
