import hashlib
from pathlib import Path

import pytest
import torch
from conversion_helpers import laid_out, tiny_state
from detectron2.utils.file_io import PathManager

from pair_detr.checkpoint import zoo
from pair_detr.checkpoint.formats.registry import layout_named
from pair_detr.checkpoint.self_description import config_of
from pair_detr.checkpoint.weights import read_weights
from pair_detr.checkpoint.zoo import ZOO, ZooEntry, ZooError
from pair_detr.config_files import load_config
from pair_detr.utils.checksums import sha256_of


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of an entry "tiny_detr", as DETR's authors would have published it."""
    file = tmp_path / "tiny.pth"
    torch.save({"model": laid_out(tiny_state("detr"), layout_named("official DETR"))}, file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    settings = (("MODEL.RESNETS.RES5_DILATION", 2),)
    entry = ZooEntry("detr/r50", str(file), "Apache-2.0", "AP 1.0", "nobody", digits, settings)
    monkeypatch.setitem(ZOO, "tiny_detr", entry)
    return file


def test_name_stands_for_the_published_file(published: Path) -> None:
    weights = read_weights("zoo://tiny_detr")
    expected = tiny_state("detr")["detector.class_head.weight"]
    assert torch.equal(weights.state["detector.class_head.weight"], expected)
    # The file does not tell, but the table does.
    assert weights.required_config["MODEL.RESNETS.RES5_DILATION"] == 2
    assert "MODEL.RESNETS.RES5_DILATION" not in read_weights(str(published)).required_config


def test_another_file_is_refused(published: Path) -> None:
    torch.save({"model": tiny_state("detr")}, published)
    sha256_of.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"tiny\.pth is not the file that was published at .* Remove it, and"):
        read_weights("zoo://tiny_detr")


def test_unknown_name() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"has no detr_r5; did you mean zoo://detr_r50\? There are conditional_"
    ):
        read_weights("zoo://detr_r5")
    with pytest.raises(ZooError, match="the zoo has no yolo; There are"):
        PathManager.get_local_path("zoo://yolo")


@pytest.mark.parametrize("name", ZOO)
def test_entries(name: str) -> None:
    """An entry is of a config that fits it, by its name and by what its file does not tell."""
    entry = ZOO[name]
    cfg = config_of(f"zoo://{name}")
    assert f"zoo://{name}" == cfg.MODEL.WEIGHTS
    assert name.startswith(cfg.MODEL.DETR.VARIANT)
    assert ("panoptic" in name) == cfg.MODEL.DETR.PANOPTIC.ENABLED
    assert f"r{cfg.MODEL.RESNETS.DEPTH}" == name.rpartition("_")[2]
    assert 1 + ("dc5" in name) == cfg.MODEL.RESNETS.RES5_DILATION
    plain = load_config(entry.config).MODEL.RESNETS
    if "panoptic" not in name:
        assert plain == cfg.MODEL.RESNETS
    assert entry.license == "Apache-2.0"
    assert entry.source.startswith(("hub://", "https://"))
    assert not entry.sha256 or entry.source.removesuffix(".pth").endswith(f"-{entry.sha256}")


def test_the_document_has_the_table(project_root: Path) -> None:
    text = (project_root / "docs/model_zoo.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| `{zoo.SCHEME}")]
    assert len(rows) == len(ZOO)
    for row, (name, entry) in zip(rows, ZOO.items(), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:3] == [f"`zoo://{name}`", f"`configs/{entry.config}.yaml`", entry.published]
        assert f"[{entry.publisher}](https://github.com/{entry.publisher})" == cells[3]
        assert (cells[4], entry.source in cells[5]) == (entry.license, True)
