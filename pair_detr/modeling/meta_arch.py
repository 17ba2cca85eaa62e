"""The meta-architecture: Detectron2's dicts in, losses or Instances out; what it consists of knows tensors."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from pair_detr.config.ranges import ARCHITECTURE
from pair_detr.config.validation import check_values
from pair_detr.config.variants import variant_of
from pair_detr.data import PanopticClasses, resolve_category_ids, resolve_class_names, resolve_num_classes
from pair_detr.losses.build import build_class_scoring
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.criterion import SetCriterion
from pair_detr.losses.image_labels import ImageLabelCriterion, build_image_label_criterion
from pair_detr.losses.matcher import NonFiniteCostError
from pair_detr.modeling import Detector
from pair_detr.modeling.batch_norm import fixed_statistics
from pair_detr.modeling.batching import (
    IMAGE_LABEL_LOSS,
    annotation_kind,
    batch_images,
    draw_noise,
    pack_boxes,
    pack_image_labels,
    pack_masks,
)
from pair_detr.modeling.class_sampling import build_federated_sampler
from pair_detr.modeling.divergence import describe_non_finite_cost, describe_non_finite_queries
from pair_detr.modeling.mask_head import mask_head_factory
from pair_detr.modeling.postprocessing.boxes import detect, finite_queries
from pair_detr.modeling.postprocessing.masks import BatchMasks, segment_instances
from pair_detr.modeling.postprocessing.panoptic import PanopticOptions, build_panoptic, segment_all
from pair_detr.modeling.region_scores import RegionScores, build_region_scores
from pair_detr.modeling.text_classifier import TextClassifier, classifier_factory
from pair_detr.open_vocabulary import Vocabulary, load_vocabulary
from pair_detr.structures import Batch, Predictions, Targets
from pair_detr.utils.device import to_device_async

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class DetectionTransformer(nn.Module):
    """A DETR-style detector as Detectron2 trains and evaluates it; MODEL.DETR.VARIANT chooses which."""

    @configurable
    def __init__(
        self,
        *,
        detector: Detector,
        criterion: SetCriterion,
        class_scoring: ClassScoring,
        num_classes: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        detections_per_image: int,
        duplicate_iou: float = 1.0,
        class_names: list[str] | None = None,
        category_ids: Sequence[int | str] | None = None,
        class_agnostic: bool = False,
        image_label_criterion: ImageLabelCriterion | None = None,
        panoptic: PanopticOptions | None = None,
        freeze_detector: bool = False,
        fixed_size: tuple[int, int] | None = None,
        size_buckets: Sequence[tuple[int, int]] = (),
        seed: int = 0,
    ) -> None:
        """
        Args:
            detector: the network.
            criterion: its losses.
            class_scoring: how the network's logits become scores.
            num_classes: labels of the training data must be below it.
            class_names: of the classes, if known; they are saved with the weights.
            category_ids: of the classes in the files of their data, if known; saved, too.
            pixel_mean: of each channel, in the units of the input images.
            pixel_std: of each channel.
            detections_per_image: at most so many are returned.
            duplicate_iou: see :func:`pair_detr.modeling.postprocessing.boxes.detect`.
            class_agnostic: labels of the training data are all read as class 0.
            image_label_criterion: loss of images with labels, but no boxes; None if there are none.
            panoptic: of a panoptic model; None for others.
            freeze_detector: train the mask head alone.
            fixed_size: height and width that every image is padded to, as a part of it: nothing is masked, and boxes
                are relative to it inside of the model. None pads to the largest image of a batch, and masks that.
            size_buckets: heights and widths, to the smallest of which that holds it a training batch is padded instead.
            seed: of the noise of denoising queries.
        """
        super().__init__()
        self.detector = detector
        self.criterion = criterion
        self.class_scoring = class_scoring
        self.num_classes = num_classes
        self.class_names = class_names
        self.category_ids = category_ids
        self.detections_per_image = detections_per_image
        self.duplicate_iou = duplicate_iou
        self.class_agnostic = class_agnostic
        self.image_label_criterion = image_label_criterion
        self.panoptic = panoptic
        self.freeze_detector = freeze_detector
        self.fixed_size = fixed_size
        self.size_buckets = size_buckets
        self.seed = seed
        self._has_warned = False
        if freeze_detector:
            self.detector.requires_grad_(False)
            self.detector.mask_head.requires_grad_(True)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, vocabulary: Vocabulary | None = None, panoptic_classes: PanopticClasses | None = None
    ) -> dict[str, Any]:
        """Builds the parts that MODEL.DETR describes.

        Args:
            cfg: config.
            vocabulary: in place of the one that MODEL.CLIP describes.
            panoptic_classes: of a panoptic model, in place of those of the datasets.

        Raises:
            ValueError: a key has a value that it cannot have, or MODEL.DETR.NUM_CLASSES is not that of the datasets.
        """
        check_values(cfg, *ARCHITECTURE)
        variant = variant_of(cfg)
        vocabulary = vocabulary or load_vocabulary(cfg)
        class_agnostic = cfg.MODEL.DETR.CLASS_AGNOSTIC
        if class_agnostic and vocabulary:
            raise ValueError(
                "MODEL.DETR.CLASS_AGNOSTIC and MODEL.CLIP.TEXT_WEIGHTS exclude each other: a model that finds boxes "
                "only has no use for texts of classes. Unset one of them."
            )
        if vocabulary:
            num_classes, class_names = len(vocabulary), list(vocabulary.names)
        elif class_agnostic:
            num_classes, class_names = 1, None
        else:
            num_classes, class_names = resolve_num_classes(cfg), resolve_class_names(cfg)
        class_scoring = build_class_scoring(cfg, variant.published_classification, has_texts=vocabulary is not None)
        classifier = classifier_factory(cfg, class_scoring, num_classes, vocabulary)
        detector = variant(cfg, classifier=classifier, mask_head=mask_head_factory(cfg))
        detector.region_scores = build_region_scores(cfg, detector.backbone, class_scoring, vocabulary)
        return {
            "detector": detector,
            "criterion": SetCriterion(cfg, class_scoring, federated_sampler=build_federated_sampler(cfg)),
            "class_scoring": class_scoring,
            "num_classes": num_classes,
            "class_names": class_names,
            "category_ids": resolve_category_ids(cfg, class_names),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "duplicate_iou": cfg.TEST.NMS_THRESH,
            "class_agnostic": class_agnostic,
            "image_label_criterion": build_image_label_criterion(cfg, class_scoring),
            "panoptic": build_panoptic(cfg, num_classes, panoptic_classes),
            "freeze_detector": cfg.MODEL.DETR.MASK.FREEZE_DETECTOR,
            "fixed_size": tuple(cfg.INPUT.FIXED_SIZE) or None,
            "size_buckets": [tuple(size) for size in cfg.INPUT.SIZE_BUCKETS],
            "seed": max(cfg.SEED, 0),
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """Names of the classes of a text classifier; None with a linear one, which knows numbers alone."""
        head = self.detector.class_head
        return head.names if isinstance(head, TextClassifier) else None

    def set_vocabulary(self, names: Sequence[str], weights: Any) -> None:
        """Detects other classes from now on; nothing that was learned changes.

        Args:
            names: C names.
            weights: (C, D) embeddings of their texts, a tensor or an array; of any length.

        Raises:
            TypeError: the classifier is linear.
            ValueError: the weights are not valid, see :class:`Vocabulary`, or have another width than the model's; or
                a panoptic model is given another number of classes.
        """
        head = self.detector.class_head
        if not isinstance(head, TextClassifier):
            raise TypeError(
                "The model's classifier is linear and knows the classes of its training alone. Build (and train) it "
                "with text weights: MODEL.CLIP.TEXT_WEIGHTS."
            )
        vocabulary = Vocabulary(tuple(names), weights)
        if self.panoptic is not None and len(vocabulary) != self.num_classes:
            raise ValueError(
                f"The vocabulary has {len(vocabulary)} classes, but the panoptic model {self.num_classes}, of which it "
                "knows what is a thing and what stuff. Give it texts of these; or build the model with "
                "MODEL.DETR.PANOPTIC.ENABLED False, to detect things with masks."
            )
        for module in self.detector.modules():
            if isinstance(module, (TextClassifier, RegionScores)):
                module.set_vocabulary(vocabulary)
        if list(head.names) != self.class_names:
            self.category_ids = None
        self.num_classes = len(head.names)
        self.class_names = list(head.names)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Computes losses in training, detections otherwise.

        Args:
            batched_inputs: one dict per image, as Detectron2's ``DatasetMapper`` returns it: "image", a (C, H, W)
                tensor in the channels of INPUT.FORMAT; in training "instances" with ``gt_boxes`` (xyxy pixels of that
                image) and ``gt_classes``; in inference "height" and "width", the output size (default: the image's
                own). Images with labels, but no boxes have "ann_type" "image" and "pos_category_ids", a list of
                classes; their "instances", if any, are objects of other classes. They are in batches of their own.

        Returns:
            In training the weighted losses, the same ones for any batch: see :class:`SetCriterion`; "loss_image" of
            :class:`ImageLabelCriterion` where there is one. In inference one {"instances": Instances} per image, with
            ``pred_boxes`` (xyxy pixels, clipped to the output), ``scores`` and ``pred_classes``, best first; with masks
            also ``pred_masks``, (N, height, width) bool. A panoptic model's instances are things alone; it adds
            "panoptic_seg", an (height, width) int32 map of segments, 0 for none, with a list of dicts that describe
            them, and "sem_seg", (channels, height, width) scores of classes, both as Detectron2's evaluators and
            ``Visualizer`` take them.

        Raises:
            FloatingPointError: a cost is not finite; the message names file, layer and the tensor at fault.
        """
        batch = self.preprocess(batched_inputs)
        targets = self.pack_targets(batched_inputs, batch) if self.training else None
        is_labeled = targets is not None and not targets.has_boxes
        is_fixed = is_labeled and self.image_label_criterion.fixes_statistics
        normalization = fixed_statistics(self.detector) if is_fixed else nullcontext()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_detector), normalization:
            predictions = self.detector(batch, targets)
        if not self.training:
            return self.postprocess(predictions, batch, batched_inputs)
        try:
            losses = self.criterion(predictions, targets, self.detector.mask_head)
        except NonFiniteCostError as error:
            raise FloatingPointError(describe_non_finite_cost(error, batched_inputs)) from error
        if self.image_label_criterion is not None:
            losses[IMAGE_LABEL_LOSS] = self.image_label_criterion(predictions, targets, self.detector.class_head)
        return losses

    def train(self, mode: bool = True) -> "DetectionTransformer":
        """Sets the mode of all modules; a frozen detector stays in that of evaluation."""
        super().train(mode)
        if self.freeze_detector:
            self.detector.eval()
            self.detector.mask_head.train(mode)
        return self

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> Batch:
        """Normalizes and pads the images, see :func:`pair_detr.modeling.batching.batch_images`."""

        def normalize(image: Tensor) -> Tensor:
            return (to_device_async(image, self.device) - self.pixel_mean) / self.pixel_std

        return batch_images(batched_inputs, normalize, self.fixed_size, self.size_buckets if self.training else ())

    def pack_targets(self, batched_inputs: list[dict[str, Any]], batch: Batch) -> Targets:
        """Ground truth on the model's device, boxes as normalized cxcywh.

        Args:
            batched_inputs: as of :meth:`forward`.
            batch: their images.

        Raises:
            ValueError: the model does not learn from image labels, or the batch has images of both kinds.
        """
        if annotation_kind(batched_inputs) == "box":
            num_queries = self.detector.query_embed.num_embeddings
            targets = pack_boxes(batched_inputs, batch.frame_sizes, num_queries, self.class_agnostic)
            if self.detector.mask_head is not None:
                targets.masks = pack_masks(batched_inputs, batch.padded_size)
            self._draw_noise(batched_inputs, targets)
            return targets.to(self.device)
        if self.image_label_criterion is None:
            raise ValueError(
                "A batch has image labels, but the model learns from boxes alone: it needs DATALOADER.SAMPLER_TRAIN "
                "MultiDatasetSampler; MODEL.DETR.CLASS_AGNOSTIC and MODEL.DETR.MASK.FREEZE_DETECTOR must be False."
            )
        targets = pack_image_labels(batched_inputs, batch.frame_sizes)
        self._draw_noise(batched_inputs, targets)
        return targets.to(self.device)

    def _draw_noise(self, batched_inputs: list[dict[str, Any]], targets: Targets) -> None:
        """Sets what is random about denoising queries, in models that have any."""
        if (denoising := self.detector.query_builder.denoising) is not None:
            iteration = get_event_storage().iter if has_event_storage() else 0
            per_object = denoising.options.noise_per_object
            targets.noise = draw_noise(batched_inputs, targets.counts, per_object, self.seed, iteration)

    def postprocess(
        self, predictions: Predictions, batch: Batch, batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Instances]]:
        """The best detections of the last layer, in pixels of the output size, with masks if the model has them.

        Queries that predict NaN or infinity are left out, with a warning that names the image; so are empty boxes.
        """
        logits = predictions.logits[-1]
        finite = finite_queries(predictions)
        allowed = finite[..., None]
        if self.panoptic is not None:
            allowed = allowed & torch.tensor(self.panoptic.classes.is_thing, device=logits.device)
        frames, limits = (to_device_async(x, logits.device) for x in (batch.output_frames(), batch.output_limits()))
        limit = self.detections_per_image
        best = detect(predictions, frames, limits, self.class_scoring, limit, allowed, self.duplicate_iou)
        results = [{"instances": instances} for instances in best.instances(batch.output_sizes)]
        kept = best.kept
        if predictions.mask_queries is not None:
            masks = BatchMasks(self.detector.mask_head, predictions.mask_queries, batch)
            for i, result in enumerate(results):
                if self.panoptic is None:
                    result["instances"].pred_masks = segment_instances(masks, i, best.queries[i])
                    continue
                probs = torch.where(finite[i, :, None], self.class_scoring.probabilities(logits[i]), 0)
                result |= segment_all(masks, i, best.queries[i], probs, self.panoptic)
                result["instances"].pred_masks = result.pop("pred_masks")
            finite = finite & masks.finite
            kept = kept & masks.finite.gather(1, best.queries)
        # Waits for the device, which has been given all of its work by now.
        left_out, is_whole = (~finite).sum(1).tolist(), kept.all(1).tolist()
        if any(left_out) and not self._has_warned:
            logger.warning(describe_non_finite_queries(left_out, finite.shape[1], batched_inputs))
            self._has_warned = True
        for result, of_image, whole in zip(results, kept, is_whole, strict=True):
            if not whole:
                result["instances"] = result["instances"][of_image]
        return results
