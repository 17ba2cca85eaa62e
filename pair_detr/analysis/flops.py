"""Floating-point operations of a detector, counted by fvcore; its unit is the fused multiply-add."""

import copy
import math
from collections import Counter
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import Tensor, nn

from pair_detr.modeling import Detector
from pair_detr.structures import Batch

_PREFIX = "detector"


class _Tensors(nn.Module):
    """A detector that returns a tuple, as tracing asks for."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        predictions = self.detector(Batch(images, None, sizes, sizes))
        return predictions.logits, predictions.boxes


def attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Multiply-adds of ``scaled_dot_product_attention``: query times key, and weights times value.

    The softmax between them is not counted, as fvcore counts no softmax elsewhere.
    """
    (*batch, num_queries, width), (*_, num_keys, _), (*_, value_width) = (x.type().sizes() for x in inputs[:3])
    return Counter(attention=math.prod(batch) * num_queries * num_keys * (width + value_width))


def count_flops(detector: Detector, height: int, width: int, channels: int = 3) -> tuple[Counter[str], Counter[str]]:
    """Counts the inference of one image, of a size in pixels and without padding, by a detector in evaluation mode.

    Returns:
        Operations by module, "" being all, and calls of the operators that fvcore met and does not count: elementwise
        ones, as a rule.
    """
    # A trace holds sizes as tensors of the host, which operations on a GPU do not take.
    on_host = copy.deepcopy(detector).cpu()
    analysis = FlopCountAnalysis(_Tensors(on_host), torch.zeros(1, channels, height, width))
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_flops)
    analysis.unsupported_ops_warnings(False)
    analysis.uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    by_module = {
        name.removeprefix(_PREFIX).removeprefix("."): count for name, count in analysis.by_module().items() if name
    }
    return Counter(by_module), analysis.unsupported_ops()


def module_costs(model: nn.Module, flops: dict[tuple[int, int], Counter[str]], depth: int) -> list[dict[str, Any]]:
    """Parameters and operations of the modules of a detector.

    Args:
        model: the detector.
        flops: operations by module, of :func:`count_flops`, by height and width.
        depth: of the tree of modules; 1 stands for the detector's own parts.

    Returns:
        A dict per module that has any: its name as "module", "" being all, "parameters", of these "trained", and
        "flops" by size, such as "480x640".
    """
    parameters = parameter_count(model)
    rows = []
    for name, module in model.named_modules():
        if name.count(".") >= depth or not (parameters[name] or any(counts[name] for counts in flops.values())):
            continue
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        rows.append(
            {
                "module": name,
                "parameters": parameters[name],
                "trained": trained,
                "flops": {f"{h}x{w}": counts[name] for (h, w), counts in flops.items()},
            }
        )
    return rows
