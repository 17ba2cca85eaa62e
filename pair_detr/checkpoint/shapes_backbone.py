"""Pretrained backbones for generated shapes, made where they are needed: ``MODEL.WEIGHTS "shapes://backbone.pth"``.

Detectors start from backbones that have learned to classify. These classify crops of generated shapes: they know what
shapes look like, and nothing of boxes. ``shapes://backbone.pth`` is the quick start's, ``shapes://open_shape.pth`` and
the like are those of the open-vocabulary holdouts, which have never been told of a novel class; with a color held out,
crops have all colors, but no class of their own for it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as count_up
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.utils.file_io import PathHandler
from torch import Tensor, nn
from tqdm import tqdm

from pair_detr.checkpoint.formats.native import PREFIX
from pair_detr.data import datasets_root
from pair_detr.data.datasets.open_shapes import draw_base_objects
from pair_detr.data.datasets.shape_classes import HOLDOUTS, Holdout
from pair_detr.data.datasets.shapes import CLASS_NAMES, Drawing, draw_image, seeded
from pair_detr.modeling.backbone.convnet import ConvNet
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.file_lock import one_at_a_time

logger = logging.getLogger(__name__)

SHAPES_BACKBONE = "shapes://backbone.pth"
_PREFIX = "shapes://"

# The backbone of configs/quickstart.yaml, and its normalization.
_CHANNELS = (16, 32, 64, 128)
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CROP = 48
_MAX_SHIFT = 6
_BATCH = 64
_RATE = 3e-3
_WEIGHT_DECAY = 1e-4
# Of pictures that no dataset of shapes has: those are drawn with two more numbers.
_SPAWN_KEY = 7


@dataclass(frozen=True)
class ShapesBackbone:
    """What a backbone learns to classify.

    Attributes:
        file_name: of its weights, in the folder of the datasets.
        num_classes: C.
        draw: an image, and those of its shapes that are classified with their labels, from 0 to C - 1.
        color_groups: of each class, a number that it shares with those that differ in color alone. If given, half of
            the crops get their color channels exchanged, and any class of the group is right for these.
    """

    file_name: str
    num_classes: int
    draw: Callable[[np.random.Generator], Drawing]
    color_groups: tuple[int, ...] | None = None


def backbone_address(holdout: str) -> str:
    """The value of MODEL.WEIGHTS that is the backbone of a holdout of :data:`HOLDOUTS`, by its name."""
    return f"{_PREFIX}open_{holdout}.pth"


def _of_holdout(holdout: Holdout) -> ShapesBackbone:
    classes, file_name = holdout.base_classes, f"open_shapes_{holdout.name}_backbone.pth"
    groups = None
    if holdout.has_novel_color:
        # A network that was only asked for some colors takes objects of another for background. Backbones trained on
        # photographs have seen all colors, usually with color augmentation.
        kinds = [(own.shape, own.texture) for own in classes]
        groups, file_name = tuple(map(kinds.index, kinds)), f"open_shapes_{holdout.name}_varied_backbone.pth"
    return ShapesBackbone(file_name, len(classes), lambda rng: draw_base_objects(rng, holdout), groups)


# By the values of MODEL.WEIGHTS.
BACKBONES = {
    SHAPES_BACKBONE: ShapesBackbone("shapes_backbone.pth", len(CLASS_NAMES), draw_image),
    **{backbone_address(name): _of_holdout(holdout) for name, holdout in HOLDOUTS.items()},
}


def pretrain_backbone(
    file: str | Path, num_crops: int = 12000, epochs: int = 3, seed: int = 0, address: str = SHAPES_BACKBONE
) -> float:
    """Trains a backbone of the quick start's structure as a classifier, and writes its weights.

    Args:
        file: to write; MODEL.WEIGHTS takes it.
        num_crops: of 48x48 pixels, each around a shape of a generated image.
        epochs: how often each is seen.
        seed: of crops and weights.
        address: the entry of :data:`BACKBONES` that says which shapes are classified.

    Returns:
        the share of the last epoch's crops that were classified correctly.

    Raises:
        ValueError: there is less than a batch of crops, or no epoch.
    """
    if num_crops < _BATCH or epochs < 1:
        raise ValueError(f"{num_crops} crops in {epochs} epochs: at least {_BATCH} and 1 are needed.")
    source = BACKBONES[address]
    crops, labels = _draw_crops(source.draw, num_crops, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = ConvNet(3, _CHANNELS)
        head = nn.Linear(_CHANNELS[-1], source.num_classes)
        accuracy = _train(
            backbone.to(memory_format=torch.channels_last), head, crops, labels, epochs, source.color_groups
        )
    # Not in channels_last: a file that is read by all layouts alike.
    weights = {f"{PREFIX}backbone.{name}": x.contiguous() for name, x in backbone.state_dict().items()}
    with atomic_write(file) as temporary:
        torch.save({"model": weights}, temporary)
    logger.info("Wrote %s: a backbone that classifies %.1f%% of its crops of shapes", file, 100 * accuracy)
    return accuracy


def _draw_crops(draw: Callable[[np.random.Generator], Drawing], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 3, 48, 48) uint8 and (N,) int64 classes, shapes at their centers, give or take a few pixels."""
    crops, labels = np.empty((count, _CROP, _CROP, 3), dtype=np.uint8), []
    margin = _CROP // 2 + _MAX_SHIFT
    with tqdm(total=count, desc="crops of shapes", unit="crop", disable=None) as bar:
        for index in count_up():
            if len(labels) == count:
                break
            rng = seeded(seed, _SPAWN_KEY, index)
            image, shapes = draw(rng)
            padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
            for class_id, mask in shapes[: count - len(labels)]:
                center = [np.flatnonzero(mask.any(axis))[[0, -1]].sum() // 2 for axis in (1, 0)]
                top, left = (x + _MAX_SHIFT + int(rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1)) for x in center)
                crops[len(labels)] = padded[top : top + _CROP, left : left + _CROP]
                labels.append(class_id)
                bar.update()
    return torch.from_numpy(crops).permute(0, 3, 1, 2), torch.tensor(labels)


