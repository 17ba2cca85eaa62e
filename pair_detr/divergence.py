"""What the user is told when a training step has no finite cost."""

from typing import Any

from detectron2.utils.events import get_event_storage, has_event_storage

from pair_detr.matching import NonFiniteCostError


def describe_non_finite_cost(error: NonFiniteCostError, batched_inputs: list[dict[str, Any]]) -> str:
    """Names file, tensor, layer and iteration of a cost that is not finite, and says what to do."""
    image = batched_inputs[error.image].get("file_name", f"image {error.image} of the batch")
    iteration = f" at iteration {get_event_storage().iter}" if has_event_storage() else ""
    if error.culprit == "ground-truth boxes":
        remedy = "Correct or remove the annotation."
    else:
        remedy = (
            "The training has diverged: lower SOLVER.BASE_LR, keep SOLVER.CLIP_GRADIENTS.ENABLED, or set "
            "SOLVER.AMP.DTYPE to bfloat16 if it is float16."
        )
    return f"{image}: the {error.culprit} of decoder layer {error.layer} are not finite{iteration}. {remedy}"
