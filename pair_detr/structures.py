"""What crosses the parts of a model: features, predictions, ground truth, and which prediction has which object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pair_detr.utils.device import to_device_async

Size = tuple[int, int]


@dataclass
class Batch:
    """Images of a batch, padded at the right and at the bottom to one size.

    Attributes:
        images: (B, C, H, W), normalized, zero in the padding.
        padding_mask: (B, H, W) bool, true in the padding; None where nothing is to be masked.
        image_sizes: height and width of each image without its padding, in pixels.
        output_sizes: height and width that boxes and masks of each image are returned for, in pixels.
        boxes_span_padding: whether normalized boxes are relative to the padded image, not to the image itself.
    """

    images: Tensor
    padding_mask: Tensor | None
    image_sizes: list[Size]
    output_sizes: list[Size]
    boxes_span_padding: bool = False

    @property
    def padded_size(self) -> Size:
        """Height and width of all images with their padding, in pixels."""
        height, width = self.images.shape[-2:]
        return height, width

    @property
    def frame_sizes(self) -> list[Size]:
        """Height and width of what the normalized boxes of each image are relative to, in pixels of the input."""
        return [self.padded_size] * len(self.image_sizes) if self.boxes_span_padding else self.image_sizes

    def output_limits(self) -> Tensor:
        """(B, 4) fp32, on the host: width, height, width and height of the output in pixels."""
        return torch.tensor(self.output_sizes, dtype=torch.float32).flip(-1).repeat(1, 2)

    def output_frames(self) -> Tensor:
        """(B, 4) fp32, on the host: width, height, width and height of the frames in pixels of the output."""
        frames, images, outputs = (
            torch.tensor(sizes, dtype=torch.float32)
            for sizes in (self.frame_sizes, self.image_sizes, self.output_sizes)
        )
        return (outputs * (frames / images)).flip(-1).repeat(1, 2)


@dataclass
class ImageLabels:
    """The N labels of all images of a batch, image after image. They say what an image shows, but not where.

    Attributes:
        labels: (N,) int64 contiguous class indices.
        image_index: (N,) int64, the image in the batch that a label belongs to.
        counts: labels of each image, on the host.
        known: objects of other classes, of which the boxes are known; None if there are none.
    """

    labels: Tensor
    image_index: Tensor
    counts: list[int]
    known: "Targets | None" = None

    @classmethod
    def pack(cls, labels: list[Tensor]) -> "ImageLabels":
        """Packs one (n,) tensor of labels an image, all on the same device."""
        return cls(
            torch.cat(labels).long(),
            to_device_async(_image_index([len(x) for x in labels]), labels[0].device),
            list(map(len, labels)),
        )

    def to(self, device: torch.device) -> "ImageLabels":
        """A copy on ``device``; the host does not wait for it."""
        labels, image_index = (to_device_async(x, device) for x in (self.labels, self.image_index))
        return ImageLabels(labels, image_index, self.counts, None if self.known is None else self.known.to(device))


@dataclass
class Targets:
    """The T objects of all images of a batch, image after image; or only the labels of the images.

    Attributes:
        boxes: (T, 4) fp32 cxcywh, normalized to the unpadded image.
        labels: (T,) int64 contiguous class indices.
        image_index: (T,) int64, the image in the batch that an object belongs to.
        counts: objects of each image, on the host.
        image_labels: None if the objects are known. Otherwise there are no objects here, which says nothing about the
            images: this is all that is known.
        masks: (T, H, W) bool at the size of the padded batch, false in the padding; None in models without masks and
            where the objects are not known.
        noise: (T, n) fp32 uniform in 0..1, what is random about denoising queries; None in models without.
        classified: (T,) bool, false for objects of which boxes are to be learned, but not labels, by which they are
            matched all the same; None if both are of all.
    """

    boxes: Tensor
    labels: Tensor
    image_index: Tensor
    counts: list[int]
    image_labels: ImageLabels | None = None
    masks: Tensor | None = None
    noise: Tensor | None = None
    classified: Tensor | None = None

    @classmethod
    def pack(cls, boxes: list[Tensor], labels: list[Tensor]) -> "Targets":
        """Packs one (n, 4) tensor of boxes and one (n,) tensor of labels an image, all on the same device."""
        boxes = torch.cat(boxes).float()
        counts = [len(x) for x in labels]
        return cls(boxes, torch.cat(labels).long(), to_device_async(_image_index(counts), boxes.device), counts)

    @classmethod
    def pack_image_labels(cls, labels: list[Tensor]) -> "Targets":
        """Packs one (n,) tensor of labels an image, all on the same device."""
        nothing = labels[0].new_empty(0, dtype=torch.int64)
        boxes = labels[0].new_empty(0, 4, dtype=torch.float32)
        return cls(boxes, nothing, nothing, [0] * len(labels), ImageLabels.pack(labels))

    def repeat_images(self, times: int) -> "Targets":
        """The targets of as many copies of each image, one after the other, without masks. The host does not wait."""
        if times == 1:
            return self
        device = self.boxes.device
        of_images = torch.arange(sum(self.counts)).split(self.counts)
        index = to_device_async(torch.cat([x.repeat(times) for x in of_images]), device)
        counts = [count for count in self.counts for _ in range(times)]
        image_index = to_device_async(_image_index(counts), device)
        classified = None if self.classified is None else self.classified[index]
        boxes, labels = self.boxes[index], self.labels[index]
        return Targets(boxes, labels, image_index, counts, self.image_labels, classified=classified)

    @property
    def has_boxes(self) -> bool:
        """Whether the objects of the images are known."""
        return self.image_labels is None

    def to(self, device: torch.device) -> "Targets":
        """A copy on ``device``; the host does not wait for it."""
        names = ("boxes", "labels", "image_index", "masks", "noise", "classified")
        tensors = {name: to_device_async(x, device) for name in names if (x := getattr(self, name)) is not None}
        image_labels = None if self.image_labels is None else self.image_labels.to(device)
        return replace(self, image_labels=image_labels, **tensors)


def _image_index(counts: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))


@dataclass
class Assignment:
    """N matches of all decoder layers: object ``target`` is the business of ``query`` in ``layer`` and ``image``.

    All four are (N,) int64 on the device of the predictions: layer after layer, in each of them image after image. All
    layers have the same number of matches.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def pick(self, predictions: Tensor) -> Tensor:
        """The matched (N, ...) of (L, B, Q, ...) predictions."""
        return predictions[self.layer, self.image, self.query]

    def last_layer(self, counts: Sequence[int], num_queries: int, groups: int = 1) -> tuple["Assignment", list[int]]:
        """The matches of the last layer and the first group of queries, found without waiting for the device.

        Args:
            counts: objects of each image.
            num_queries: per image and group; it has no more matches.
            groups: of queries, each with all objects of its image.

        Returns:
            These matches, of objects as they are counted without groups; and how many each image has.
        """
        matched = [min(count, num_queries) for count in counts]
        start = len(self.layer) - groups * sum(matched)
        if groups == 1:
            tail = slice(start, None)
            return Assignment(self.layer[tail], self.image[tail], self.query[tail], self.target[tail]), matched
        rows, surplus, objects = [], [], 0
        for count, number in zip(counts, matched, strict=True):
            rows.append(torch.arange(start, start + number))
            surplus.append(torch.full((number,), objects * (groups - 1)))
            start, objects = start + groups * number, objects + count
        rows, surplus = (to_device_async(torch.cat(x), self.layer.device) for x in (rows, surplus))
        image = self.image[rows] // groups
        return Assignment(self.layer[rows], image, self.query[rows], self.target[rows] - surplus), matched


