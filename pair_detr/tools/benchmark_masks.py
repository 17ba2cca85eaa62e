"""Memory of the mask head in training, next to the plain one: ``python -m pair_detr.tools.benchmark_masks``."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from pair_detr.analysis.speed import saved_bytes
from pair_detr.losses.masks import dice_loss, mask_losses
from pair_detr.modeling.mask_head import MaskHead
from pair_detr.structures import FeatureMaps, MaskQueries, Memory
from pair_detr.tools.common import describe_machine, markdown, parse, run, tool_logger, tool_parser

logger = tool_logger("benchmark_masks")

# DETR-R50.
_DIM, _HEADS, _CHANNELS, _STRIDES = 256, 8, [1024, 512, 256], (32, 16, 8, 4)


def make_queries(images: int, size: tuple[int, int], queries: int, device: torch.device) -> MaskQueries:
    """Random inputs of a mask head for a batch of ``size``, (height, width) in pixels; on "meta" without values."""
    coarsest, *finer = [tuple(-(-side // stride) for side in size) for stride in _STRIDES]
    projected = torch.randn(images, _DIM, *coarsest, device=device)
    maps = FeatureMaps(
        projected, [torch.randn(images, c, *s, device=device) for c, s in zip(_CHANNELS, finer, strict=True)]
    )
    tokens = torch.randn(images, projected[0, 0].numel(), _DIM, device=device)
    memory = Memory(tokens, torch.zeros_like(tokens[:1]), None, maps)
    return MaskQueries(torch.randn(images, queries, _DIM, device=device), memory)


def our_loss(head: MaskHead, mask_queries: MaskQueries, matched: int, targets: Tensor) -> Tensor:
    """Masks of the first ``matched`` queries of every image."""
    images = len(mask_queries.states)
    query = torch.arange(matched, device=targets.device).repeat(images)
    focal, dice = mask_losses(head(mask_queries, query, [matched] * images), targets)
    return focal.sum() + dice.sum()


def plain_loss(head: MaskHead, mask_queries: MaskQueries, matched: int, targets: Tensor) -> Tensor:
    """Masks of all queries, for each of which the features are copied, as in the official code."""
    images, queries = mask_queries.states.shape[:2]
    memory, maps = mask_queries.memory, mask_queries.memory.maps
    attention = head.attention(mask_queries.states.flatten(0, 1), memory.tokens, None, [queries] * images)
    attention = attention.unflatten(-1, maps.projected.shape[-2:])
    x = torch.cat((maps.projected.repeat_interleave(queries, 0), attention), dim=1)
    first, second, *others = head.blocks
    x = second(first(x))
    for block, adapter, finer in zip(others, head.adapters, maps.finer, strict=True):
        adapted = adapter(finer.repeat_interleave(queries, 0))
        x = block(adapted + F.interpolate(x, size=adapted.shape[-2:], mode="nearest"))
    logits = head.predictor(x).unflatten(0, (images, queries))[:, :matched].flatten(0, 1)
    logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear").flatten(1)
    expected = targets.flatten(1).to(logits.dtype)
    return sigmoid_focal_loss(logits, expected).mean(1).sum() + dice_loss(logits, expected).sum()


def peak_bytes(loss: Callable[[], Tensor]) -> int:
    """Highest memory that a forward and a backward pass add on a GPU."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss().backward()
    return torch.cuda.max_memory_allocated() - before


_LOSSES = {"matched queries, shared features": our_loss, "all queries, copied features": plain_loss}


def _measure(
    loss: Callable[..., Tensor], images: int, size: tuple[int, int], queries: int, matched: int, device: str
) -> str:
    """GiB of a training step on a device: what is kept for the backward pass on "meta", the peak on "cuda"."""
    mask_queries = make_queries(images, size, queries, torch.device(device))
    head = MaskHead(_DIM, _HEADS, _CHANNELS).to(device)
    targets = torch.zeros(matched * images, *size, dtype=torch.bool, device=device)
    step = partial(loss, head, mask_queries, matched, targets)
    maps = mask_queries.memory.maps
    inputs = [mask_queries.states, mask_queries.memory.tokens, maps.projected, *maps.finer, targets, *head.parameters()]
    try:
        count = saved_bytes(step, inputs) if device == "meta" else peak_bytes(step)
    except torch.cuda.OutOfMemoryError:
        return "out of memory"
    return f"{count / 2**30:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Memory of a training step of DETR-R50's mask head and of its losses, without the detector: what "
        "is kept for the backward pass, which any machine can count, and the peak on a GPU.",
        "benchmark_masks --queries 100 300 --images 2 --objects 10 --size 800 1333",
    )
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 300], help="of an image")
    parser.add_argument("--images", type=int, default=2, help="of a batch")
    parser.add_argument("--objects", type=int, default=10, help="of an image")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), help="height and width in pixels")
    args = parse(parser, arguments)
    if min(*args.queries, args.images, args.objects, *args.size) < 1:
        parser.error("--queries, --images, --objects and --size must be 1 or more")
    has_gpu = torch.cuda.is_available()
    rows = []
    for queries in args.queries:
        for name, loss in _LOSSES.items():
            case = (loss, args.images, tuple(args.size), queries, min(args.objects, queries))
            cells = [_measure(*case, device) for device in ("meta", *["cuda"] * has_gpu)]
            rows.append([name, queries, *cells])
    logger.info(
        "Mask head and losses, %d images of %d x %d pixels with %d objects each; fp32; %s\n%s",
        args.images,
        *args.size,
        args.objects,
        describe_machine("cuda" if has_gpu else "cpu"),
        markdown(rows, ["mask head", "queries", "GiB kept for the backward pass", *["peak GiB"] * has_gpu]),
    )


if __name__ == "__main__":
    run(main)
