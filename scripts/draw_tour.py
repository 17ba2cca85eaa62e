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
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 4.8])
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
        detections = model([{"image": x} for x in tensors])
    seen["instances"] = f"{len(detections[0]['instances'])} per image"
    return seen


def _draw_image(axes: Axes, image: np.ndarray, boxes: np.ndarray) -> None:
    axes.imshow(image)
    for left, top, right, bottom in boxes:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=2))
    axes.set_title("an entry of the catalog:\nfile name, boxes, classes", fontsize=10)
    axes.set_axis_off()


def _draw_flow(axes: Axes, shapes: dict[str, str]) -> None:
    """Three rows: from the dataset to the memory, from there to the AP, and below what is done in training only."""
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 5.4)
    axes.set_axis_off()

    def stage(x: float, y: float, title: str, detail: str, kind: str, width: float = 1.8) -> None:
        box = FancyBboxPatch((x, y), width, 1.0, boxstyle="round,pad=0.04", facecolor=COLORS[kind], edgecolor="#555555")
        axes.add_patch(box)
        axes.text(x + width / 2, y + 0.74, title, ha="center", va="center", fontsize=9.5, weight="bold")
        axes.text(x + width / 2, y + 0.31, detail, ha="center", va="center", fontsize=7.8, linespacing=1.25)

    def arrow(*points: tuple[float, float]) -> None:
        """A line through the points with a head at the last one."""
        axes.plot(*zip(*points[:-1], strict=True), color="#333333", linewidth=1)
        style = {"arrowstyle": "-|>", "color": "#333333", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", points[-1], points[-2], arrowprops=style)

    def label(x: float, y: float, text: str, align: str = "left") -> None:
        axes.text(x, y, text, fontsize=7.5, va="center", ha=align)

    stage(0.1, 4.2, "mapper", "augmented image,\nInstances", "data")
    stage(2.6, 4.2, "batch", f"normalized, padded, mask\n{shapes['batch']}", "model")
    stage(5.1, 4.2, "backbone, projection", f"features\n{shapes['features']}", "model")
    stage(7.6, 4.2, "encoder", f"memory\n{shapes['memory']}", "model", 2.2)
    stage(7.6, 2.6, "decoder", f"states: layers x images x\nqueries x width\n{shapes['states']}", "model", 2.2)
    stage(5.1, 2.6, "heads", f"logits {shapes['logits']}\nboxes {shapes['boxes']}", "model")
    stage(2.6, 2.6, "postprocessing", f"best scores, pixels of the\noriginal: {shapes['instances']}", "inference")
    stage(0.1, 2.6, "evaluator", "AP from\nInstances", "inference")
    stage(7.6, 0.9, "top-left decoder", "from each query's corner,\none-to-many; Pair DETR only", "training", 2.2)
    stage(5.1, 0.9, "matcher", "one query for each target:\nHungarian, in every layer", "training")
    stage(2.6, 0.9, "criterion", "class, L1, GIoU, of corners\nand of all branches", "training")
    stage(0.1, 0.9, "trainer", "gradients, clipped;\nMuon and AdamW", "training")
    for x in (1.94, 4.44, 6.94):
        arrow((x, 4.7), (x + 0.62, 4.7))
    arrow((8.7, 4.16), (8.7, 3.64))
    label(8.64, 3.9, "dense head: the best tokens' boxes", "right")
    for x in (7.56, 5.06, 2.56):
        arrow((x, 3.1), (x - 0.62, 3.1))
    label(4.75, 3.22, "inference", "center")
    arrow((6.0, 2.56), (6.0, 1.94))
    label(6.06, 2.38, "training:")
    label(6.06, 2.2, "logits, boxes")
    arrow((5.06, 1.4), (4.44, 1.4))
    label(4.75, 1.52, "assignment", "center")
    arrow((2.56, 1.4), (1.94, 1.4))
    # What the criterion reads in addition to the assignment, past the matcher.
    arrow((5.3, 2.56), (5.3, 2.25), (3.5, 2.25), (3.5, 1.94))
    label(3.6, 2.37, "logits, boxes, states")
    arrow((8.7, 0.86), (8.7, 0.6), (3.5, 0.6), (3.5, 0.86))
    label(6.1, 0.48, "corners, classes, boxes", "center")
    arrow((9.84, 4.7), (9.97, 4.7), (9.97, 1.4), (9.84, 1.4))
    label(9.9, 2.2, "memory,\nqueries", "right")
    for x, (kind, text) in zip(
        (0.1, 2.2, 4.7, 7.2),
        {
            "data": "pair_detr/data",
            "model": "pair_detr/modeling",
            "training": "pair_detr/losses, engine",
            "inference": "modeling/postprocessing, evaluation",
        }.items(),
        strict=True,
    ):
        axes.add_patch(Rectangle((x, 0.05), 0.22, 0.2, facecolor=COLORS[kind], edgecolor="#555555", linewidth=0.8))
        axes.text(x + 0.3, 0.15, text, fontsize=8, va="center")


if __name__ == "__main__":
    main()
