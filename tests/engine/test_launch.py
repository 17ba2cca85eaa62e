import argparse
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset
from process_helpers import run_program, start_program

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.engine import argument_parser, main, run, setup
from pair_detr.engine.user_errors import WorkerError

pytestmark = pytest.mark.usefixtures("warm_start")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_launch")


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Undoes what a run does to its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def arguments(options: list[str], *flags: str) -> argparse.Namespace:
    return argument_parser().parse_args([*flags, *options])


def test_setup(dataset: dict[str, str], tmp_path: Path) -> None:
    cfg = setup(arguments(tiny_options(dataset, tmp_path)))
    assert cfg.is_frozen()
    assert cfg.MODEL.DETR.NUM_CLASSES == 2
    assert (tmp_path / "config.yaml").is_file()
    # 1e-310 is a denormal double.
    assert (torch.tensor([1e-300], dtype=torch.float64) * 1e-10).item() == 0
    logging.getLogger("pair_detr.engine").info("a line for the log")
    assert "a line for the log" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("environment", [None, "3"])
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, environment: str | None) -> None:
    from pair_detr.engine.launch import configure_cpu

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    torch.set_num_threads(6)
    configure_cpu(2)
    assert torch.get_num_threads() == (6 if environment else 3)


def test_device_that_does_not_exist(dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is cuda.*Set MODEL.DEVICE cpu"):
        setup(arguments(tiny_options(dataset, tmp_path, MODEL__DEVICE="cuda")))


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--num-gpus is 8, but this machine has 1"):
        run(arguments([], "--num-gpus", "8"))


def test_missing_weights_stop_before_the_data_are_read(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pair_detr.engine.launch.Trainer", lambda cfg: pytest.fail("training was set up"))
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS missing.pth does not exist"):
        main(arguments(tiny_options(dataset, tmp_path, MODEL__WEIGHTS="missing.pth")))


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.pkl"])
def test_unreadable_weights_stop_before_the_data_are_read(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("pair_detr.engine.launch.Trainer", lambda cfg: pytest.fail("training was set up"))
    (tmp_path / name).write_bytes(b"half of a download")
    with pytest.raises(CheckpointError, match=rf"MODEL\.WEIGHTS .*{name} "):
        main(arguments(tiny_options(dataset, tmp_path, MODEL__WEIGHTS=str(tmp_path / name))))


def test_train_then_evaluate(dataset: dict[str, str], tmp_path: Path) -> None:
    """The evaluation of the weights, and of the last checkpoint, is that at the end of the training."""
    tests = {"DATASETS__TEST": (dataset["NAME"],)}
    trained = run(arguments(tiny_options(dataset, tmp_path / "run", **tests)))
    weights = str(tmp_path / "run" / "model_final.pth")
    options = tiny_options(dataset, tmp_path / "evaluation", MODEL__WEIGHTS=weights, **tests)
    evaluated = run(arguments(options, "--eval-only"))
    resumed = run(arguments(tiny_options(dataset, tmp_path / "run", **tests), "--eval-only", "--resume"))
    assert set(trained) == {"bbox"}
    assert str(trained["bbox"]) == str(evaluated["bbox"]) == str(resumed["bbox"])
    # Weights of a part of the model start a training, but are not worth an evaluation.
    partial = {name: value for name, value in torch.load(weights)["model"].items() if "backbone" in name}
    torch.save({"model": partial}, tmp_path / "backbone.pth")
    options = tiny_options(dataset, tmp_path / "evaluation", MODEL__WEIGHTS=str(tmp_path / "backbone.pth"), **tests)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be evaluated with this config.*detector\.encoder\.\*"):
        run(arguments(options, "--eval-only"))
    # A checkpoint to resume from makes the weights unnecessary.
    options = tiny_options(dataset, tmp_path / "run", MODEL__WEIGHTS="missing.pth", **tests)
    assert str(run(arguments(options, "--resume"))["bbox"]) == str(trained["bbox"])


def two_steps(dataset: dict[str, str], output: Path, variant: str, processes: int, **changes: Any) -> tuple[dict, dict]:
    """Two iterations of plain gradient descent; the losses of both, and the weights after them."""
    changes |= {
        "MODEL__DETR__VARIANT": variant,
        "MODEL__DETR__DROPOUT": 0.0,
        # Batch normalization would see half of the batch.
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        "MODEL__RESNETS__DEPTH": 18,
        "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
        "MODEL__RESNETS__OUT_FEATURES": ["res3"],
        "MODEL__BACKBONE__FREEZE_AT": 0,
        "SOLVER__OPTIMIZER": "SGD",
        "SOLVER__MOMENTUM": 0.0,
        "SOLVER__BASE_LR": 0.01,
        "SOLVER__BACKBONE_MULTIPLIER": 1.0,
        "SOLVER__CLIP_GRADIENTS__ENABLED": False,
        "SOLVER__MAX_ITER": 2,
    }
    options = tiny_options(dataset, output, **changes)
    run(arguments(options, "--num-gpus", str(processes)))
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = {name: value for name, value in lines[-1].items() if "loss" in name}
    return losses, torch.load(output / "model_final.pth")["model"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["pair_detr", "conditional_detr", "detr"])
def test_two_processes_equal_one(dataset: dict[str, str], tmp_path: Path, variant: str) -> None:
    """Images have one or two objects: the losses are normalized by the number in both processes' halves."""
    torch.manual_seed(0)
    assert_same_two_steps(dataset, tmp_path, variant)


@pytest.mark.slow
def test_two_processes_equal_one_on_sparse_data(dataset: dict[str, str], tmp_path: Path) -> None:
    """One of the eight images has an object, so one of the two batches has none."""
    content = json.loads(Path(dataset["JSON"]).read_text())
    content["annotations"] = content["annotations"][:1]
    (tmp_path / "sparse.json").write_text(json.dumps(content))
    sparse = {**dataset, "NAME": "engine_launch_sparse", "JSON": str(tmp_path / "sparse.json")}
    assert_same_two_steps(sparse, tmp_path, "pair_detr", DATALOADER__FILTER_EMPTY_ANNOTATIONS=False)


def assert_same_two_steps(dataset: dict[str, str], folder: Path, variant: str, **changes: Any) -> None:
    losses, weights = two_steps(dataset, folder / "one", variant, 1, **changes)
    losses_of_two, weights_of_two = two_steps(dataset, folder / "two", variant, 2, **changes)
    assert losses_of_two == pytest.approx(losses, rel=1e-5)
    assert len(losses) > 3
    for name, value in weights.items():
        torch.testing.assert_close(weights_of_two[name], value, rtol=1e-5, atol=1e-6, msg=name)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 300
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_signal_stops_both_processes(dataset: dict[str, str], tmp_path: Path) -> None:
    def kill_once_it_trains() -> None:
        wait_for(tmp_path / "model_0000004.pth")
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill_once_it_trains)
    killer.start()
    options = tiny_options(
        dataset, tmp_path, SOLVER__MAX_ITER=100000, SOLVER__CHECKPOINT_PERIOD=5, SOLVER__KEEP_CHECKPOINTS=0
    )
    with pytest.raises(SystemExit) as stopped:
        run(arguments(options, "--num-gpus", "2"))
    killer.join()
    assert stopped.value.code == 128 + signal.SIGTERM
    logs = [(tmp_path / name).read_text() for name in ("log.txt", "log.txt.rank1")]
    (line,) = {line.partition("WARNING: ")[2] for log in logs for line in log.splitlines() if "Stopped by" in line}
    last = (tmp_path / "last_checkpoint").read_text()
    assert f"SIGTERM after iteration {torch.load(tmp_path / last)['iteration'] + 1} of 100000" in line


@pytest.mark.slow
def test_command_line(dataset: dict[str, str], tmp_path: Path, project_root: Path) -> None:
    """train_net.py as a user starts, interrupts and resumes it."""
    options = tiny_options(
        dataset, tmp_path, SOLVER__MAX_ITER=100000, SOLVER__CHECKPOINT_PERIOD=5, SOLVER__KEEP_CHECKPOINTS=0
    )
    program = str(project_root / "train_net.py")
    process = start_program(program, *options, output=tmp_path)
    wait_for(tmp_path / "model_0000004.pth")
    os.kill(process.pid, signal.SIGINT)
    process.join()
    output = (tmp_path / "stdout").read_text() + (tmp_path / "stderr").read_text()
    assert process.exitcode == 128 + signal.SIGINT, output
    assert "add --resume to the command to continue" in output
    done = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text())["iteration"] + 1

    options = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=done + 2)
    resumed = run_program(program, "--resume", *options, output=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Starting training from iteration {done}" in resumed.stdout
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == done + 1


def test_a_new_run_does_not_mix_with_an_earlier_one(dataset: dict[str, str], tmp_path: Path) -> None:
    first = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2)
    run(arguments(first))
    old = torch.load(tmp_path / "model_final.pth")["model"]
    run(arguments(tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=1)))
    aside = tmp_path / "earlier_1"
    assert (aside / "last_checkpoint").read_text() == "model_0000001.pth"
    assert len((aside / "metrics.json").read_text().splitlines()) == 1
    assert len((tmp_path / "metrics.json").read_text().splitlines()) == 1
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 0

    run(arguments(first))
    assert sorted(path.name for path in (tmp_path / "earlier_2").iterdir()) == [
        "config.yaml",
        "last_checkpoint",
        "metrics.json",
        "model_0000000.pth",
        "model_final.pth",
    ]
    new = torch.load(tmp_path / "model_final.pth")["model"]
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_killed_before_its_first_checkpoint_a_run_is_not_resumed_from_the_one_before(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(arguments(tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2)))
    with monkeypatch.context() as patch:
        patch.setattr("pair_detr.engine.trainer.Trainer.train", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(arguments(tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2)))
    run(arguments(tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=1), "--resume"))
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 0


