"""What config keys require of each other."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pair_detr.config.choices import CLIP_BACKBONE, IMAGE_CHANNELS
from pair_detr.config.variants import VARIANTS
from pair_detr.utils.messages import counted


def conflicts(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with values that make sense alone, a sentence for each fault.

    Args:
        values: by the full names of their keys; what needs a key that is absent is not checked.
    """
    get = values.get
    device = str(get("MODEL.DEVICE", ""))
    if device.startswith("cuda") and not torch.cuda.is_available():
        yield f"MODEL.DEVICE is {device}, but there is no CUDA device. Set MODEL.DEVICE cpu."
    dim, heads = get("MODEL.DETR.HIDDEN_DIM", 0), get("MODEL.DETR.NUM_HEADS", 1)
    if dim % 4 or dim % heads:
        yield f"MODEL.DETR.HIDDEN_DIM is {dim}; it must be divisible by 4 and by MODEL.DETR.NUM_HEADS ({heads})."
    backbone = get("MODEL.BACKBONE.NAME", CLIP_BACKBONE)
    if get("MODEL.CLIP.REGION.ENABLED", False) and backbone != CLIP_BACKBONE:
        yield (
            f"MODEL.CLIP.REGION.ENABLED is True, but MODEL.BACKBONE.NAME {backbone} has no texts to compare regions "
            f"with: set it to {CLIP_BACKBONE}, or ENABLED to False."
        )
    costs = [get(f"MODEL.DETR.COST.{name}") for name in ("CLASS", "L1", "GIOU")]
    if costs == [0, 0, 0]:
        yield "MODEL.DETR.COST.CLASS, L1 and GIOU are all 0: nothing would tell what to match. Set one above 0."
    sizes = get("INPUT.MIN_SIZE_TRAIN", ())
    if get("INPUT.MIN_SIZE_TRAIN_SAMPLING") == "range" and not (len(sizes) == 2 and sizes[0] <= sizes[1]):
        yield (
            f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)}; with INPUT.MIN_SIZE_TRAIN_SAMPLING range it must be the smallest "
            "and the largest size."
        )
    if get("TEST.PRECISE_BN.ENABLED", False) and get("MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS", False):
        yield (
            "TEST.PRECISE_BN.ENABLED is True, but with MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS batches with labels "
            "have no statistics: set one of them to False."
        )
    yield from _conflicts_of_sizes(values)
    yield from _conflicts_of_queries(values)
    yield from _conflicts_of_channels(values)
    yield from _conflicts_of_schedule(values)


def _conflicts_of_sizes(values: Mapping[str, Any]) -> Iterator[str]:
    get = values.get
    fixed, buckets = get("INPUT.FIXED_SIZE", ()), get("INPUT.SIZE_BUCKETS", ())
    own = [side for side in get("DATALOADER.DATASET_MAX_SIZES", ()) if isinstance(side, int)]
    longest = max([get("INPUT.MAX_SIZE_TRAIN", 0), *own])
    if buckets and not any(min(size) >= longest for size in buckets):
        yield (
            f"INPUT.SIZE_BUCKETS is {[tuple(size) for size in buckets]}, but a batch may have tall and wide images, of "
            f"up to INPUT.MAX_SIZE_TRAIN (or DATALOADER.DATASET_MAX_SIZES) pixels: add ({longest}, {longest}), or a "
            "larger size."
        )
    if buckets and 0 in get("INPUT.MIN_SIZE_TRAIN", ()):
        yield (
            "INPUT.SIZE_BUCKETS needs images that are resized, but INPUT.MIN_SIZE_TRAIN 0 leaves them as they are: set "
            "a size, or INPUT.SIZE_BUCKETS []."
        )
    if get("SOLVER.COMPILE", False) and "INPUT.FIXED_SIZE" in values and not fixed and not buckets:
        yield (
            "SOLVER.COMPILE is True, but images may have any size, and each would be compiled for: set "
            f"INPUT.FIXED_SIZE, as to ({longest}, {longest}), INPUT.SIZE_BUCKETS, or SOLVER.COMPILE False."
        )
    if get("SOLVER.CUDA_GRAPHS", False):
        yield from _conflicts_of_graphs(values)


def _conflicts_of_graphs(values: Mapping[str, Any]) -> Iterator[str]:
    if not values.get("SOLVER.COMPILE", True):
        yield "SOLVER.CUDA_GRAPHS replays what SOLVER.COMPILE compiles: set that to True, too, or CUDA_GRAPHS to False."
    if values.get("MODEL.DETR.DENOISING.GROUPS", 0):
        yield (
            "SOLVER.CUDA_GRAPHS is True, but a batch has as many denoising queries as its objects ask for, and each "
            "number would be recorded: set MODEL.DETR.DENOISING.GROUPS 0 or SOLVER.CUDA_GRAPHS False."
        )


