"""The page of a report: one HTML file with all pictures inside, which needs no network."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from pair_detr.report.averages import SIZE_LIMITS
from pair_detr.report.content import Content, at_best
from pair_detr.report.error_types import ERROR_TYPES
from pair_detr.report.findings import find
from pair_detr.report.image_outcomes import ImageOutcome
from pair_detr.utils.outputs import MARK

# Longer side of an image in the page, in pixels.
_SIDE = 720
_QUALITY = 85
# A dash, for what is not defined.
_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Picture:
    """An image in the page: its outcome and name, and the URLs of its objects and its detections."""

    outcome: ImageOutcome
    name: str
    truth: str
    found: str


@dataclass(frozen=True)
class Section:
    """The pictures of the "worst" images, or of the "best"."""

    kind: str
    pictures: Sequence[Picture]


def embed_figure(file: Path) -> str:
    """A data URL of a PNG file."""
    return _data_url("image/png", file.read_bytes())


def embed_image(image: np.ndarray) -> str:
    """A data URL of an (H, W, 3) uint8 RGB image, made smaller if it is large."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return _data_url("image/jpeg", buffer.getvalue())


def render(content: Content, about: Mapping[str, str], figures: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The page.

    Args:
        content: what it says.
        about: what was evaluated: lines of a table; "dataset" becomes the title.
        figures: URLs of the figures, by their names.
        sections: of pictures.

    Returns:
        HTML, in which all names are escaped.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": _number, "percent": _percent}
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        mark=MARK,
        about=about,
        content=content,
        at_threshold=content.at_threshold(),
        findings=find(content),
        figures=figures,
        sections=sections,
        classes=[(name, x, at_best(content.class_curves[name])) for name, x in content.by_class.items()],
        error_types=ERROR_TYPES,
        size_limits=SIZE_LIMITS,
    )


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _number(value: float, digits: int = 1) -> str:
    return _NONE if math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.0%}"
