"""Whatever starts from a checkpoint reads its tensors once, and compares its checksums once."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import tiny_options, write_dataset

from pair_detr import Predictor
from pair_detr.checkpoint.weights import read_weights, require_weights
from pair_detr.config_files import load_config
from pair_detr.engine import argument_parser, main
from pair_detr.tensor_files import read_tensor_file

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "data").mkdir()
    return write_dataset(tmp_path / "data", "read_once")


@pytest.fixture
def checkpoint(dataset: dict[str, str], tmp_path: Path) -> Path:
    run(dataset, tmp_path / "first", SOLVER__MAX_ITER=1)
    return tmp_path / "first" / "model_final.pth"


@pytest.fixture
def counts(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often tensors of its folder are loaded, and checksums compared."""
    counted: Counter[str] = Counter()

    def read(path: Path, *args: Any, mmap: bool = False, **options: Any) -> Any:
        counted["tensors"] += path.parent == checkpoint.parent and not mmap
        return read_tensor_file(path, *args, mmap=mmap, **options)

    test_zip = zipfile.ZipFile.testzip

    def count_checksums(archive: zipfile.ZipFile) -> str | None:
        counted["checksums"] += Path(archive.filename).parent == checkpoint.parent
        return test_zip(archive)

    for module in ("reading", "checkpointer", "search"):
        monkeypatch.setattr(f"pair_detr.checkpoint.{module}.read_tensor_file", read)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", count_checksums)
    monkeypatch.setattr("pair_detr.tensor_files.reading._intact", {})
    return counted


def run(dataset: dict[str, str], folder: Path, *flags: str, **changes: Any) -> None:
    main(argument_parser().parse_args([*flags, *tiny_options(dataset, folder, **changes)]))


def test_training_from_weights(dataset: dict[str, str], checkpoint: Path, counts: Counter[str], tmp_path: Path) -> None:
    run(dataset, tmp_path / "out", SOLVER__MAX_ITER=1, MODEL__WEIGHTS=checkpoint)
    assert counts == {"tensors": 1, "checksums": 1}


def test_resumed_training(dataset: dict[str, str], checkpoint: Path, counts: Counter[str]) -> None:
    run(dataset, checkpoint.parent, "--resume", SOLVER__MAX_ITER=2)
    assert counts == {"tensors": 1, "checksums": 1}


@pytest.mark.parametrize("resume", [False, True])
def test_evaluation(
    dataset: dict[str, str], checkpoint: Path, counts: Counter[str], tmp_path: Path, resume: bool
) -> None:
    folder, flags = (checkpoint.parent, ["--resume"]) if resume else (tmp_path / "out", [])
    weights = "" if resume else checkpoint
    run(dataset, folder, "--eval-only", *flags, DATASETS__TEST=(dataset["NAME"],), MODEL__WEIGHTS=weights)
    assert counts == {"tensors": 1, "checksums": 1}


def test_predictor(dataset: dict[str, str], checkpoint: Path, counts: Counter[str], tmp_path: Path) -> None:
    Predictor(load_config("", tiny_options(dataset, tmp_path / "out", MODEL__WEIGHTS=checkpoint)))
    assert counts == {"tensors": 1, "checksums": 1}


def test_predictor_of_weights_alone(checkpoint: Path, counts: Counter[str]) -> None:
    Predictor(checkpoint)
    assert counts == {"tensors": 1, "checksums": 1}


def test_weights_that_change_after_the_check_are_read_anew(
    dataset: dict[str, str], checkpoint: Path, tmp_path: Path
) -> None:
    cfg = load_config("", tiny_options(dataset, tmp_path / "out", MODEL__WEIGHTS=checkpoint))
    require_weights(cfg)
    content = torch.load(checkpoint, weights_only=True)
    key = next(key for key, value in content["model"].items() if value.is_floating_point())
    content["model"][key] += 1
    torch.save(content, checkpoint)
    assert torch.equal(read_weights(str(checkpoint)).state[key], content["model"][key])


def test_archive_that_is_damaged_after_it_was_read_is_noticed(checkpoint: Path) -> None:
    read_tensor_file(checkpoint)
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    data = bytearray(checkpoint.read_bytes())
    # Behind its header, whose padding is not compared.
    data[largest.header_offset + largest.file_size // 2 + 200] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        read_tensor_file(checkpoint)
