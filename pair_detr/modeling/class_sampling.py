"""Which classes of a dataset take part in the classification loss, as its metadata and MODEL.DETR.LOSS say."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from pair_detr.data.model_classes import class_names_or_none
from pair_detr.losses.federated import FederatedLossSampler


def build_federated_sampler(cfg: CfgNode) -> FederatedLossSampler | None:
    """The selection for the first dataset of DATASETS.TRAIN; None if all of its classes take part.

    Classes without annotations are the ``novel_classes`` of its metadata, and those whose ``class_image_count`` is 0.

    Raises:
        ValueError: MODEL.DETR.LOSS.FEDERATED_CLASSES is negative, or set where the dataset does not say how often its
            classes are; or a novel class is not among its classes.
    """
    limit = cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES
    if limit < 0:
        raise ValueError(f"MODEL.DETR.LOSS.FEDERATED_CLASSES is {limit}; it must be 0, for all classes, or more.")
    name = next(iter(cfg.DATASETS.TRAIN), None)
    if name not in DatasetCatalog or cfg.MODEL.DETR.CLASS_AGNOSTIC:
        return None
    metadata = MetadataCatalog.get(name)
    counts, novel = metadata.get("class_image_count"), metadata.get("novel_classes", ())
    if limit and counts is None:
        raise ValueError(
            f'MODEL.DETR.LOSS.FEDERATED_CLASSES is {limit}, but dataset "{name}" has no class_image_count in its '
            "metadata, as LVIS has: set that, or FEDERATED_CLASSES to 0."
        )
    classes = class_names_or_none(name) if counts or novel else None
    if not classes:
        return None
    if unknown := sorted(set(novel) - set(classes)):
        raise ValueError(f'Dataset "{name}": the novel classes {", ".join(unknown)} are not among its classes.')
    weights = _frequencies(counts, len(classes)) ** cfg.MODEL.DETR.LOSS.FEDERATED_POWER
    weights[torch.tensor([class_name in novel for class_name in classes])] = 0
    weights[_frequencies(counts, len(classes)) == 0] = 0
    return FederatedLossSampler(weights, limit) if limit or not weights.all() else None


def _frequencies(counts: Sequence[dict[str, int]] | None, num_classes: int) -> Tensor:
    """(C,) images of each class; all 1 where nothing is known."""
    if counts is None:
        return torch.ones(num_classes)
    return torch.tensor([entry["image_count"] for entry in sorted(counts, key=lambda entry: entry["id"])]).float()
