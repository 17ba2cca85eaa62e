"""The JSON file that lies next to an exported graph, and says what its inputs and outputs stand for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pair_detr.images.resizing import Resizing
from pair_detr.utils.json_files import read_json, write_json

FILE_NAME = "model.json"
TEXTS_FILE = "texts.npy"
# What a reader of another release has to know; raised by changes that it would misread.
LAYOUT = 1
PRECISIONS = ("fp32", "fp16", "bf16")
# The graph's file in its folder, by the format.
GRAPH_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch_export": "model.pt2"}


@dataclass(frozen=True)
class ModelDescription:
    """What a graph was exported from.

    Attributes:
        format: one of :data:`GRAPH_FILES`.
        precision: of the computation: "fp32", "fp16" or "bf16".
        variant: MODEL.DETR.VARIANT.
        image_format: channels of the images, as INPUT.FORMAT.
        resizing: how images are brought to the size of the model.
        class_names: of the labels, in their order.
        category_ids: of the classes in the files of their data; None if they are not known.
        outputs: names of the outputs of the graph.
        smallest_side: pixels that height and width of a batch have to have at least, with padding.
        size_divisor: what they have to be multiples of.
        text_dim: columns of the text matrix, an input of the graph; 0 for a model without.
        fixed_classes: whether the number of classes is a constant: without texts, and of panoptic models.
        version: of pair_detr that exported it.
    """

    format: str
    precision: str
    variant: str
    image_format: str
    resizing: Resizing
    class_names: list[str]
    category_ids: list[int | str] | None
    outputs: list[str]
    smallest_side: int
    size_divisor: int
    text_dim: int
    fixed_classes: bool
    version: str

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a batch whose largest images have these."""
        if self.resizing.within is not None:
            return self.resizing.within
        divisor = self.size_divisor
        sides = (-(-max(side, self.smallest_side) // divisor) * divisor for side in (height, width))
        return tuple(sides)

    def write(self, folder: Path) -> None:
        """Writes :data:`FILE_NAME`."""
        write_json({"layout": LAYOUT, **asdict(self)}, folder / FILE_NAME)

    @classmethod
    def read(cls, folder: Path) -> "ModelDescription":
        """Reads :data:`FILE_NAME`.

        Raises:
            FileNotFoundError: the folder is no exported model.
            ValueError: the file is damaged, or of another layout.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is no exported model: it has no {FILE_NAME}. Name the --output of "
                '"python -m pair_detr.tools.export".'
            )
        content = read_json(path)
        if not isinstance(content, Mapping) or content.get("layout") != LAYOUT:
            found = content.get("layout") if isinstance(content, Mapping) else None
            raise ValueError(
                f"{path} has the layout {found!r}, but this release reads {LAYOUT}: export the model again with it."
            )
        try:
            return cls(**_values(content))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): export the model again.") from error


def _values(content: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in content.items() if key != "layout"}
    if values["format"] not in GRAPH_FILES:
        raise ValueError(f"format is {values['format']!r}, not one of {', '.join(GRAPH_FILES)}")
    for names in ("class_names", "outputs"):
        if not isinstance(values[names], list) or not all(isinstance(x, str) for x in values[names]):
            raise ValueError(f"{names} is no list of texts")
    for field in fields(ModelDescription):
        if field.type in (str, int, bool) and type(values[field.name]) is not field.type:
            raise ValueError(f"{field.name} is {values[field.name]!r}, no {field.type.__name__}")
    if values["precision"] not in PRECISIONS:
        raise ValueError(f"precision is {values['precision']!r}, not one of {', '.join(PRECISIONS)}")
    resizing = dict(values["resizing"])
    if resizing["within"] is not None:
        height, width = resizing["within"]
        resizing["within"] = int(height), int(width)
    return values | {"resizing": Resizing(int(resizing["shortest"]), int(resizing["longest"]), resizing["within"])}
