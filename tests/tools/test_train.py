"""Training on a folder, from the data to the results."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import write_dataset

from pair_detr.config_files import load_config
from pair_detr.data.datasets import from_config
from pair_detr.tools import train

TINY = [
    *("MODEL.BACKBONE.NAME", "build_convnet_backbone", "MODEL.CONVNET.CHANNELS", "[4,8]", "MODEL.DEVICE", "cpu"),
    *("MODEL.DETR.HIDDEN_DIM", "16", "MODEL.DETR.NUM_HEADS", "2", "MODEL.DETR.FFN_DIM", "16"),
    *("MODEL.DETR.ENC_LAYERS", "1", "MODEL.DETR.DEC_LAYERS", "2", "MODEL.DETR.NUM_QUERIES", "9"),
    *("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MIN_SIZE_TEST", "32", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
]


@pytest.fixture(autouse=True)
def _process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(from_config, "_expanded", {})
    monkeypatch.setattr(from_config, "_registered", {})
    monkeypatch.chdir(tmp_path)
    with restored_catalogs():
        yield
    torch.set_flush_denormal(False)


@pytest.fixture
def make_data(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[object]:
    """Writes a folder of the given splits, whose name no other test uses: metadata outlive the tests."""
    name = f"data_of_{request.node.name}".replace("[", "_").replace("]", "")

    def make(*splits: str) -> Path:
        for split in splits:
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            write_dataset(folder, split)
            (folder / "annotations.json").rename(folder / "_annotations.coco.json")
        return tmp_path / name

    return make


def run(data: Path, *arguments: str) -> Path:
    # Absolute, as logs are set up once for each name of a folder.
    output = Path("out").resolve()
    train.main(["--data", str(data), "--weights", "none", "--output", str(output), *arguments, *TINY])
    return output


def test_from_a_folder_to_results(make_data: object, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data("train", "valid", "test")
    output = run(data, "--batch", "3")
    for name in ("model_final.pth", "metrics.json", "log.txt", "results.json"):
        assert (output / name).is_file(), name
    # The test set has the last word, and that for validation is used on the way.
    assert list(json.loads((output / "results.json").read_text())["results"]) == [f"my_{data.name}_test".lower()]
    cfg = load_config(output / "config.yaml")
    assert (f"my_{data.name}_val".lower(),) == cfg.DATASETS.TEST
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.DETR.NUM_QUERIES, cfg.SOLVER.MAX_ITER) == (3, 9, 2)
    comments = [line for line in (output / "config.yaml").read_text().splitlines() if line.startswith("#")]
    assert any("8 images of 2 classes, 1.5 objects per image" in line for line in comments)
    assert "#   SOLVER.IMS_PER_BATCH 3: as on the command line" in comments
    # What the command line says is no choice.
    assert not any("NUM_QUERIES" in line or "EPOCHS" in line for line in comments)
    printed = capsys.readouterr().out
    assert printed.count("can be trained on") == 3
    # Each line once, and in the log.
    assert printed.count("Recipe for") == 1
    assert "Recipe for" in (output / "log.txt").read_text()


def test_a_recipe_alone_can_be_trained_later(make_data: object) -> None:
    output = run(make_data("train", "valid"), "--recipe-only", "--epochs", "2")
    assert not (output / "model_final.pth").exists()
    notes = [line for line in (output / "config.yaml").read_text().splitlines() if line.startswith("#")]
    train.main(["--config-file", str(output / "config.yaml")])
    assert (output / "model_final.pth").is_file()
    again = [line for line in (output / "config.yaml").read_text().splitlines() if line.startswith("#")]
    assert again == notes


def test_resuming_keeps_the_recipe(make_data: object, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data("train", "valid")
    output = run(data, "--batch", "3")
    before = (output / "config.yaml").read_text()
    with pytest.raises(ValueError, match="not made with --weights none --batch 4: leave these out"):
        run(data, "--batch", "4", "--resume")
    # The name of one begins with that of the other.
    other = shutil.copytree(data, f"{data}_2")
    with pytest.raises(ValueError, match="not those of --data"):
        train.main(["--data", str(other), "--output", str(output), "--resume"])
    capsys.readouterr()
    # The command as it was, and more iterations.
    command = ["--data", str(data), "--weights", "none", "--output", str(output), "--batch", "3"]
    train.main([*command, "--resume", *TINY, "SOLVER.MAX_ITER", "3"])
    after = (output / "config.yaml").read_text()
    assert after == before.replace("MAX_ITER: 2", "MAX_ITER: 3")
    assert "Starting training from iteration 2" in capsys.readouterr().out


def test_another_training_keeps_the_config_of_the_one_before(make_data: object) -> None:
    data = make_data("train", "valid")
    before = (run(data, "--batch", "3") / "config.yaml").read_text()
    with pytest.raises(FileExistsError, match="has a training"):
        run(data, "--recipe-only")
    output = run(data, "--batch", "4")
    assert (output / "earlier_1" / "config.yaml").read_text() == before
    assert "as on the command line" in before
    assert (output / "earlier_1" / "model_final.pth").is_file()
    assert "IMS_PER_BATCH: 4" in (output / "config.yaml").read_text()


@pytest.mark.slow
def test_the_small_network_in_an_epoch_of_two_processes(make_data: object, tmp_path: Path) -> None:
    data = make_data("train", "valid")
    output = tmp_path / "small"
    train.main(["--data", str(data), "--weights", "none", "--output", str(output), "--epochs", "1", "--num-gpus", "2"])
    cfg = load_config(output / "config.yaml")
    assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.NORM) == ("mobilenetv2_100", "BN")
    assert (cfg.SOLVER.EPOCHS.MAX, list(cfg.SOLVER.EPOCHS.STEPS)) == (1, [])
    # 8 images in steps of 4.
    assert cfg.SOLVER.IMS_PER_BATCH == 4
    assert "2 iterations (1 epochs)" in (output / "log.txt").read_text()
    assert json.loads((output / "results.json").read_text())["results"]


def test_data_that_cannot_be_trained_on_stop_before_anything_is_written(make_data: object) -> None:
    data = make_data("train", "valid")
    (data / "train" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be trained on"):
        run(data)
    assert sorted(path.name for path in Path("out").iterdir()) == ["log.txt"]
    assert "3.png" in Path("out", "log.txt").read_text()


def test_weights_are_fetched_first(make_data: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth.*--weights none"):
        train.main(["--data", str(make_data("train", "valid")), "--output", "out", "--weights", "absent.pth"])
    assert "classes" not in capsys.readouterr().out


def test_a_set_without_boxes_is_named(make_data: object) -> None:
    data = make_data("train", "valid")
    file = data / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.raises(ValueError, match="cannot be trained on"):
        run(data)
    log = Path("out", "log.txt").read_text()
    assert "ERROR" in log and "there is no usable box in its 8 images: draw some, or remove the set" in log


def test_what_does_not_fit_leaves_no_config(make_data: object) -> None:
    data = make_data("train", "valid")
    with pytest.raises(ValueError, match="9 images, and there are 8"):
        run(data, "--batch", "9")
    with pytest.raises(ValueError, match="QUERY_SELECTION"):
        train.main(["--data", str(data), "--weights", "none", "--output", "out", "MODEL.DETR.VARIANT", "detr"])
    with pytest.raises(ValueError, match=r"lies in the data: choose another with --output"):
        train.main(["--data", str(data), "--weights", "none", "--output", str(data / "train" / "out")])
    assert not Path("out", "config.yaml").exists()


def test_mistyped_options_are_noticed_first(make_data: object) -> None:
    with pytest.raises(ValueError, match="--epochs: flags have to stand before"):
        train.main(["--data", "nowhere", "SEED", "1", "--epochs", "3"])
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no CUDA device"):
            train.main(["--data", "nowhere", "MODEL.DEVICE", "cuda"])
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        train.main(["--data", "nowhere", "MODEL.WEIGHTS", "absent.pth"])
    with pytest.raises(KeyError, match=r"SOLVER\.BASE_RL"):
        train.main(["--data", "nowhere", "SOLVER.BASE_RL", "1"])
    with pytest.raises(FileNotFoundError, match=r"--data: .*nowhere does not exist"):
        train.main(["--data", "nowhere", "--weights", "none"])


def test_weights_of_the_folder_that_would_be_replaced_are_refused(make_data: object) -> None:
    data = make_data("train", "valid")
    output = run(data)
    config = (output / "config.yaml").read_text()
    with pytest.raises(FileExistsError, match="--resume"):
        train.main(["--data", str(data), "--output", "out", "--weights", "out/model_final.pth", "MODEL.DEVICE", "cpu"])
    assert (output / "config.yaml").read_text() == config


def test_a_config_of_the_user_is_not_replaced(make_data: object) -> None:
    Path("out").mkdir()
    Path("out", "config.yaml").write_text("MINE: 1\n")
    with pytest.raises(FileExistsError, match="not written by a run"):
        run(make_data("train", "valid"))
    assert Path("out", "config.yaml").read_text() == "MINE: 1\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x", "--config-file", "r50"], "leave out --config-file"),
        (["--data", "x", "--eval-only"], "--eval-only"),
        (["--data", "x", "--num-machines", "2"], "--recipe-only"),
        (["--data", "x", "--output", "a", "OUTPUT_DIR", "b"], "--output and OUTPUT_DIR"),
    ],
)
def test_arguments_that_exclude_each_other(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.main(arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--weights", "x.pth"], ["--recipe-only"], ["--output", "x"], ["--epochs", "3"], ["--batch", "4"]],
)
def test_arguments_of_recipes_need_data(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(["--config-file", "r50", *arguments])
    assert f"{arguments[0]} is for --data" in capsys.readouterr().err


def test_without_data_and_config_it_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main([])
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--batch", "-1"], ["--batch", "many"], ["--format", "png"]])
def test_numbers_are_positive(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", "x", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_processes_of_others_need_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ValueError, match="--recipe-only"):
        train.main(["--data", "x"])
