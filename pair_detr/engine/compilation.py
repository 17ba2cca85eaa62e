"""torch.compile for training."""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

logger = logging.getLogger(__name__)

_COMPILERS = ("g++", "clang++", "c++")


def compile_for_training(cfg: CfgNode, model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles the network of a model in place, for each size of image at its first batch; names of weights stay.

    Its losses are left out: their shapes follow the number of objects, and the matcher runs on the host.

    Args:
        cfg: whose images have a few sizes, see SOLVER.COMPILE and SOLVER.CUDA_GRAPHS.
        model: a meta-architecture with a ``detector``.
        backend: of :func:`torch.compile`.

    Raises:
        ValueError: there are more sizes than torch compiles a function for; or no C++ compiler is found; or CUDA graphs
            have no GPU.
    """
    if cfg.SOLVER.CUDA_GRAPHS and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"SOLVER.CUDA_GRAPHS needs a GPU, and MODEL.DEVICE is {cfg.MODEL.DEVICE}: set SOLVER.CUDA_GRAPHS False."
        )
    config = torch._dynamo.config
    # Before torch 2.7 it was called otherwise.
    limit = getattr(config, "recompile_limit", config.cache_size_limit)
    shapes = (len(cfg.INPUT.SIZE_BUCKETS) or 1) * (len(set(cfg.DATALOADER.DATASET_BS)) or 1)
    factors = "INPUT.SIZE_BUCKETS times the numbers in DATALOADER.DATASET_BS"
    of_labels = model.image_label_criterion
    fixes = of_labels is not None and of_labels.fixes_statistics
    if fixes and any(isinstance(own, _BatchNorm) for own in model.modules()):
        shapes, factors = 2 * shapes, f"{factors}, and two ways of BatchNorm, with boxes and with labels"
    if shapes > limit:
        raise ValueError(
            f"There are {shapes} shapes of batches ({factors}), but torch compiles a function {limit} times at most: "
            "set fewer."
        )
    named = os.environ.get("CXX")
    if backend == "inductor" and not any(map(shutil.which, [named] if named else _COMPILERS)):
        raise ValueError(
            f"SOLVER.COMPILE needs a C++ compiler, and {named or 'g++'} is not found: install g++ (apt install g++, or "
            "conda install cxx-compiler), or set SOLVER.COMPILE False."
        )
    # Denoising queries are as many as the objects ask for: their number is a variable from the second batch on.
    varies = cfg.MODEL.DETR.DENOISING.GROUPS > 0
    mode = "reduce-overhead" if cfg.SOLVER.CUDA_GRAPHS else None
    model.detector.compile(backend=backend, dynamic=None if varies else False, mode=mode)
    logger.info("The network is compiled at its first batches, which take longer.")
