"""What a run finds in OUTPUT_DIR and must not replace: the weights that it starts from, and the user's config."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.config_files import load_config
from pair_detr.engine import argument_parser, run
from pair_detr.engine.output_folder import SET_ASIDE, require_inputs_elsewhere, set_aside_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_output_folder")


@pytest.fixture(scope="module")
def trained(dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    start(dataset, folder, SOLVER__MAX_ITER=2, SOLVER__CHECKPOINT_PERIOD=1)
    return folder


def start(dataset: dict[str, str], folder: Path, *flags: str, **changes: object) -> dict:
    return run(argument_parser().parse_args([*flags, *tiny_options(dataset, folder, **changes)]))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_that_failed_does_not_take_the_place_of_the_config_before(tmp_path: Path) -> None:
    config, aside = tmp_path / "config.yaml", tmp_path / SET_ASIDE
    config.write_text("first")
    set_aside_config(tmp_path)
    # Without checkpoints there is nothing to keep it for.
    assert not aside.exists()
    (tmp_path / "model_final.pth").touch()
    set_aside_config(tmp_path)
    assert (config.read_text(), aside.read_text()) == ("first", "first")
    # Of a run that ended before it moved the checkpoints.
    config.write_text("failed")
    set_aside_config(tmp_path)
    assert aside.read_text() == "first"


@pytest.mark.parametrize("name", ["model_final.pth", "model_0000000.pth"])
@pytest.mark.parametrize("way", ["absolute", "relative", "linked folder", "linked file", "link in the folder"])
def test_a_training_does_not_start_from_weights_in_its_own_folder(
    dataset: dict[str, str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(trained, folder)
    weights = folder / name
    if way == "relative":
        monkeypatch.chdir(tmp_path)
        weights = Path("out", "..", "out", name)
    elif way == "linked folder":
        (tmp_path / "linked").symlink_to(folder)
        weights = tmp_path / "linked" / name
    elif way == "linked file":
        (tmp_path / "best.pth").symlink_to(weights)
        weights = tmp_path / "best.pth"
    elif way == "link in the folder":
        weights.unlink()
        weights.symlink_to(trained / name)
    before = contents(folder)
    with pytest.raises(FileExistsError, match=r"MODEL\.WEIGHTS .* lies in OUTPUT_DIR .*: set OUTPUT_DIR to another"):
        start(dataset, folder, MODEL__WEIGHTS=str(weights), SOLVER__BASE_LR=0.5)
    # Not even the config of the training that made them is replaced.
    assert contents(folder) == before


def test_other_uses_of_these_weights(dataset: dict[str, str], trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(trained, folder)
    weights = str(folder / "model_final.pth")
    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty"):
        start(dataset, folder, "--eval-only", MODEL__WEIGHTS=weights)
    # A fine-tuning in a folder of its own, and what goes on with it there.
    start(dataset, tmp_path / "new", MODEL__WEIGHTS=weights, SOLVER__MAX_ITER=1)
    start(dataset, folder, "--resume", MODEL__WEIGHTS=weights, SOLVER__MAX_ITER=3)
    # A run set aside is in no one's way.
    start(dataset, folder, SOLVER__MAX_ITER=1)
    start(dataset, folder, MODEL__WEIGHTS=str(folder / "earlier_1" / "model_final.pth"), SOLVER__MAX_ITER=1)
    assert (folder / "earlier_1" / "model_final.pth").exists()
    # Weights of another name are not written over.
    (folder / "model_final.pth").rename(folder / "pretrained.pth")
    before = (folder / "pretrained.pth").read_bytes()
    start(dataset, folder, MODEL__WEIGHTS=str(folder / "pretrained.pth"), SOLVER__MAX_ITER=1)
    assert (folder / "pretrained.pth").read_bytes() == before


def test_checkpoints_of_whatever_origin_are_moved_away(dataset: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").write_bytes(b"a download, or copied from another machine")
    start(dataset, tmp_path, SOLVER__MAX_ITER=1)
    assert contents(tmp_path / "earlier_1")["model_final.pth"] == b"a download, or copied from another machine"
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"


@pytest.mark.parametrize("key", ["WEIGHTS", "TIMM.WEIGHTS", "CLIP.TEXT_WEIGHTS", "CLIP.CHECKPOINT"])
def test_the_key_is_named(tmp_path: Path, key: str) -> None:
    key = f"MODEL.{key}"
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path), key, str(tmp_path / "model_final.pth")])
    with pytest.raises(FileExistsError, match=f"^{key} "):
        require_inputs_elsewhere(cfg)


@pytest.mark.parametrize("name", sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")))
def test_no_config_starts_from_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_config(name)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True)
    require_inputs_elsewhere(cfg)


def test_addresses_lie_in_no_folder(tmp_path: Path) -> None:
    for address in ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", "https://host/model_final.pth", ""):
        require_inputs_elsewhere(load_config("", ["OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", address]))


def test_a_config_of_the_user_stays(dataset: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("# The one that works.\nSOLVER: {BASE_LR: 0.01}\n")
    for flags in ([], ["--config-file", str(config)], ["--eval-only"]):
        with pytest.raises(FileExistsError, match=r"config\.yaml was not written by a run.*rename the file"):
            start(dataset, tmp_path, *flags)
        assert list(contents(tmp_path)) == ["config.yaml"]
    assert config.read_text().startswith("# The one")


def test_the_config_of_a_run_is_replaced(dataset: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with pytest.raises(CheckpointError):
        # Not even its first checkpoint.
        (tmp_path / "bad.pth").write_bytes(b"bad")
        start(dataset, tmp_path, MODEL__WEIGHTS=str(tmp_path / "bad.pth"))
    first = config.read_text()
    assert first.startswith("# Made by pair_detr: the config of a run")
    (tmp_path / "log.txt").unlink()
    start(dataset, tmp_path, SOLVER__MAX_ITER=1, SOLVER__BASE_LR=0.5)
    assert load_config(str(config)).SOLVER.BASE_LR == 0.5
    # One of a run of Detectron2's, or of an earlier version.
    config.write_text("\n".join(first.splitlines()[1:]))
    start(dataset, tmp_path, "--resume", SOLVER__MAX_ITER=2, SOLVER__BASE_LR=0.25)
    assert load_config(str(config)).SOLVER.BASE_LR == 0.25


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["log.txt", "metrics.json"])
def test_pipes_in_the_folder_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileExistsError, match=rf"{name} is a pipe, .* set OUTPUT_DIR to another folder"):
        run(argument_parser().parse_args(["--resume", "OUTPUT_DIR", str(tmp_path)]))
