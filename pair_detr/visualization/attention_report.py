"""What the attention of a detector looked at in one image, as arrays by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.modeling.postprocessing.boxes import detect
from pair_detr.structures import Batch, Predictions
from pair_detr.utils.messages import counted
from pair_detr.visualization.attention import AttentionRecorder, RecordedAttention

CENTER, TOP_LEFT = "center", "top_left"


@dataclass
class AttentionReport:
    """K detections and what they attended to. Maps are (h, w), the cells of the feature map; pixels are the image's.

    Attributes:
        boxes: (K, 4) xyxy in pixels.
        scores: (K,).
        labels: (K,) class indices.
        queries: (K,) the query of each.
        layer: decoder layer of the maps, counted from 0.
        cross: (K, H, h, w) maps of H heads, by decoder ("center", or "top_left" of Pair DETR) and kind: "combined",
            what the model uses, and for conditional attention "spatial" and "content"; each sums to 1.
        reference: (K, 2) reference points of a conditional decoder, by decoder, in pixels.
        encoder: (P, H, h, w) maps of the encoder's last self-attention; None if there is no encoder.
        encoder_points: (P, 2) x and y in pixels of whose cell they are.
        extent: width and height in pixels of what the feature map covers; padded images are smaller.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    layer: int
    cross: dict[str, dict[str, np.ndarray]]
    reference: dict[str, np.ndarray]
    encoder: np.ndarray | None
    encoder_points: np.ndarray
    extent: tuple[float, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by flat names, such as "top_left_spatial", for :func:`numpy.savez`."""
        flat = {f"{decoder}_{kind}": maps for decoder, kinds in self.cross.items() for kind, maps in kinds.items()}
        flat |= {f"{decoder}_reference": points for decoder, points in self.reference.items()}
        flat |= {name: getattr(self, name) for name in ("boxes", "scores", "labels", "queries", "encoder_points")}
        flat |= {"layer": np.array(self.layer), "extent": np.array(self.extent)}
        return flat if self.encoder is None else flat | {"encoder": self.encoder}


@torch.no_grad()
def report_attention(
    model: DetectionTransformer,
    item: dict[str, Any],
    num_detections: int,
    layer: int = -1,
    points: Sequence[tuple[float, float]] | None = None,
) -> AttentionReport:
    """Detects in one image and recomputes the attention.

    Args:
        model: in evaluation mode.
        item: input of the model, with "height" and "width" of the image, see :meth:`pair_detr.Predictor.prepare`.
        num_detections: at most so many, of different queries, best first.
        layer: of the decoder; negative ones count from the last.
        points: x and y in pixels of the image, for the encoder's self-attention; None takes the centers of the boxes.

    Raises:
        ValueError: there is no such layer, or a point lies outside of the image.
    """
    detector = model.detector
    num_layers = len(detector.decoder.layers)
    if not -num_layers <= layer < num_layers:
        raise ValueError(
            f"The decoder has {counted(num_layers, 'layer')}: choose one from 0 to {num_layers - 1}, not {layer}."
        )
    layer %= num_layers
    height, width = item["height"], item["width"]
    for x, y in points or ():
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"Point {x:g},{y:g} lies outside of the image, which has {width} x {height} pixels.")

    batch = model.preprocess([item])
    recorder, predictions, references, grid = _record(model, batch, layer)
    limit = predictions.logits.shape[2] * predictions.logits.shape[3]
    allowed = torch.ones_like(predictions.boxes[-1, ..., :1], dtype=torch.bool)
    frames, limits = (x.to(allowed.device) for x in (batch.output_frames(), batch.output_limits()))
    found = detect(predictions, frames, limits, model.class_scoring, limit, allowed)
    scores, labels, queries, boxes = (
        x[0][found.kept[0]] for x in (found.scores, found.labels, found.queries, found.boxes)
    )
    best = _first_of_each(queries)[:num_detections]
    scores, labels, queries, boxes = scores[best], labels[best], queries[best], boxes[best]
    size = queries.new_tensor([width, height], dtype=torch.float32)
    frame = frames[0]

    cross, reference = {}, {}
    for name, stage in detector.decoder_names.items():
        decoder = getattr(detector, stage)
        cross[name] = _maps(recorder.calls[stage, layer, "cross_attn"], queries, grid, decoder)
        if (at := references[stage]) is not None:
            # Of all layers, if they differ; of each image, if they are selected.
            at = at[layer] if at.dim() == 4 else at
            at = at[0] if at.dim() == 3 else at
            reference[name] = (at[queries, :2] * frame[:2]).cpu().numpy()

    stride = detector.backbone.output_shape()[detector.in_feature].stride
    scale = width / item["image"].shape[-1], height / item["image"].shape[-2]
    extent = grid[1] * stride * scale[0], grid[0] * stride * scale[1]
    chosen = (boxes[:, :2] + boxes[:, 2:]) / 2 if points is None else boxes.new_tensor(points).reshape(-1, 2)
    chosen = chosen.clamp(min=chosen.new_zeros(2), max=size - 1)
    cells = (chosen / size.new_tensor(extent) * size.new_tensor([grid[1], grid[0]])).long()
    encoder = None
    if calls := [call for (stage, _, _), call in recorder.calls.items() if stage == "encoder"]:
        encoder = _maps_of(calls[-1].weights(), cells[:, 1] * grid[1] + cells[:, 0], grid)
    arrays = (x.cpu().numpy() for x in (boxes.float(), scores.float(), labels, queries))
    return AttentionReport(*arrays, layer, cross, reference, encoder, chosen.cpu().numpy(), extent)


def _record(
    model: DetectionTransformer, batch: Batch, layer: int
) -> tuple[AttentionRecorder, Predictions, dict[str, Tensor | None], tuple[int, int]]:
    """Runs the model, both decoders of Pair DETR.

    Returns:
        Recorder and predictions; the references of the queries by stage; height and width of the feature map in cells.
    """
    detector = model.detector
    shapes: list[torch.Size] = []
    references: dict[str, Tensor | None] = {}
    handles = [detector.input_proj.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))]
    for stage in detector.decoder_names.values():

        def keep(module: torch.nn.Module, inputs: tuple, output: tuple[Tensor, Tensor | None], of: str = stage) -> None:
            references[of] = output[1]

        handles.append(getattr(detector, stage).register_forward_hook(keep))
    try:
        with AttentionRecorder(detector) as recorder:
            memory = detector.encode(batch)
            predictions = detector.decode(memory)
            for stage in detector.decoder_names.values():
                # Inference leaves out decoders that boxes do not need.
                if stage not in references:
                    queries = detector.build_queries(memory, None).queries
                    getattr(detector, stage)(memory, detector.queries_of(stage, queries))
    finally:
        for handle in handles:
            handle.remove()
    return recorder, predictions, references, tuple(shapes[0][-2:])


def _first_of_each(queries: Tensor) -> Tensor:
    """Positions at which a query occurs for the first time."""
    _, positions = np.unique(queries.cpu().numpy(), return_index=True)
    return torch.from_numpy(np.sort(positions)).to(queries.device)


def _maps(
    call: RecordedAttention, queries: Tensor, grid: tuple[int, int], decoder: torch.nn.Module
) -> dict[str, np.ndarray]:
    kinds = {"combined": call.weights()}
    if isinstance(decoder, ConditionalDecoder):
        kinds = {"spatial": call.spatial, "content": call.content} | kinds
    return {kind: _maps_of(weights, queries, grid) for kind, weights in kinds.items()}


def _maps_of(weights: Tensor, rows: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """(1, H, N, h * w) weights -> (K, H, h, w), those of K of the N rows."""
    return weights[0, :, rows].transpose(0, 1).unflatten(-1, grid).cpu().numpy()