def _train(
    backbone: ConvNet,
    head: nn.Linear,
    crops: Tensor,
    labels: Tensor,
    epochs: int,
    color_groups: Sequence[int] | None = None,
) -> float:
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, _RATE, weight_decay=_WEIGHT_DECAY)
    steps = len(labels) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=epochs * steps)
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (_MEAN, _STD))
    correct = torch.zeros((), dtype=torch.int64)
    right = torch.eye(head.out_features)
    same_but_color = None if color_groups is None else _equal_pairs(torch.tensor(color_groups))
    with tqdm(total=epochs * steps, desc="pretraining the backbone", unit="step", disable=None) as bar:
        for _ in range(epochs):
            correct.zero_()
            for batch in torch.randperm(len(labels))[: steps * _BATCH].view(steps, _BATCH):
                pixels, expected = crops[batch], right[labels[batch]]
                if same_but_color is not None:
                    pixels, exchanged = _exchange_channels(pixels)
                    expected = torch.where(exchanged[:, None], same_but_color[labels[batch]], expected)
                images = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
                logits = head(backbone(images)["last"].mean((2, 3)))
                optimizer.zero_grad()
                if same_but_color is None:
                    loss = F.cross_entropy(logits, labels[batch])
                else:
                    # Of the probability of all that is right.
                    loss = (logits.logsumexp(1) - (logits + expected.log()).logsumexp(1)).mean()
                loss.backward()
                optimizer.step()
                schedule.step()
                correct += expected.gather(1, logits.argmax(1)[:, None]).sum().long()
                bar.update()
    return correct.item() / (steps * _BATCH)


def _equal_pairs(numbers: Tensor) -> Tensor:
    """(C,) -> (C, C), 1.0 where two are equal and 0.0 elsewhere."""
    return (numbers[:, None] == numbers).float()


def _exchange_channels(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) -> the same, about half of them with channels in a random order, and (N,) bool which these are."""
    exchanged = torch.rand(len(pixels)) < 0.5
    order = torch.rand(pixels.shape[:2]).argsort(1)
    order[~exchanged] = torch.arange(pixels.shape[1])
    return pixels.gather(1, order[:, :, None, None].expand_as(pixels)), exchanged


def backbone_file(address: str) -> Path:
    """Where the weights of an entry of :data:`BACKBONES` are kept."""
    return datasets_root() / BACKBONES[address].file_name


class ShapesHandler(PathHandler):
    """Makes a backbone on its first use, where other handlers would download weights."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        if path not in BACKBONES:
            raise ValueError(f"{path} is unknown: there are {', '.join(BACKBONES)}")
        file = backbone_file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(file.parent / f".{file.name}.lock", f"writes {file}"):
            if not file.is_file():
                logger.info("%s is made once, in about a minute: %s", path, file)
                pretrain_backbone(file, address=path)
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return Path(self._get_local_path(path)).open(mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return path in BACKBONES

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._exists(path)