@pytest.mark.slow
def test_two_processes_evaluate_one_image(dataset: dict[str, str], tmp_path: Path) -> None:
    """The second process has no image; the backbone's batch norms have statistics."""
    content = json.loads(Path(dataset["JSON"]).read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    (tmp_path / "one.json").write_text(json.dumps(content))
    one = {**dataset, "NAME": "engine_launch_one", "JSON": str(tmp_path / "one.json")}
    options = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2, DATASETS__TEST=(one["NAME"],))
    options[options.index("DATASETS.REGISTER") + 1] = str([dataset, one])
    run(arguments(options, "--num-gpus", "2"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in row for row in rows)


def test_a_run_that_cannot_start_leaves_an_earlier_one_to_resume(dataset: dict[str, str], tmp_path: Path) -> None:
    run(arguments(tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2)))
    with pytest.raises(ValueError, match="HIDDEN_DIM"):
        run(arguments(tiny_options(dataset, tmp_path, MODEL__DETR__NUM_HEADS=3)))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (tmp_path / "earlier_1").exists()


def test_flags_behind_options_and_evaluation_of_nothing(dataset: dict[str, str], tmp_path: Path) -> None:
    options = tiny_options(dataset, tmp_path)
    with pytest.raises(ValueError, match="--resume: flags have to stand before the config options"):
        run(argument_parser().parse_args([*options, "--resume"]))
    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty"):
        run(arguments(options, "--eval-only"))