def _conflicts_of_queries(values: Mapping[str, Any]) -> Iterator[str]:
    def get(key: str, default: Any) -> Any:
        return values.get(f"MODEL.DETR.{key}", default)

    selection, is_dense = get("QUERY_SELECTION", "none"), get("DENSE.ENABLED", False)
    variant = VARIANTS.get(get("VARIANT", ""))
    if variant is not None and not variant.has_reference_points:
        for key, off in (("QUERY_SELECTION", "none"), ("LOCAL_ATTENTION", False)):
            if get(key, off) != off:
                yield (
                    f"MODEL.DETR.{key} is {get(key, off)}, but the queries of MODEL.DETR.VARIANT {get('VARIANT', '')} "
                    f"have no reference points: set {key} {off}, or VARIANT conditional_detr."
                )
    if selection != "none" and not is_dense:
        yield (
            f"MODEL.DETR.QUERY_SELECTION is {selection}, and takes its boxes from the dense head: set "
            "MODEL.DETR.DENSE.ENABLED True, or QUERY_SELECTION none."
        )
    if get("DENOISING.GROUPS", 0) and selection == "none":
        yield (
            "MODEL.DETR.DENOISING.GROUPS is above 0, but the queries have no boxes to be noisy: set "
            "MODEL.DETR.QUERY_SELECTION boxes, or GROUPS 0."
        )
    for key, off in (("BOX_REFINEMENT", "none"), ("RELATIVE_BOXES", False), ("BOX_BIAS", False)):
        if get(key, off) != off and selection != "boxes":
            yield (
                f"MODEL.DETR.{key} is {get(key, off)}, but the queries look from points: set "
                f"MODEL.DETR.QUERY_SELECTION boxes, or {key} {off}."
            )
    branches = {"DENSE.ENABLED": is_dense, "PAIR.QUERIES_PER_OBJECT": get("PAIR.QUERIES_PER_OBJECT", 1) > 1}
    classification = get("LOSS.CLASSIFICATION", "auto")
    if classification == "auto" and variant is not None:
        classification = variant.published_classification
    if values.get("MODEL.CLIP.OBJECTNESS", False) and classification == "softmax":
        yield (
            "MODEL.CLIP.OBJECTNESS is True, but the classification is a softmax, in which a query without an object "
            "has a class of its own: set MODEL.DETR.LOSS.CLASSIFICATION focal or mal, or OBJECTNESS False."
        )
    for key, is_on in branches.items():
        if is_on and classification == "softmax":
            yield (
                f"MODEL.DETR.{key} is {get(key, None)}, but the classification is a softmax, in which a query without "
                "an object has a class of its own: set MODEL.DETR.LOSS.CLASSIFICATION focal or mal, or "
                f"{key} {False if key == 'DENSE.ENABLED' else 1}."
            )
    if get("PAIR.BOX_DECODING", "center") == "pair":
        for key, off in (("PAIR.QUERIES_PER_OBJECT", 1), ("BOX_REFINEMENT", "none"), ("RELATIVE_BOXES", False)):
            if get(key, off) != off:
                yield (
                    f"MODEL.DETR.{key} is {get(key, off)}, but with MODEL.DETR.PAIR.BOX_DECODING pair no decoder has "
                    f"boxes of its own: set {key} {off}, or BOX_DECODING center."
                )


def _conflicts_of_channels(values: Mapping[str, Any]) -> Iterator[str]:
    if (image_format := values.get("INPUT.FORMAT")) is None:
        return
    channels = IMAGE_CHANNELS[image_format]
    lengths = {key: len(values[key]) for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD") if key in values}
    if wrong := [f"{key} has {counted(n, 'value')}" for key, n in lengths.items() if n != channels]:
        yield (
            f"{' and '.join(wrong)}, but INPUT.FORMAT {image_format!r} needs {channels}, one for each channel: correct "
            "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD, or set INPUT.FORMAT to RGB (3), RGBA (4) or L (1), to which images "
            "of any kind are converted."
        )


def _conflicts_of_schedule(values: Mapping[str, Any]) -> Iterator[str]:
    get = values.get
    rate = get("SOLVER.BASE_LR", math.inf)
    if get("SOLVER.BASE_LR_END", 0) > rate:
        yield f"SOLVER.BASE_LR_END is {values['SOLVER.BASE_LR_END']}; it must be at most SOLVER.BASE_LR ({rate})."
    if get("SOLVER.NESTEROV", False) and get("SOLVER.MOMENTUM") == 0:
        yield "SOLVER.NESTEROV is True, but SOLVER.MOMENTUM is 0: set it above 0, or SOLVER.NESTEROV to False."
    epochs, steps = get("SOLVER.EPOCHS.MAX", 0), get("SOLVER.EPOCHS.STEPS", ())
    if epochs and steps and steps[-1] >= epochs:
        yield f"SOLVER.EPOCHS.STEPS {steps} must ascend and lie between 0 and SOLVER.EPOCHS.MAX ({epochs})."
    # Detectron2 leaves out what is beyond the end, but trips over a step at the end itself.
    length = get("SOLVER.MAX_ITER", 0)
    if not epochs and length in get("SOLVER.STEPS", ()):
        yield f"SOLVER.STEPS has {length}, which is SOLVER.MAX_ITER: remove it, as the training ends there."
