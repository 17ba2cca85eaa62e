"""docs/tools.md and docs/training.md have all tools, and all losses."""

from pathlib import Path

import pytest
from detectron2.modeling import build_model

from pair_detr.config_files import load_config


def test_every_tool_is_listed(project_root: Path) -> None:
    text = (project_root / "docs" / "tools.md").read_text()
    tools = {path.stem for path in (project_root / "pair_detr" / "tools").glob("*.py")} - {"__init__", "common"}
    assert [name for name in sorted(tools) if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.MASK_ON", "True", "MODEL.DETR.DENOISING.GROUPS", "2"],
        ["MODEL.DETR.PAIR.QUERIES_PER_OBJECT", "1", "MODEL.DETR.PAIR.CONTRASTIVE_WEIGHT", "0.2"],
    ],
)
def test_every_loss_is_explained(project_root: Path, options: list[str]) -> None:
    text = (project_root / "docs" / "training.md").read_text()
    cfg = load_config("quickstart", ["MODEL.DETR.NUM_CLASSES", "3", "MODEL.DEVICE", "cpu", *options])
    names = {f"loss_{name}" for term in build_model(cfg).criterion.terms for name in term.weights}
    assert len(names) > 4
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
