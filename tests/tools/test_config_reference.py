"""The reference of config keys: complete, readable, and the one in docs/."""

import re
from pathlib import Path

from detectron2.config import get_cfg
from model_helpers import default_cfg

from pair_detr.modeling.backbone.timm import _SOURCES
from pair_detr.tools import config_reference
from pair_detr.tools.config_reference import Entry, read_entries, to_markdown

SOURCE = """
def f(cfg):
    # About the group,
    # in two lines.
    cfg.A.B = CN()
    # Width | and depth.
    cfg.A.B.WIDTH = 2 ** 3
    cfg.A.B.DEPTH = 4

    cfg.A.B.BARE = "x"
    # Not about a key.

    other = 1
    # Another one.
    cfg.A.LAST = []
    # Any keys.
    cfg.A.FREE = CN(new_allowed=True)
"""


def test_keys_with_their_comments() -> None:
    assert read_entries(SOURCE) == [
        Entry(["A.B"], [None], "About the group, in two lines."),
        Entry(["A.B.WIDTH", "A.B.DEPTH"], ["2 ** 3", "4"], "Width | and depth."),
        Entry(["A.B.BARE"], ["'x'"], ""),
        Entry(["A.LAST"], ["[]"], "Another one."),
        Entry(["A.FREE"], ["{}"], "Any keys."),
    ]


def test_tables() -> None:
    text = to_markdown(read_entries(SOURCE))
    assert "## A.B\n\nAbout the group, in two lines.\n\n| key" in text
    assert "| `WIDTH`<br>`DEPTH` | `2 ** 3`<br>`4` | Width \\| and depth. |" in text
    rows = "| `LAST` | `[]` | Another one. |\n| `FREE` | `{}` | Any keys. |"
    assert f"## A\n\n| key | default | meaning |\n|---|---|---|\n{rows}" in text


def test_the_reference_in_the_documentation(project_root: Path, tmp_path: Path) -> None:
    """It is what the tool writes, and has every key that is added or has another default."""
    config_reference.main(["--output", str(tmp_path / "new" / "reference.md")])
    text = (tmp_path / "new" / "reference.md").read_text()
    found = (project_root / "docs" / "configuration.md").read_text()
    assert found == text, "run: python -m pair_detr.tools.config_reference"
    for key in leaves(default_cfg()) - leaves(get_cfg()):
        assert f"`{key.rpartition('.')[2]}`" in text, key


def test_refused_arguments_of_timm_are_named(project_root: Path) -> None:
    text = (project_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| `KWARGS`")]
    for name in _SOURCES:
        assert re.search(rf"\b{name}\b", row), name


def leaves(cfg: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in cfg.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key}
    return found