@pytest.mark.slow
def test_errors_of_several_processes_are_raised_as_one(dataset: dict[str, str], tmp_path: Path) -> None:
    options = tiny_options(dataset, tmp_path, MODEL__DETR__NUM_HEADS=3)
    with pytest.raises(WorkerError) as raised:
        run(arguments(options, "--num-gpus", "2"))
    assert str(raised.value).startswith("MODEL.DETR.HIDDEN_DIM is 16")
    assert "Traceback" in str(raised.value.__cause__)


def test_a_run_says_in_its_log_that_iterations_take_the_place_of_epochs_and_resumes_so(
    dataset: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {EPOCHS: {MAX: 12, STEPS: [10]}}")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nSEED: 1")
    output = tmp_path / "out"
    own = ["--config-file", str(tmp_path / "own.yaml")]
    for number, flags in enumerate(([], ["--resume"]), start=1):
        options = tiny_options(dataset, output, SOLVER__MAX_ITER=2 * number)
        run(arguments(options, *own, *flags))
        assert torch.load(output / "model_final.pth")["pair_detr"]["iteration"] == 2 * number - 1
    # On from what the run has written, as a user does who has lost the command.
    config = ["--config-file", str(output / "config.yaml"), "--resume"]
    run(arguments(["SOLVER.MAX_ITER", "6"], *config))
    assert torch.load(output / "model_final.pth")["pair_detr"]["iteration"] == 5
    log = (output / "log.txt").read_text()
    said = "The options: the iterations of SOLVER.MAX_ITER and SOLVER.STEPS replace the inherited SOLVER.EPOCHS.MAX 12"
    assert log.count(said) == 2