@dataclass
class Memory:
    """Feature tokens of a batch, before or after the encoder.

    Attributes:
        tokens: (B, M, D), the cells of the feature map row by row.
        position: (B, M, D) sine encoding of their positions, or (1, M, D) where it is the same for all images.
        key_mask: (B, 1, 1, M) bool, false in the padding; None where no image is padded.
        maps: of the backbone; None in models without masks.
        centers: (B, H, W, 2) fp32, x and y of the centers of the cells, normalized as boxes are; None in models whose
            tokens predict nothing.
        backbone_map: (B, C, H, W), the backbone's last; None in models that score no regions of it.
    """

    tokens: Tensor
    position: Tensor
    key_mask: Tensor | None
    maps: "FeatureMaps | None" = None
    centers: Tensor | None = None
    backbone_map: Tensor | None = None


@dataclass(frozen=True)
class Refinement:
    """How a decoder moves what its queries look from, layer by layer.

    Attributes:
        box_head: maps states and the boxes that they looked from to better ones.
        embed: maps boxes to positional queries.
        look_forward_twice: the boxes of a layer also train the layer before it (DINO, arXiv 2203.03605, section 3.5).
    """

    box_head: Callable[[Tensor, Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    look_forward_twice: bool = False


@dataclass
class Queries:
    """What a decoder decodes: N queries of each image.

    Attributes:
        position: (N, D) learned positional queries, or (B, N, D) of each image.
        content: (N, D) or (B, N, D), the states that they start as; None for zeros.
        reference: (N, 2) or (B, N, 2) points, or (.., 4) boxes cxcywh, fp32 in 0..1, that they look from; None for the
            decoder's own.
        groups: which of them attend to each other, (number of groups, queries in each) for one run of equally large
            groups after the other; None if all attend to all.
        is_used: (B, N) bool, false for those that nothing may attend to; None if there are none.
        refinement: how the reference changes from layer to layer; None if it stays.
        self_attention: whether queries attend to each other at all.
        texts: (C, D) of the classes, for decoders that attend to them.
        position_offset: (N, D) or (B, N, D), what positional queries have in addition to what they look from; None for
            nothing.
    """

    position: Tensor
    content: Tensor | None = None
    reference: Tensor | None = None
    groups: tuple[Size, ...] | None = None
    is_used: Tensor | None = None
    refinement: Refinement | None = None
    self_attention: bool = True
    texts: Tensor | None = None
    position_offset: Tensor | None = None

    def narrowed(self, dtype: torch.dtype) -> "Queries":
        """The queries as a decoder takes whose weights have fewer bits than learned queries; points stay fp32."""

        def narrow(x: Tensor | None) -> Tensor | None:
            # What autocast has made narrower than the weights stays so.
            return x if x is None or x.dtype.itemsize <= dtype.itemsize else x.to(dtype)

        return replace(
            self,
            position=narrow(self.position),
            content=narrow(self.content),
            texts=narrow(self.texts),
            position_offset=narrow(self.position_offset),
        )

    def initial_states(self, num_images: int) -> Tensor:
        """(B, N, D) states before the first decoder layer."""
        if self.content is None:
            return self.position.new_zeros(num_images, *self.position.shape[-2:])
        return self.content.expand(num_images, -1, -1)


@dataclass
class FeatureMaps:
    """What masks are refined with.

    Attributes:
        projected: (B, D, H, W), the input of the encoder; its M cells are the tokens.
        finer: up to three (B, C_i, H_i, W_i) of the stages before it, the coarsest first.
    """

    projected: Tensor
    finer: list[Tensor]


@dataclass
class MaskQueries:
    """What a mask can be asked for with.

    Attributes:
        states: (B, Q, D) of the last decoder layer.
        memory: the encoder's output.
        reference: (Q, 2) or (B, Q, 2) points, x and y in 0..1, that the queries look from, or (.., 4) boxes, cxcywh;
            None for queries without.
    """

    states: Tensor
    memory: Memory
    reference: Tensor | None = None


@dataclass
class Predictions:
    """Outputs of L decoder layers for B images and Q queries, the last layer last. At inference L is 1.

    Attributes:
        logits: (L, B, Q, C) class logits; C counts the no-object column where the classifier has one.
        boxes: (L, B, Q, 4) cxcywh, normalized to the unpadded image.
        states: (L, B, Q, D) states of the decoder that the logits were made from.
        top_left: (L, B, Q, 2) x and y of the top-left corner, normalized alike. Pair DETR in training only.
        pair_embeddings: two (P, B, Q, E) of the center and the top-left decoder, of their last P layers. Pair DETR in
            training only.
        mask_queries: of models with masks only.
        groups: K, of queries in training; B then counts each image K times, one after the other. The first of them is
            the group of inference.
        reference: of an auxiliary branch, (B, Q, 2) points that its queries look from.
        is_counted: of an auxiliary branch, (B, Q) bool, false for queries that are no part of the loss; None if all
            are.
        assignment: of an auxiliary branch that is made from the objects.
        auxiliary: predictions of branches beside the main one, by the name of the branch; in training only. A loss term
            that knows the branch supervises them.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor | None = None
    top_left: Tensor | None = None
    pair_embeddings: tuple[Tensor, Tensor] | None = None
    mask_queries: MaskQueries | None = None
    groups: int = 1
    reference: Tensor | None = None
    is_counted: Tensor | None = None
    assignment: Assignment | None = None
    auxiliary: "dict[str, Predictions]" = field(default_factory=dict)
