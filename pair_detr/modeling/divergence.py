"""What the user is told when a training has diverged."""

from typing import Any

from detectron2.utils.events import get_event_storage, has_event_storage

from pair_detr.losses.matcher import NonFiniteCostError

DIVERGED = (
    "The training has diverged. Lower SOLVER.BASE_LR (with SOLVER.CLIP_GRADIENTS.ENABLED True, and SOLVER.AMP.DTYPE "
    "bfloat16 rather than float16) and add --resume: the new values count from the last checkpoint on. If it diverges "
    "again, delete that checkpoint, so that --resume takes the one before, or start anew with SOLVER.WARMUP_ITERS set."
)


def describe_non_finite_cost(error: NonFiniteCostError, batched_inputs: list[dict[str, Any]]) -> str:
    """Names file, tensor, layer and iteration of a cost that is not finite, and says what to do."""
    image = _name(batched_inputs, error.image)
    iteration = f" at iteration {get_event_storage().iter}" if has_event_storage() else ""
    remedy = "Correct or remove the annotation." if error.source == "ground-truth boxes" else DIVERGED
    return f"{image}: the {error.source} of decoder layer {error.layer} are not finite{iteration}. {remedy}"


def describe_non_finite_queries(counts: list[int], num_queries: int, batched_inputs: list[dict[str, Any]]) -> str:
    """Names the image whose predictions are not finite, and says what to do.

    Args:
        counts: queries of each image that predict NaN or infinity.
        num_queries: of an image.
        batched_inputs: the images.
    """
    image = next(i for i, count in enumerate(counts) if count)
    return (
        f"{_name(batched_inputs, image)}: {counts[image]} of {num_queries} queries predict NaN or infinity, and are "
        "not among the detections. Further images are treated alike, without a warning. If the model computes in "
        "float16, use bfloat16 or float32; else its weights are of a training that has diverged: take an earlier "
        "checkpoint."
    )


def _name(batched_inputs: list[dict[str, Any]], image: int) -> str:
    return batched_inputs[image].get("file_name", f"image {image} of the batch")
