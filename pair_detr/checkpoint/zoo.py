"""Published weights by short names: ``MODEL.WEIGHTS zoo://conditional_detr_r50``."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

from pair_detr.utils.checksums import sha256_of

SCHEME = "zoo://"
_DETR = "https://dl.fbaipublicfiles.com/detr/"


@dataclass(frozen=True)
class ZooEntry:
    """Weights that others have published.

    Attributes:
        config: the config of this package that they fit.
        source: where they are: an address that MODEL.WEIGHTS takes.
        license: of the weights, as their publisher says.
        published: results on COCO val2017, as their publisher says.
        publisher: who says so.
        sha256: of the file, or its first digits; "" where it is not published.
        settings: config entries that they need, and that neither tensors nor file tell.
    """

    config: str
    source: str
    license: str
    published: str
    publisher: str
    sha256: str = ""
    settings: tuple[tuple[str, int], ...] = ()


class ZooError(ValueError):
    """A name is not in the zoo, or a file is not the one that was published."""


def _detr(config: str, file: str, published: str, *, dilation: int = 1, depth: int = 50) -> ZooEntry:
    # Names of torch.hub's files end with the first digits of their SHA-256.
    digits = file.removesuffix(".pth").rpartition("-")[2]
    settings = (("MODEL.RESNETS.RES5_DILATION", dilation), ("MODEL.RESNETS.DEPTH", depth))
    return ZooEntry(config, _DETR + file, "Apache-2.0", published, "facebookresearch/detr", digits, settings)


ZOO: dict[str, ZooEntry] = {
    "conditional_detr_r50": ZooEntry(
        config="conditional_detr/r50",
        source="hub://microsoft/conditional-detr-resnet-50",
        license="Apache-2.0",
        # Which of its schedules (50, 75 or 108 epochs) the file is of is not said.
        published="AP 40.9 to 43.0",
        publisher="Atten4Vis/ConditionalDETR",
    ),
    "detr_r50": _detr("detr/r50", "detr-r50-e632da11.pth", "AP 42.0"),
    "detr_dc5_r50": _detr("detr/dc5_r50", "detr-r50-dc5-f0fb7ef5.pth", "AP 43.3", dilation=2),
    "detr_r101": _detr("detr/r101", "detr-r101-2c7b67e5.pth", "AP 43.5", depth=101),
    "detr_dc5_r101": _detr("detr/dc5_r101", "detr-r101-dc5-a2e86def.pth", "AP 44.9", dilation=2, depth=101),
    "detr_panoptic_r50": _detr("detr/panoptic_r50", "detr-r50-panoptic-00ce5173.pth", "PQ 43.4"),
    "detr_panoptic_dc5_r50": _detr("detr/panoptic_r50", "detr-r50-dc5-panoptic-da08f1b1.pth", "PQ 44.6", dilation=2),
    "detr_panoptic_r101": _detr("detr/panoptic_r50", "detr-r101-panoptic-40021d53.pth", "PQ 45.1", depth=101),
}


class ZooHandler(PathHandler):
    """Fetches the weights of a name from their source, and compares them with their checksum, if there is one."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        entry = find_entry(path)
        local = PathManager.get_local_path(entry.source)
        if entry.sha256:
            _require_checksum(Path(local), entry.sha256, entry.source)
        return local

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return Path(self._get_local_path(path)).open(mode, buffering)


def find_entry(weights: str) -> ZooEntry:
    """The entry of an address ``zoo://name``.

    Raises:
        ZooError: there is none of the name; the message lists those that there are.
    """
    name = weights.removeprefix(SCHEME)
    if name not in ZOO:
        close = get_close_matches(name, ZOO, n=1)
        hint = f"did you mean {SCHEME}{close[0]}? " if close else ""
        raise ZooError(f"the zoo has no {name}; {hint}There are {', '.join(ZOO)}")
    return ZOO[name]


def settings_of(weights: str) -> dict[str, Any]:
    """Config entries that weights of the zoo need, and that their file does not tell; none of other weights."""
    return dict(find_entry(weights).settings) if weights.startswith(SCHEME) else {}


def source_of(weights: str) -> str:
    """The source of an address of the zoo; other weights as they are."""
    return find_entry(weights).source if weights.startswith(SCHEME) else weights


def _require_checksum(file: Path, sha256: str, source: str) -> None:
    found = sha256_of(file)
    if not found.startswith(sha256):
        raise ZooError(
            f"{file} is not the file that was published at {source}: its SHA-256 is {found} and should "
            f"start with {sha256}. Remove it, and it is downloaded again"
        )
