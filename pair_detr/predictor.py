"""Detection in images, with Detectron2's ``DefaultPredictor`` as the model; batches and any classes on top.

In three lines::

    from pair_detr import Predictor
    predictor = Predictor("output/pair_detr/r50/model_final.pth")
    instances = predictor("street.jpg")["instances"]

Of many images: ``for result in predictor.stream(paths): ...``, or ``predictor("photos/")`` for a folder.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.data import transforms as T
from detectron2.modeling import META_ARCH_REGISTRY

from pair_detr.checkpoint.self_description import config_of, panoptic_classes_of
from pair_detr.checkpoint.weights import Weights, load_weights, read_weights, require_weights
from pair_detr.config.validation import check_config
from pair_detr.config_files import load_config
from pair_detr.data import build_augmentation
from pair_detr.data.model_classes import category_ids_if_at_hand
from pair_detr.images.downloads import download_image, is_url
from pair_detr.images.inputs import ImageInput, as_format
from pair_detr.images.reading import find_images
from pair_detr.inference import prepare_for_inference
from pair_detr.open_vocabulary import Vocabulary, build_text_encoder, class_list, encode_classes, load_vocabulary
from pair_detr.structures import Size
from pair_detr.utils.batched import predict_in_order

logger = logging.getLogger(__name__)


class Predictor:
    """Detects objects in images: ``Predictor(cfg, vocabulary=["helmet", "forklift"])(image)``.

    Attributes:
        model: with the weights of MODEL.WEIGHTS, see :func:`pair_detr.prepare_for_inference`.
        datasets: names of the datasets of the config, which need not be there.
        category_ids: of the classes in the files of their data, as the checkpoint or a dataset of the config says;
            None if neither does.
        threshold: least score of a detection; may be set at any time.
        allow_urls: whether addresses of the web are downloaded.
        metadata: for Detectron2's ``Visualizer``: ``thing_classes`` are the names of the classes, and
            ``thing_dataset_id_to_contiguous_id`` has their ids, if known; a panoptic model also has ``stuff_classes``
            and ``stuff_dataset_id_to_contiguous_id``.
    """

    def __init__(
        self,
        cfg: CfgNode | str | Path,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        precision: str | None = None,
        compile: bool = False,
        threshold: float = 0.0,
        one_class_per_query: bool | None = None,
        allow_urls: bool = False,
    ) -> None:
        """
        Args:
            cfg: config of the model, of which MODEL.WEIGHTS is the checkpoint; or weights alone, as MODEL.WEIGHTS
                takes them, whose config is found by :func:`pair_detr.checkpoint.self_description.config_of`.
            vocabulary: what to detect: names, or a vocabulary with weights. Names that are all in MODEL.CLIP's
                vocabulary take its weights; others are encoded by MODEL.CLIP.ENCODER, whose weights have to be in the
                file MODEL.CLIP.CHECKPOINT. None takes the classes that the config describes.
            precision: see :func:`pair_detr.prepare_for_inference`, also for ``compile``. None takes TEST.PRECISION,
                which is fp32 by default: the same results on every machine, but for rounding.
            threshold: least score of a detection, 0 to 1; the segments of a panoptic model have their own in
                MODEL.DETR.PANOPTIC.SCORE_THRESHOLD.
            one_class_per_query: return each query under its best class alone; None takes TEST.ONE_CLASS_PER_QUERY.
            allow_urls: also take addresses of the web as images, and download them; see
                :func:`pair_detr.images.downloads.download_image`.

        Raises:
            ValueError: the threshold is out of its range; the config has a linear classifier, and ``vocabulary`` is
                given; names cannot be encoded; or see :func:`pair_detr.config.validation.check_config`.
            FileNotFoundError: a file that the config names does not exist.
            CheckpointError: weights alone do not tell their config.
        """
        self.cfg = cfg.clone() if isinstance(cfg, CfgNode) else config_of(str(cfg))
        self.cfg.defrost()
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be from 0 to 1.")
        if one_class_per_query is not None:
            self.cfg.TEST.ONE_CLASS_PER_QUERY = one_class_per_query
        self.threshold = threshold
        self.allow_urls = allow_urls
        check_config(self.cfg)
        build = META_ARCH_REGISTRY.get(self.cfg.MODEL.META_ARCHITECTURE)
        options: dict[str, Any] = {} if vocabulary is None else {"vocabulary": self._resolve(vocabulary)}
        weights = None
        if self.cfg.MODEL.WEIGHTS:
            require_weights(self.cfg)
            weights = read_weights(self.cfg.MODEL.WEIGHTS, self.cfg.MODEL.DETR.NUM_CLASSES)
        else:
            logger.warning("MODEL.WEIGHTS is empty: the predictor has random weights.")
        self.datasets = tuple(dict.fromkeys((*self.cfg.DATASETS.TEST, *self.cfg.DATASETS.TRAIN)))
        self._weights_classes = (weights.class_names, weights.category_ids) if weights else (None, None)
        self._names = self._take_classes(weights)
        if weights and not self.datasets and self.cfg.MODEL.DETR.PANOPTIC.ENABLED:
            options["panoptic_classes"] = panoptic_classes_of(weights.metadata)
        model = build(self.cfg, **options).to(self.cfg.MODEL.DEVICE).eval()
        if weights:
            load_weights(model, weights, complete=True)
        self.model = prepare_for_inference(model, precision or self.cfg.TEST.PRECISION, compile)
        self.augmentation = T.AugmentationList(build_augmentation(self.cfg, is_train=False))
        self._name_classes()

    @classmethod
    def from_files(
        cls,
        config_file: str,
        weights: str,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        options: Sequence[str] = (),
        precision: str | None = None,
        compile: bool = False,
    ) -> "Predictor":
        """A predictor of a config file and a checkpoint, from which the names of the classes come.

        Args:
            config_file: see :func:`pair_detr.config_files.load_config`, also for ``options``.
            weights: MODEL.WEIGHTS.
            vocabulary: see the constructor, also for ``precision`` and ``compile``.

        Raises:
            FileNotFoundError, ValueError, KeyError: as the constructor and ``load_config``.
        """
        cfg = load_config(config_file, [*options, "MODEL.WEIGHTS", weights])
        return cls(cfg, vocabulary, precision, compile)

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str]) -> None:
        """Detects other classes from now on; for argument and errors see the constructor."""
        vocabulary = self._resolve(vocabulary)
        self.model.set_vocabulary(vocabulary.names, vocabulary.weights)
        self._name_classes()

    @overload
    def __call__(self, image: ImageInput, *, recursive: bool = False) -> Any: ...

    @overload
    def __call__(self, image: Sequence[ImageInput], *, recursive: bool = False) -> list[dict[str, Any]]: ...

    def __call__(
        self, image: ImageInput | Sequence[ImageInput], *, recursive: bool = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Detects the objects in an image, or in a list or folder of them in batches, see :meth:`stream`.

        Args:
            image: path of a file, PIL image, or (H, W, 3) uint8 array in BGR order, whatever the INPUT.FORMAT of the
                model; of gray and RGBA models also arrays in their own channels. See
                :func:`pair_detr.images.inputs.as_format`, also for the errors. With ``allow_urls`` also an address.
                Or a list of these; or a folder, for all images in it, by name.
            recursive: of a folder, also the images in folders in it.

        Returns:
            Of an image, {"instances": Instances} with ``pred_boxes`` (xyxy pixels of the upright image), ``scores`` and
            ``pred_classes``, best first; and with masks and for panoptic models what
            :meth:`pair_detr.modeling.meta_arch.DetectionTransformer.forward` adds. Of a list, a list of these; of a
            folder, too, each with its "file_name".
        """
        if isinstance(image, (list, tuple)) or _is_folder(image):
            return list(self.stream(image, recursive=recursive))
        return self.predict([self.prepare(image)])[0]

    def stream(
        self,
        images: Iterable[ImageInput] | str | Path,
        batch_size: int = 8,
        *,
        recursive: bool = False,
        window: int | None = None,
        num_threads: int = 2,
        max_padding: float = 0.0,
    ) -> Iterator[dict[str, Any]]:
        """Detects the objects in any number of images, in batches; results come one by one, in the order of the images.

        Files are read and images resized in threads, while the model is busy with others. Images of one aspect ratio
        share a batch, so that each has the result that it has alone, but for rounding.

        Args:
            images: as :meth:`__call__` takes them, from a list, a generator or any iterator; or a folder. An array must
                not be written to before its result is there.
            batch_size: the most images of a batch.
            recursive: see :meth:`__call__`.
            window: the most images, and results that wait for their turn, in memory; None is four batches. The images
                of a batch are chosen among them. Use 1 for a live camera: no image is read ahead.
            num_threads: that read and resize.
            max_padding: the largest share of padding in a batch. Above 0, images of different sizes share batches,
                which are larger; detections next to the padding then change a little.

        Raises:
            FileNotFoundError: a folder has no images.
            OSError, TypeError, ValueError: as :meth:`__call__`, when it is the image's turn; results of the images
                before it have been given out.
        """
        if isinstance(images, (str, Path)):
            images = _images_in(Path(images).expanduser(), recursive) if _is_folder(images) else [images]
            files = [str(file) for file in images]
        else:
            files = None
        results = predict_in_order(
            images, self.prepare_sized, self.predict, batch_size, window, num_threads, max_padding=max_padding
        )
        return results if files is None else _with_file_names(results, files)

    @torch.no_grad()
    def predict(self, prepared: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of a batch of what :meth:`prepare` returns."""
        if not prepared:
            return []
        results = self.model(list(prepared))
        if self.threshold > 0:
            for result in results:
                found = result["instances"]
                result["instances"] = found[found.scores >= self.threshold]
        return results

    def prepare(self, image: ImageInput) -> dict[str, Any]:
        """The model's input: "image", (C, h, w) at the size of the model; "height" and "width" of the given image."""
        if is_url(image):
            if not self.allow_urls:
                raise ValueError(f"{image} is an address of the web, which is not opened without allow_urls=True.")
            image = download_image(image)
        pixels = as_format(image, self.cfg.INPUT.FORMAT)
        height, width = pixels.shape[:2]
        inputs = T.AugInput(np.ascontiguousarray(pixels))
        self.augmentation(inputs)
        # A copy: Pillow's arrays cannot be written to, which torch warns of.
        resized = torch.from_numpy(np.array(inputs.image.transpose(2, 0, 1), order="C"))
        return {"image": resized, "height": height, "width": width}

    def prepare_sized(self, image: ImageInput) -> tuple[dict[str, Any], Size]:
        """:meth:`prepare`, and the height and width that the image has in a batch of its like."""
        prepared = self.prepare(image)
        height, width = prepared["image"].shape[-2:]
        # There, padding is a part of the image, and all images are of one size.
        return prepared, self.model.fixed_size or (height, width)

    def _take_classes(self, weights: Weights | None) -> list[str] | None:
        """Names of the classes that weights of a linear classifier bring along; the datasets then play no part."""
        detr = self.cfg.MODEL.DETR
        if not weights or not weights.class_names or self.cfg.MODEL.CLIP.TEXT_WEIGHTS or detr.CLASS_AGNOSTIC:
            return None
        names = list(weights.class_names)
        if detr.NUM_CLASSES not in (0, len(names)):
            return None
        detr.NUM_CLASSES = len(names)
        if not detr.PANOPTIC.ENABLED:  # Only the dataset tells things from stuff.
            self.cfg.DATASETS.TRAIN = self.cfg.DATASETS.TEST = ()
        return names

    def _name_classes(self) -> None:
        # Where the model took its classes from data, rows of weights with another order have been brought to theirs.
        names = self.model.vocabulary or self.model.class_names or self._names
        if names is None:
            names = [f"class {i}" for i in range(self.model.num_classes)]
        self.category_ids = self._find_category_ids(names)
        self.metadata = Metadata(name="predictor", thing_classes=list(names))
        classes = None if self.model.panoptic is None else self.model.panoptic.classes
        if classes is not None:
            self.metadata.set(stuff_classes=classes.stuff_names)
        if self.category_ids is not None:
            is_thing = [True] * len(names) if classes is None else classes.is_thing
            indices = range(len(names)) if classes is None else classes.category_ids
            for kind, key in ((True, "thing"), (False, "stuff")):
                kinds = zip(self.category_ids, indices, is_thing, strict=True)
                ids = {own: index for own, index, thing in kinds if thing == kind}
                self.metadata.set(**{f"{key}_dataset_id_to_contiguous_id": ids})

    def _find_category_ids(self, names: Sequence[str]) -> list[int | str] | None:
        known, ids = self._weights_classes
        if ids and list(names) == list(known or ()):
            return list(ids)
        datasets = () if self.model.class_agnostic else self.datasets
        found = (category_ids_if_at_hand(name, names) for name in datasets)
        return next((list(ids) for ids in found if ids is not None), None)

    def _resolve(self, vocabulary: Vocabulary | Sequence[str]) -> Vocabulary:
        clip = self.cfg.MODEL.CLIP
        if not clip.TEXT_WEIGHTS:
            raise ValueError(
                "The config describes a model with a linear classifier, which cannot take other classes: "
                "MODEL.CLIP.TEXT_WEIGHTS is empty. Use the config of a model that was trained with text weights."
            )
        if isinstance(vocabulary, Vocabulary):
            return vocabulary
        if isinstance(vocabulary, str):
            raise ValueError(f"vocabulary is the text {vocabulary!r}; give a list of class names.")
        classes = class_list(vocabulary)
        names = list(classes)
        # With a text encoder at hand the config's text weights are not needed.
        if not clip.CHECKPOINT or Path(clip.TEXT_WEIGHTS).expanduser().is_file():
            known = load_vocabulary(self.cfg)
            unknown = [name for name, i in zip(names, known.find(names), strict=True) if i is None]
            if not unknown:
                return known.select(names)
            if not clip.CHECKPOINT:
                raise ValueError(
                    f"{', '.join(unknown)}: not among the {len(known)} classes of {clip.TEXT_WEIGHTS}. To encode new "
                    f"names set MODEL.CLIP.CHECKPOINT to a file with the weights of {clip.ENCODER}; or make text "
                    'weights with "python -m pair_detr.tools.text_weights" where they are, and give '
                    "Vocabulary.load(FILE)."
                )
        return encode_classes(build_text_encoder(clip.ENCODER, clip.CHECKPOINT), classes, clip.PROMPTS)


def _is_folder(image: object) -> bool:
    return isinstance(image, (str, Path)) and not is_url(image) and Path(image).expanduser().is_dir()


def _images_in(folder: Path, recursive: bool) -> list[Path]:
    if files := find_images(folder, recursive):
        return files
    remedy = "name another folder" if recursive else "recursive=True also takes those in its folders"
    raise FileNotFoundError(f"{folder} has no images: {remedy}.")


def _with_file_names(results: Iterator[dict[str, Any]], files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for file, result in zip(files, results, strict=True):
        yield {"file_name": file, **result}
