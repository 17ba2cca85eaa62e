"""Matching costs as they occur in training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from pair_detr.data import load_training_dicts
from pair_detr.data.build import training_mapper
from pair_detr.modeling.meta_arch import DetectionTransformer


@torch.no_grad()
def training_costs(model: DetectionTransformer, batches: Sequence[list[dict[str, Any]]]) -> list[np.ndarray]:
    """The (T, Q) costs that the matcher of a model sees, of every image with objects and every decoder layer.

    Args:
        model: its mode is set to training.
        batches: as the training's mapper makes them.
    """
    model.train()
    matcher = model.criterion.matcher
    costs = []
    for batch in tqdm(batches, "costs", unit="batch", leave=False, disable=None):
        images = model.preprocess(batch)
        targets = model.pack_targets(batch, images)
        predictions = model.detector(images, targets)
        targets = targets.repeat_images(predictions.groups)
        cost = matcher.pairwise_cost(predictions.logits.float(), predictions.boxes.float(), targets).cpu().numpy()
        blocks = np.split(cost, np.cumsum(targets.counts)[:-1], axis=1)
        costs += [layer for block in blocks if block.shape[1] for layer in block]
    return costs


def training_batches(cfg: CfgNode, num_images: int) -> list[list[dict[str, Any]]]:
    """The first images of the training set with the training's augmentation.

    Raises:
        KeyError, OSError, ValueError: the dataset cannot be read.
    """
    dicts = load_training_dicts(cfg)
    mapper = training_mapper(cfg, dicts)
    items = [mapper(record) for record in dicts[:num_images]]
    size = cfg.SOLVER.IMS_PER_BATCH
    return [items[start : start + size] for start in range(0, len(items), size)]
