"""One figure of an :class:`AttentionReport`."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pair_detr.drawing.objects import class_colors
from pair_detr.drawing.text import drawable, set_fonts
from pair_detr.visualization.attention_report import CENTER, TOP_LEFT, AttentionReport
from pair_detr.visualization.axes import draw_box, frame_image

# In inches: width of a panel, height of the overview, width of what stands left of the panels.
_PANEL = 1.15
_OVERVIEW = 4.4
_NAMES = 1.05
# Least width of a map of the encoder, for its title.
_MAP_TITLE = 2.2
# Characters of the caption that fit into an inch.
_CAPTION_DENSITY = 12
_TITLES = {CENTER: "Center decoder", TOP_LEFT: "Top-left decoder"}
_KINDS = {
    "spatial": "spatial\n(where)",
    "content": "content\n(what)",
    "combined": "combined\n(used)",
}
_CAPTION = "Bright cells are attended to, each panel scaled to its own maximum. Box: the detection."
_CONDITIONAL_CAPTION = (
    " Spatial: by position alone; content: by appearance alone; combined: their product, which the model uses. "
    "Cross: the reference point of its query in that decoder."
)
_FIRST_LAYER_CAPTION = (
    " In the first layer, content includes the embeddings of position, as the queries know nothing yet."
)


def draw_attention(image: np.ndarray, report: AttentionReport, names: Sequence[str]) -> Figure:
    """Draws detections in an (H, W, 3) uint8 RGB image, and below them the attention of each head."""
    names = drawable(names)
    heads = next(iter(report.cross.values()))["combined"].shape[1]
    kinds = list(next(iter(report.cross.values())))
    columns = heads * len(report.cross)
    aspect = min(max(image.shape[0] / image.shape[1], 0.5), 1.6)
    block = len(kinds) * _PANEL * aspect + 0.75
    width = max(columns * _PANEL + 1.2, (1 + len(report.encoder_points)) * _MAP_TITLE, 11)
    text = _CAPTION
    if report.reference:
        text += _CONDITIONAL_CAPTION + _FIRST_LAYER_CAPTION * (report.layer == 0)
    lines = textwrap.wrap(text, int(_CAPTION_DENSITY * (width - 0.4)))
    caption = 0.3 + 0.22 * len(lines)
    count = max(len(report.queries), 1)
    figure = Figure(figsize=(width, _OVERVIEW + count * block + caption))
    parts = figure.subfigures(count + 2, 1, height_ratios=[_OVERVIEW, *[block] * count, caption])
    _draw_overview(parts[0], image, report, names)
    for number, part in enumerate(parts[1 : 1 + len(report.queries)]):
        _draw_detection(part, image, report, number, names, aspect)
    parts[-1].text(0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=11)
    set_fonts(figure)
    return figure


def _draw_overview(part: SubFigure, image: np.ndarray, report: AttentionReport, names: Sequence[str]) -> None:
    points = report.encoder_points if report.encoder is not None else ()
    axes = part.subplots(1, 1 + len(points), squeeze=False)[0]
    # As close to each other as their shape allows.
    panel = 0.8 * _OVERVIEW * image.shape[1] / image.shape[0] * 1.08 / part.get_figure(root=True).get_figwidth()
    margin = max((1 - panel * len(axes)) / 2, 0.01)
    part.subplots_adjust(left=margin, right=1 - margin, top=0.84, bottom=0.02, wspace=0.08)
    axes[0].imshow(image)
    colors = class_colors(len(names)) / 255
    for number, (box, label, score) in enumerate(zip(report.boxes, report.labels, report.scores, strict=True)):
        draw_box(axes[0], box, colors[label])
        axes[0].text(
            max(box[0], 0),
            max(box[1], 0),
            f"{number + 1} {names[label]} {score:.0%}",
            color="white",
            fontsize=8,
            va="bottom",
            bbox={"facecolor": colors[label], "pad": 1.5, "linewidth": 0},
        )
    for number, (x, y) in enumerate(points):
        # Above the labels of the boxes.
        axes[0].plot(x, y, "o", color="white", markeredgecolor="black", markersize=9, zorder=4)
        axes[0].text(x, y, chr(ord("a") + number), ha="center", va="center_baseline", fontsize=7, zorder=5)
    axes[0].set_title("Detections" + (", and points for the encoder" if len(points) else ""))
    for number, (axis, (x, y)) in enumerate(zip(axes[1:], points, strict=True)):
        _draw_map(axis, image, report.encoder[number].mean(0), report.extent)
        axis.plot(x, y, "o", color="white", markeredgecolor="black", markersize=6)
        axis.set_title(f"Encoder self-attention\nof point {chr(ord('a') + number)}, mean of heads", fontsize=10)
    for axis in axes:
        frame_image(axis, image)


def _draw_detection(
    part: SubFigure, image: np.ndarray, report: AttentionReport, number: int, names: Sequence[str], aspect: float
) -> None:
    decoders = list(report.cross)
    kinds = list(report.cross[decoders[0]])
    heads = report.cross[decoders[0]]["combined"].shape[1]
    label, score = names[report.labels[number]], report.scores[number]
    part.suptitle(
        f"{number + 1}: {label} {score:.0%}, query {report.queries[number]}, "
        f"decoder layer {report.layer} (the first is 0)",
        fontsize=12,
        fontweight="bold",
        y=0.99,
    )
    ratios = [1.0] * heads
    for _ in decoders[1:]:
        ratios = [*ratios, 0.25, *[1.0] * heads]
    height = len(kinds) * _PANEL * aspect + 0.75
    width = part.get_figure(root=True).get_figwidth()
    grid = part.add_gridspec(
        len(kinds), len(ratios), width_ratios=ratios, left=_NAMES / width, right=0.99, top=1 - 0.62 / height,
        bottom=0.02, wspace=0.05, hspace=0.06,
    )  # fmt: skip
    for index, decoder in enumerate(decoders):
        for row, kind in enumerate(kinds):
            for head, weights in enumerate(report.cross[decoder][kind][number]):
                axis = part.add_subplot(grid[row, index * (heads + 1) + head])
                _draw_map(axis, image, weights, report.extent)
                draw_box(axis, report.boxes[number], "white", 0.8)
                if decoder in report.reference:
                    axis.plot(*report.reference[decoder][number], "+", color="cyan", markersize=7, markeredgewidth=1.5)
                frame_image(axis, image)
                if head == 0 and index == 0:
                    name = _KINDS[kind] if len(kinds) > 1 else "attention"
                    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
                if row == 0:
                    title = _TITLES[decoder] if len(decoders) > 1 else "Decoder"
                    axis.set_title(f"{title}\nhead 1" if head == 0 else f"head {head + 1}", fontsize=8, loc="left")


def _draw_map(axis: Axes, image: np.ndarray, weights: np.ndarray, extent: tuple[float, float]) -> None:
    # The image stays visible as shades of gray below the colors.
    axis.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255)
    relative = weights / weights.max()
    axis.imshow(
        relative, cmap="inferno", alpha=0.3 + 0.65 * relative, extent=(-0.5, extent[0] - 0.5, extent[1] - 0.5, -0.5)
    )
