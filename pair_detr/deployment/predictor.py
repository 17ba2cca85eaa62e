"""An exported model where a :class:`pair_detr.Predictor` is expected."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from detectron2.data import Metadata

from pair_detr import runtime
from pair_detr.images.inputs import ImageInput
from pair_detr.runtime.detector import Prepared


class ExportedPredictor:
    """Detects with an exported model, and returns Detectron2's ``Instances``.

    Attributes:
        detector: see :func:`pair_detr.runtime.load`.
        category_ids: as of :class:`pair_detr.Predictor`.
        metadata: likewise, for Detectron2's ``Visualizer``.
    """

    def __init__(
        self, folder: str | PathLike, vocabulary: Sequence[str] | None = None, backend: str | None = None
    ) -> None:
        """
        Args:
            folder: see :func:`pair_detr.runtime.load`, also for ``backend`` and for the errors.
            vocabulary: see :meth:`pair_detr.runtime.Detector.set_vocabulary`; None takes the classes of the export.
        """
        self.detector = runtime.load(folder, backend)
        if vocabulary is not None:
            self.detector.set_vocabulary(vocabulary)
        self.category_ids = self.detector.category_ids
        self.metadata = Metadata(name="exported", thing_classes=list(self.detector.class_names))

    def prepare_sized(self, image: ImageInput) -> tuple[Prepared, tuple[int, int]]:
        """See :meth:`pair_detr.runtime.Detector.prepare_sized`."""
        return self.detector.prepare_sized(image)

    def predict(self, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
        """Results of a batch of what :meth:`prepare_sized` returns first."""
        return [{"instances": found["instances"].to_detectron2()} for found in self.detector.predict(prepared)]
