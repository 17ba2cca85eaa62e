"""Exports a model: one graph with dynamic batch, size and vocabulary, and the JSON file that describes it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from pair_detr.deployment.graph import DetectionGraph
from pair_detr.deployment.verification import verify
from pair_detr.deployment.writers import WRITERS, require_packages
from pair_detr.images.resizing import Resizing
from pair_detr.inference import prepare_for_inference
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.runtime.description import FILE_NAME, GRAPH_FILES, TEXTS_FILE, ModelDescription
from pair_detr.utils.atomic import atomic_replace
from pair_detr.utils.messages import join_some
from pair_detr.utils.outputs import require_writable
from pair_detr.utils.version import __version__

logger = logging.getLogger(__name__)

# Of the images that the graph is traced with; their number, like their size, must not be 1, which would be a constant.
_EXAMPLE_IMAGES, _EXAMPLE_SIZE = 2, (128, 160)
# Of any dynamic number.
_LARGEST = 2**15


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        format: "onnx", "openvino" or "torch_export".
        precision: of the computation, "fp32", "fp16" or "bf16"; boxes, scores and normalization stay in fp32.
        top_k: detections of each image; None takes the model's own limit, TEST.DETECTIONS_PER_IMAGE.
        fixed_size: height and width that all images are padded to; None for images of any size.
    """

    format: str = "onnx"
    precision: str = "fp32"
    top_k: int | None = None
    fixed_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raises a ValueError if there is no such format, or it is not for this precision."""
        if self.format not in WRITERS:
            raise ValueError(f"format is {self.format!r}; choose from {', '.join(WRITERS)}.")
        if self.precision not in WRITERS[self.format].precisions:
            raise ValueError(
                f"precision is {self.precision!r}, which {self.format} does not compute in; choose from "
                f"{', '.join(WRITERS[self.format].precisions)}, or another format."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be 1 or more.")
        if self.fixed_size is not None and min(self.fixed_size) < 1:
            raise ValueError(f"fixed_size is {self.fixed_size}; height and width must be 1 pixel or more.")


def export_model(
    model: DetectionTransformer,
    cfg: CfgNode,
    folder: Path,
    options: ExportOptions,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int | str] | None = None,
) -> ModelDescription:
    """Writes a folder with a graph, its description and, of open-vocabulary models, the texts of the classes.

    The graph is then loaded and run on images of other sizes and numbers, and its detections are compared with those of
    the model. The folder is there complete, or as it was.

    Args:
        model: whose detections are to be had; it stays as it is.
        cfg: its config, for the size and the channels of its images.
        folder: a new one, or one that this function has written before.
        options: see :class:`ExportOptions`.
        class_names: of the classes, where the model does not know them.
        category_ids: likewise.

    Raises:
        ValueError: the model needs images of another size.
        FileExistsError: the folder holds something else.
        ImportError: a package is missing; the message says what to install.
        ExportError: the graph detects something else than the model.
    """
    require_packages(options.format)
    require_folder(folder)
    writer = WRITERS[options.format]
    resizing = resizing_of(cfg, options.fixed_size)
    top_k = options.top_k or model.detections_per_image
    reference = graph = DetectionGraph(prepare_for_inference(model, "fp32").to("cpu"), top_k).eval()
    if writer.stores_precision and options.precision != "fp32":
        graph = DetectionGraph(prepare_for_inference(model, options.precision).to("cpu"), top_k).eval()
    if resizing.within and any(side % graph.size_divisor for side in resizing.within):
        raise ValueError(
            f"The backbone pads as TensorFlow does: height and width of --fixed-size, {list(resizing.within)}, have to "
            f"be multiples of {graph.size_divisor}."
        )
    texts = model.detector.class_head.texts.cpu() if graph.text_buffers else None
    names = list(class_names or model.class_names or map("class {}".format, range(model.num_classes)))
    if model.panoptic is not None:
        logger.info("A panoptic model: the graph detects its things with masks, and does not merge segments.")
    description = ModelDescription(
        format=options.format,
        precision=options.precision,
        variant=cfg.MODEL.DETR.VARIANT,
        image_format=cfg.INPUT.FORMAT,
        resizing=resizing,
        class_names=names,
        category_ids=list(category_ids or model.category_ids or []) or None,
        outputs=graph.output_names,
        smallest_side=graph.smallest_side,
        size_divisor=graph.size_divisor,
        text_dim=0 if texts is None else texts.shape[1],
        fixed_classes=texts is None or model.panoptic is not None,
        version=__version__,
    )
    logger.info("Tracing the model. This and the conversion take a minute or two.")
    channels = len(cfg.MODEL.PIXEL_MEAN)
    program = trace(graph, channels, texts, resizing.within)
    with atomic_replace(folder) as new:
        new.mkdir()
        writer.write(program, graph.output_names, options.precision, new)
        if texts is not None:
            np.save(new / TEXTS_FILE, texts.numpy())
        description.write(new)
        verify(reference, new, description, channels, texts)
    return description


def resizing_of(cfg: CfgNode, fixed_size: tuple[int, int] | None) -> Resizing:
    """How the images of a model are resized; a ValueError if ``fixed_size`` is not the model's own INPUT.FIXED_SIZE."""
    own = tuple(cfg.INPUT.FIXED_SIZE) or None
    if own is not None and fixed_size not in (None, own):
        raise ValueError(
            f"The model takes images of INPUT.FIXED_SIZE {list(own)}; leave --fixed-size out, or give that size."
        )
    if own or fixed_size:
        return Resizing(within=own or fixed_size)
    return Resizing(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def require_folder(folder: Path) -> None:
    """Makes sure that a folder can be written, and that nothing of the user's would be replaced.

    Raises:
        FileExistsError: there is something else than an exported model, with or without one.
        OSError: it cannot be written.
    """
    if folder.exists():
        own = {FILE_NAME, TEXTS_FILE, *GRAPH_FILES.values(), Path(GRAPH_FILES["openvino"]).with_suffix(".bin").name}
        # Where the weights of a graph go that is larger than ONNX's limit of 2 GB.
        own.add(f"{GRAPH_FILES['onnx']}.data")
        other = [path.name for path in folder.iterdir() if path.name not in own] if folder.is_dir() else [folder.name]
        if other:
            raise FileExistsError(
                f"--output: {folder} holds {join_some(sorted(other), 3)}, which is no part of an exported model: "
                "choose another folder, or remove it."
            )
        if any(folder.iterdir()):
            try:
                ModelDescription.read(folder)
            except (ValueError, FileNotFoundError) as error:
                raise FileExistsError(
                    f"--output: {folder} is no exported model of this release: choose another folder, or remove it."
                ) from error
    require_writable(folder.absolute().parent)


def trace(
    graph: DetectionGraph, channels: int, texts: Tensor | None = None, size: tuple[int, int] | None = None
) -> torch.export.ExportedProgram:
    """The graph for any number of images - of any size, unless one is given - and any number of texts."""
    height, width = size or _EXAMPLE_SIZE
    images = torch.zeros(_EXAMPLE_IMAGES, channels, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height // 2 + 1, width // 2 + 1]])
    fixed = torch.export.Dim.STATIC
    batch = torch.export.Dim("batch", min=1, max=_LARGEST)
    divisor = graph.size_divisor
    smallest, largest = -(-graph.smallest_side // divisor), _LARGEST // divisor
    rows, columns = (torch.export.Dim(x, min=smallest, max=largest) for x in ("height", "width"))
    if divisor > 1:
        rows, columns = divisor * rows, divisor * columns
    if size:
        rows = columns = fixed
    inputs = {"images": images, "sizes": sizes}
    dynamic = {"images": {0: batch, 1: fixed, 2: rows, 3: columns}, "sizes": {0: batch, 1: fixed}}
    if texts is not None:
        classes = fixed
        if graph.is_thing is None:
            classes = torch.export.Dim("classes", min=1, max=_LARGEST)
            # With a single class the number of classes would be a constant.
            texts = texts.repeat(2, 1)
        inputs["texts"], dynamic["texts"] = texts, {0: classes, 1: fixed}
    with torch.no_grad():
        return torch.export.export(graph, (), inputs, dynamic_shapes=dynamic)
