"""What is exported: a module of tensors alone, from images to detections, for any number and size of them."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pair_detr.deployment.same_padding import make_padding_constant, pads_by_size
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.modeling.postprocessing.boxes import detect, finite_queries
from pair_detr.modeling.text_classifier import TextClassifier
from pair_detr.structures import Batch


class DetectionGraph(nn.Module):
    """A model between its Python parts: normalization, detector, choice of the best detections.

    Inputs and outputs are those of :meth:`forward`; for what they stand for beyond a program see docs/deployment.md.
    """

    def __init__(self, model: DetectionTransformer, top_k: int) -> None:
        """
        Args:
            model: in evaluation mode; its backbone is changed where it pads by the size of images.
            top_k: K, detections of each image; fewer if the model can make fewer, and with a text classifier, which may
                be given a single class, if it has fewer queries.
        """
        super().__init__()
        self.detector = model.detector
        self._size_divisor = self.smallest_side // 2 if pads_by_size(self.detector.backbone) else 1
        make_padding_constant(self.detector.backbone)
        self.class_scoring = model.class_scoring
        self.spans_padding = model.fixed_size is not None
        self.duplicate_iou = model.duplicate_iou
        classes = None if model.panoptic is None else model.panoptic.classes.is_thing
        self.register_buffer("is_thing", None if classes is None else torch.tensor(classes), persistent=False)
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        heads = self.detector.named_modules()
        self.text_buffers = [f"{name}.texts" for name, head in heads if isinstance(head, TextClassifier)]
        self.top_k = min(top_k, self.detector.query_embed.num_embeddings) if self.text_buffers else top_k

    @property
    def smallest_side(self) -> int:
        """Pixels that height and width have to have at least: a graph takes two cells for many, and one for a case."""
        return 2 * self.detector.backbone.output_shape()[self.detector.in_feature].stride

    @property
    def size_divisor(self) -> int:
        """What height and width have to be multiples of.

        It is 1, but for backbones with TensorFlow's padding, see :func:`make_padding_constant`.
        """
        return self._size_divisor

    @property
    def output_names(self) -> list[str]:
        """Of the outputs, in their order."""
        return ["boxes", "scores", "labels"] + (["masks"] if self.detector.mask_head is not None else [])

    def forward(self, images: Tensor, sizes: Tensor, texts: Tensor | None = None) -> tuple[Tensor, ...]:
        """Detects objects.

        Args:
            images: (B, C, H, W) uint8 or floating, in the channels of INPUT.FORMAT and 0 to 255, with any values in
                the padding at the right and at the bottom.
            sizes: (B, 2) int64, height and width of each image without its padding.
            texts: (C, D) text embeddings of the classes, of any length; for models with a text classifier.

        Returns:
            ``boxes``, (B, K, 4) fp32 xyxy in pixels of the images, clipped to them; ``scores``, (B, K) fp32, best
            first; ``labels``, (B, K) int64, -1 where there is no detection; with masks ``masks``, (B, K, h, w) fp32
            logits over the padded images at the stride of the finest feature map.
        """
        height, width = images.shape[-2:]
        below = torch.arange(height, device=images.device) >= sizes[:, :1]
        beside = torch.arange(width, device=images.device) >= sizes[:, 1:]
        padding = below[:, :, None] | beside[:, None, :]
        dtype = self.detector.input_proj.weight.dtype
        normalized = (images.to(torch.float32) - self.pixel_mean) / self.pixel_std
        normalized = normalized.masked_fill(padding[:, None], 0).to(dtype)
        limits = sizes.flip(-1).to(torch.float32)
        frames = limits
        if self.spans_padding:
            frames = torch.tensor([width, height], dtype=torch.float32, device=images.device).expand_as(limits)
        # Sizes as numbers would be constants of the graph: the network asks for none of them.
        batch = Batch(normalized, None if self.spans_padding else padding, [], [], self.spans_padding)
        state = {}
        if texts is not None:
            rows = nn.functional.normalize(texts.to(torch.float32), dim=-1)
            state = dict.fromkeys(self.text_buffers, rows)
        predictions = functional_call(self.detector, state, (batch,))
        allowed = finite_queries(predictions)[..., None]
        if self.is_thing is not None:
            allowed = allowed & self.is_thing
        pixels = frames.repeat(1, 2), limits.repeat(1, 2)
        best = detect(predictions, *pixels, self.class_scoring, self.top_k, allowed, self.duplicate_iou)
        outputs = best.boxes, best.scores, best.labels.masked_fill(~best.kept, -1)
        if predictions.mask_queries is None:
            return outputs
        masks = self.detector.mask_head(predictions.mask_queries, best.queries, None)
        return *outputs, masks.to(torch.float32).unflatten(0, best.queries.shape)
