"""Denoising queries: noisy copies of the ground truth that the decoder learns to repair (DN-DETR, arXiv 2203.01305)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.structures import Assignment, Targets
from pair_detr.utils.device import to_device_async
from torchvision.ops import box_convert


@dataclass
class DenoisingQueries:
    content: Tensor
    reference: Tensor
    is_used: Tensor
    groups: tuple[int, int]
    assignment: Assignment


class Denoising(nn.Module):
    def __init__(self, dim: int, num_classes: int, groups: int, label_noise: float, box_noise: float, negatives: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, dim)
        self.num_classes = num_classes
        self.groups = groups
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.negatives = negatives

    def forward(self, targets: Targets, num_layers: int) -> DenoisingQueries:
        device = targets.boxes.device
        most = max(targets.counts)
        kinds = 2 if self.negatives else 1
        slots = torch.cat([torch.arange(count) for count in targets.counts])
        slots = to_device_async(slots, device)
        images, num = targets.image_index, len(targets.labels)
        B = len(targets.counts)
        shape = (num, self.groups, kinds)
        labels = targets.labels[:, None, None].expand(shape)
        flip = torch.rand(shape, device=device) < self.label_noise
        labels = torch.where(flip, torch.randint(self.num_classes, shape, device=device), labels)
        corners = cxcywh_to_xyxy(targets.boxes)[:, None, None]
        half = targets.boxes[:, 2:].repeat(1, 2)[:, None, None] / 2
        size = torch.rand((*shape, 4), device=device)
        sign = torch.randint(2, (*shape, 4), device=device) * 2 - 1
        kind = torch.arange(kinds, device=device)[:, None]
        noisy = corners + sign * (size + kind) * half * self.box_noise
        noisy = box_convert(noisy.clamp(0, 1), "xyxy", "cxcywh")
        noisy = torch.cat((noisy[..., :2], noisy[..., 2:].abs().clamp(min=1e-3)), -1)
        content = self.embedding(labels)
        width = kinds * most
        slot = slots[:, None, None] * kinds + torch.arange(kinds, device=device)
        group = torch.arange(self.groups, device=device)[None, :, None]
        query = group * width + slot
        image = images[:, None, None].expand(shape)
        full = content.new_zeros(B, self.groups * width, content.shape[-1]).index_put((image, query), content)
        reference = noisy.new_full((B, self.groups * width, 4), 0.5).index_put((image, query), noisy)
        used = torch.zeros(B, self.groups * width, dtype=torch.bool, device=device).index_put((image, query), torch.ones((), dtype=torch.bool, device=device))
        L = num_layers
        rows = torch.stack((image[..., 0], query[..., 0], torch.arange(num, device=device)[:, None].expand(num, self.groups))).flatten(1)
        rows = rows.repeat(1, L)
        layer = torch.arange(L, device=device).repeat_interleave(num * self.groups)
        return DenoisingQueries(full, reference, used, (self.groups, width), Assignment(layer, *rows))
