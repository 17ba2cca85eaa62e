"""Detection with an exported model: called as :class:`pair_detr.Predictor` is, and with the same results."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pair_detr.images.inputs import ImageInput, as_format
from pair_detr.runtime.description import TEXTS_FILE, ModelDescription
from pair_detr.runtime.instances import Instances
from pair_detr.runtime.masks import resize_masks
from pair_detr.runtime.sessions import Session, open_session
from pair_detr.runtime.vocabulary import Texts
from pair_detr.utils.batched import predict_in_order

Prepared = tuple[np.ndarray, tuple[int, int]]


def load(folder: str | PathLike, backend: str | None = None, threads: int = 0) -> "Detector":
    """Loads an exported model.

    Args:
        folder: that ``python -m pair_detr.tools.export`` has written.
        backend: "onnxruntime", "openvino" or "torch"; None takes what the format is made for. OpenVINO also runs ONNX.
            Graphs of torch.export can hide code, so that "torch" has to be asked for.
        threads: of the computation; 0 leaves it to the backend.

    Raises:
        FileNotFoundError: the folder is no exported model, or lacks a file.
        ValueError: a file is damaged or of another release, or the backend cannot run this format.
        ImportError: the backend is not installed.
    """
    folder = Path(folder).expanduser()
    description = ModelDescription.read(folder)
    texts = Texts.read(folder / TEXTS_FILE, description.class_names) if description.text_dim else None
    return Detector(description, open_session(folder, description, backend, threads), texts)


class Detector:
    """Detects objects in images: ``load(folder)(image)``.

    Attributes:
        description: of the model.
        class_names: what it detects, in the order of the labels.
        category_ids: of the classes in the files of their data; None if they are not known.
    """

    def __init__(self, description: ModelDescription, session: Session, texts: Texts | None = None) -> None:
        """
        Args:
            description: of the model.
            session: its graph.
            texts: of the classes, for an open-vocabulary model.
        """
        self.description = description
        self.class_names = list(description.class_names)
        self.category_ids = description.category_ids
        self._session = session
        self._own_texts = self._texts = texts

    def __call__(self, image: ImageInput | Sequence[ImageInput]) -> dict[str, Any] | list[dict[str, Any]]:
        """Detects the objects in an image, or in each of a list of them.

        Args:
            image: path of a file, PIL image, or (H, W, 3) uint8 array in BGR order, whatever the channels of the model;
                see :func:`pair_detr.images.inputs.as_format`, also for the errors. Or a list of these.

        Returns:
            {"instances": :class:`Instances`}, best first; of a list a list of them.
        """
        if isinstance(image, (list, tuple)):
            return list(self.stream(image))
        return self.predict([self.prepare(image)])[0]

    def stream(
        self,
        images: Iterable[ImageInput],
        batch_size: int = 8,
        *,
        window: int | None = None,
        num_threads: int = 2,
        max_padding: float = 0.0,
    ) -> Iterator[dict[str, Any]]:
        """Detects the objects in any number of images, in batches; results come one by one, in the order of the images.

        For the arguments, and for errors, see :meth:`pair_detr.Predictor.stream`.
        """
        return predict_in_order(
            images, self.prepare_sized, self.predict, batch_size, window, num_threads, max_padding=max_padding
        )

    def prepare(self, image: ImageInput) -> Prepared:
        """Pixels (h, w, C) at the size of the model, and height and width of the given image."""
        pixels = as_format(image, self.description.image_format)
        return self.description.resizing.apply(pixels), pixels.shape[:2]

    def prepare_sized(self, image: ImageInput) -> tuple[Prepared, tuple[int, int]]:
        """:meth:`prepare`, and the height and width that the image has in a batch of its like."""
        prepared = self.prepare(image)
        return prepared, self.description.resizing.within or prepared[0].shape[:2]

    def predict(self, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
        """Results of a batch of what :meth:`prepare` returns."""
        if not prepared:
            return []
        sizes = np.array([pixels.shape[:2] for pixels, _ in prepared], dtype=np.int64)
        padded = self.description.padded_size(*sizes.max(0).tolist())
        images = np.zeros((len(prepared), prepared[0][0].shape[2], *padded), dtype=np.uint8)
        for row, (pixels, _) in zip(images, prepared, strict=True):
            row[:, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
        inputs = {"images": images, "sizes": sizes}
        if self._texts is not None:
            inputs["texts"] = self._texts.weights
        outputs = dict(zip(self.description.outputs, self._session.run(inputs), strict=True))
        to_instances = partial(self._instances, padded_size=padded)
        columns = (outputs[name] for name in self.description.outputs)
        found = zip(sizes.tolist(), (size for _, size in prepared), *columns, strict=True)
        return [{"instances": to_instances(tuple(size), *rest)} for size, *rest in found]

    def set_vocabulary(self, vocabulary: Any, weights: np.ndarray | None = None) -> None:
        """Detects other classes from now on.

        Args:
            vocabulary: names, all of them among those that the model was exported with; or the path of text weights
                that ``python -m pair_detr.tools.text_weights`` has written; or an object with ``names`` and
                ``weights``, as :class:`pair_detr.open_vocabulary.Vocabulary`; or names whose ``weights`` are given.
            weights: (C, D) embeddings of the texts of as many names, of any length.

        Raises:
            ValueError: the model has a linear classifier, a name is not known, or the weights do not fit; or a panoptic
                model is given another number of classes.
        """
        if self._own_texts is None:
            raise ValueError(
                "The exported model has a linear classifier, which cannot take other classes: export one that was "
                "trained with text weights (MODEL.CLIP.TEXT_WEIGHTS)."
            )
        texts = self._own_texts.resolve(vocabulary, weights)
        if self.description.fixed_classes and len(texts.names) != len(self.description.class_names):
            raise ValueError(
                f"The vocabulary has {len(texts.names)} classes, but the panoptic model {len(self.class_names)}, of "
                "which it knows what is a thing and what stuff: give it texts of these."
            )
        self._texts = texts
        self.class_names = list(self._texts.names)
        is_own = self.class_names == self.description.class_names
        self.category_ids = self.description.category_ids if is_own else None

    def _instances(
        self,
        size: tuple[int, int],
        output_size: tuple[int, int],
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        masks: np.ndarray | None = None,
        *,
        padded_size: tuple[int, int],
    ) -> Instances:
        """The detections of an image of that size in the batch, in pixels of the given image."""
        scale = np.array(output_size, dtype=np.float32) / np.array(size, dtype=np.float32)
        kept = labels >= 0
        return Instances(
            image_size=tuple(output_size),
            pred_boxes=boxes[kept] * np.tile(scale[::-1], 2),
            scores=scores[kept],
            pred_classes=labels[kept].astype(np.int64),
            pred_masks=None if masks is None else resize_masks(masks[kept], padded_size, size, tuple(output_size)),
        )
