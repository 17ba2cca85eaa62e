"""Ground truth of a batch as packed tensors, and which prediction is responsible for which object."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pair_detr.transfer import upload


@dataclass
class Targets:
    """The T objects of all images of a batch, image after image.

    Attributes:
        boxes: (T, 4) fp32 cxcywh, normalised to the unpadded image.
        labels: (T,) int64 contiguous class indices.
        image_of: (T,) int64, the image in the batch that an object belongs to.
        counts: objects of each image, on the host.
    """

    boxes: Tensor
    labels: Tensor
    image_of: Tensor
    counts: list[int]

    @classmethod
    def pack(cls, boxes: list[Tensor], labels: list[Tensor]) -> "Targets":
        """Packs one (n, 4) tensor of boxes and one (n,) tensor of labels an image, all on the same device."""
        counts = [len(x) for x in labels]
        image_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
        boxes = torch.cat(boxes).float()
        return cls(boxes, torch.cat(labels).long(), image_of.to(boxes.device), counts)

    def to(self, device: torch.device) -> "Targets":
        """A copy on ``device``; the host does not wait for it."""
        boxes, labels, image_of = (upload(x, device) for x in (self.boxes, self.labels, self.image_of))
        return Targets(boxes, labels, image_of, self.counts)


@dataclass
class Assignment:
    """N matches of all decoder layers: object ``target`` is the business of ``query`` in ``layer`` and ``image``.

    All four are (N,) int64 on the device of the predictions.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def pick(self, predictions: Tensor) -> Tensor:
        """The matched (N, ...) of (L, B, Q, ...) predictions."""
        return predictions[self.layer, self.image, self.query]
