import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.layers import get_norm
from engine_helpers import NUM_IMAGES, default_config, tiny_config, write_dataset
from torch import nn

from pair_detr.data.loader_workers import STOP_SIGNALS
from pair_detr.engine import Trainer, TrainingInterrupted
from pair_detr.engine.trainer import _distribute
from pair_detr.modeling.meta_arch import DetectionTransformer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_trainer")


class Record(HookBase):
    """The losses of each iteration, and what another test wants to do after one."""

    def __init__(self, after_step: dict[int, object] | None = None) -> None:
        self.losses: dict[int, float] = {}
        self._after_step = after_step or {}

    def after_step(self) -> None:
        self.trainer.flush_metrics()
        self.losses[self.trainer.iter] = self.trainer.storage.latest()["total_loss"][0]
        self._after_step.get(self.trainer.iter, lambda: None)()


def train(cfg: CfgNode, resume: bool = False, after_step: dict[int, object] | None = None) -> tuple[Trainer, Record]:
    torch.manual_seed(1 if resume else 0)
    trainer, record = Trainer(cfg), Record(after_step)
    trainer._hooks.insert(0, record)
    record.trainer = trainer
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer, record


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize("amp", [False, True])
def test_resumed_run_equals_the_uninterrupted_one(dataset: dict[str, str], tmp_path: Path, amp: bool) -> None:
    """With dropout, shuffling, flips, a learning rate step, and an evaluation that draws random numbers in between."""
    changes = {"SOLVER__STEPS": (5,), "SOLVER__AMP__ENABLED": amp, "DATASETS__TEST": (dataset["NAME"],)}
    changes["TEST__EVAL_PERIOD"] = 2

    whole, expected = train(tiny_config(dataset, tmp_path / "whole", **changes))
    cfg = tiny_config(dataset, tmp_path / "parts", SOLVER__CHECKPOINT_PERIOD=3, **changes)
    with pytest.raises(RuntimeError, match="lost power"):
        train(cfg, after_step={3: lambda: (_ for _ in ()).throw(RuntimeError("lost power"))})
    parts, resumed = train(cfg, resume=True)

    assert list(resumed.losses) == [3, 4, 5]
    assert resumed.losses == {iteration: expected.losses[iteration] for iteration in (3, 4, 5)}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    assert len(set(expected.losses.values())) == 6


def test_accumulation_counts_optimizer_steps(dataset: dict[str, str], tmp_path: Path) -> None:
    """Same images, schedule, checkpoints and log as without; a run that is resumed equals the one that is not."""
    changes = {"SOLVER__EPOCHS__MAX": 3, "SOLVER__EPOCHS__STEPS": (2,), "SOLVER__EPOCHS__CHECKPOINT_PERIOD": 2}
    whole, expected = train(tiny_config(dataset, tmp_path / "whole", SOLVER__ACCUMULATE_STEPS=2, **changes))
    assert whole.max_iter == 3 * NUM_IMAGES // 4 and list(expected.losses) == list(range(6))
    assert (tmp_path / "whole" / "model_0000003.pth").is_file()
    assert metrics(tmp_path / "whole")[-1]["lr"] == pytest.approx(1e-4)
    cfg = tiny_config(dataset, tmp_path / "parts", SOLVER__ACCUMULATE_STEPS=2, **changes)
    with pytest.raises(RuntimeError, match="lost power"):
        train(cfg, after_step={4: lambda: (_ for _ in ()).throw(RuntimeError("lost power"))})
    _, resumed = train(cfg, resume=True)
    assert resumed.losses == {iteration: expected.losses[iteration] for iteration in (4, 5)}


@pytest.mark.parametrize(
    ("steps", "message"), [(3, r"IMS_PER_BATCH is 4, .* 1 processes in .*multiple of 3"), (0, "or more")]
)
def test_batches_that_cannot_be_divided(dataset: dict[str, str], tmp_path: Path, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_config(dataset, tmp_path, SOLVER__ACCUMULATE_STEPS=steps))


@pytest.fixture
def handlers() -> Iterator[None]:
    """Fails if the handlers of signals are not restored."""
    # The tests themselves may run detached from a terminal.
    of_hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in before}
    signal.signal(signal.SIGHUP, of_hangup)
    assert after == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_stops_after_the_iteration(dataset: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    _, expected = train(tiny_config(dataset, tmp_path / "whole"))
    cfg = tiny_config(dataset, tmp_path / "parts", DATASETS__TEST=(dataset["NAME"],))
    with pytest.raises(TrainingInterrupted) as stopped:
        train(cfg, after_step={1: lambda: os.kill(os.getpid(), number)})
    assert stopped.value.code == 128 + number
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000001.pth"
    assert metrics(tmp_path / "parts")[-1]["iteration"] == 1
    assert not (tmp_path / "parts" / "inference").exists()
    _, resumed = train(cfg, resume=True)
    assert resumed.losses == {iteration: expected.losses[iteration] for iteration in (2, 3, 4, 5)}


@pytest.mark.usefixtures("handlers")
def test_signals_are_the_program_s_again_after_a_hook_has_failed(dataset: dict[str, str], tmp_path: Path) -> None:
    class Fail(HookBase):
        def after_train(self) -> None:
            raise OSError("no space left")

    trainer = Trainer(tiny_config(dataset, tmp_path))
    trainer._hooks.insert(0, Fail())
    trainer.before_step = lambda: (_ for _ in ()).throw(RuntimeError("lost power"))
    with pytest.raises(OSError, match="no space left"):
        trainer.train()


def test_workers_of_the_loader_outlive_a_key_press(dataset: dict[str, str], tmp_path: Path) -> None:
    """A terminal sends SIGINT to them as well; they have to deliver the batch of the last iteration."""

    def press() -> None:
        workers = multiprocessing.active_children()
        assert workers
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)

    _, record = train(tiny_config(dataset, tmp_path, DATALOADER__NUM_WORKERS=1), after_step={1: press})
    assert len(record.losses) == 6


def test_a_detached_training_ignores_the_end_of_its_terminal(dataset: dict[str, str], tmp_path: Path) -> None:
    """As ``nohup`` starts one."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, record = train(tiny_config(dataset, tmp_path), after_step={1: lambda: os.kill(os.getpid(), signal.SIGHUP)})
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(record.losses) == 6


def test_losses_up_to_the_stop_are_logged(dataset: dict[str, str], tmp_path: Path) -> None:
    class Stop(HookBase):
        def after_step(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = Trainer(tiny_config(dataset, tmp_path))
    trainer.register_hooks([Stop(), trainer._hooks.pop()])
    with pytest.raises(TrainingInterrupted):
        trainer.train()
    assert "total_loss" in metrics(tmp_path)[-1]


@pytest.mark.usefixtures("handlers")
def test_second_signal_interrupts(dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.engine.hooks._SECONDS_TO_SECOND_SIGNAL", 0.0)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(dataset, tmp_path), after_step={1: twice})


@pytest.mark.usefixtures("handlers")
def test_signal_in_the_last_iteration_does_not_stop(dataset: dict[str, str], tmp_path: Path) -> None:
    cfg = tiny_config(dataset, tmp_path, SOLVER__MAX_ITER=2)
    train(cfg, after_step={1: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_trains_outside_the_main_thread(dataset: dict[str, str], tmp_path: Path) -> None:
    """As in some notebooks; Python allows no handlers there."""
    thread = threading.Thread(target=train, args=(tiny_config(dataset, tmp_path, SOLVER__MAX_ITER=2),))
    thread.start()
    thread.join()
    assert (tmp_path / "model_final.pth").exists()


def test_epochs_and_logs(dataset: dict[str, str], tmp_path: Path) -> None:
    """3 epochs of 8 images, 4 at a time; evaluation after each, results returned."""
    changes = {"SOLVER__EPOCHS__MAX": 3, "SOLVER__EPOCHS__STEPS": [2], "SOLVER__EPOCHS__EVAL_PERIOD": 1}
    cfg = tiny_config(dataset, tmp_path, DATASETS__TEST=(dataset["NAME"],), **changes)
    cfg.freeze()
    trainer = Trainer(cfg)
    assert trainer.max_iter == 3 * NUM_IMAGES // 4
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert 0 <= results["bbox"]["AP"] <= 100
    names = {path.name for path in tmp_path.iterdir()}
    checkpoints = {name for name in names if name.endswith(".pth")}
    assert checkpoints == {"model_0000003.pth", "model_0000005.pth", "model_final.pth", "model_best.pth"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (tmp_path / "inference" / dataset["NAME"] / "coco_instances_results.json").is_file()
    (last,) = [entry for entry in metrics(tmp_path) if entry["iteration"] == 5 and "total_loss" in entry]
    assert {"loss_class", "loss_box", "loss_giou", "lr", "data_time", "time"} <= set(last)
    assert last["lr"] == pytest.approx(1e-4)
    terms = [value for name, value in last.items() if name.startswith("loss_")]
    # Medians over the window, so the sum of terms is near the total only.
    assert sum(terms) == pytest.approx(last["total_loss"], rel=0.2)


def test_ignored_iterations_are_reported_and_scaled_ones_are_not(
    dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes: dict[str, Any] = {"SOLVER__EPOCHS__MAX": 1, "SOLVER__REFERENCE_WORLD_SIZE": 2}
    changes["SOLVER__CHECKPOINT_PERIOD"] = default_config().SOLVER.CHECKPOINT_PERIOD
    cfg = tiny_config(dataset, tmp_path, **changes)
    # One process takes half of the batch, and Detectron2 doubles all iterations.
    assert Trainer(cfg).max_iter == 4
    assert "Ignored, as" not in caplog.text
    cfg.SOLVER.MAX_ITER = 7
    Trainer(cfg)
    assert ": SOLVER.MAX_ITER. Set SOLVER.EPOCHS.MAX 0" in caplog.text


@pytest.mark.parametrize(
    ("images", "processes", "message"), [(0, 1, "1 or more"), (-4, 1, "1 or more"), (3, 2, "multiple of 2")]
)
def test_batches_that_cannot_be_divided_stop_before_the_data_are_read(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, processes: int, message: str
) -> None:
    monkeypatch.setattr("pair_detr.engine.trainer.load_training_dicts", lambda cfg: pytest.fail("data were read"))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    with pytest.raises(ValueError, match=rf"SOLVER\.IMS_PER_BATCH is {images}.* {message}"):
        Trainer(tiny_config(dataset, tmp_path, SOLVER__IMS_PER_BATCH=images))


@pytest.mark.parametrize(("norm", "expected"), [("BN", True), ("FrozenBN", False)])
def test_running_statistics_are_those_of_the_first_process(
    monkeypatch: pytest.MonkeyPatch, norm: str, expected: bool
) -> None:
    """Else the processes would evaluate with statistics of their own, and a checkpoint hold one of them."""
    calls = []
    monkeypatch.setattr("pair_detr.engine.trainer.create_ddp_model", lambda model, **options: calls.append(options))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), get_norm(norm, 4))
    _distribute(model)
    assert calls == [{"broadcast_buffers": expected, "device_ids": None}]


def test_finished_training_is_evaluated_again(dataset: dict[str, str], tmp_path: Path) -> None:
    cfg = tiny_config(dataset, tmp_path, SOLVER__MAX_ITER=2, DATASETS__TEST=(dataset["NAME"],))
    first, _ = train(cfg)
    again, record = train(cfg, resume=True)
    assert record.losses == {}
    # Some metrics are not a number, which does not equal itself.
    assert str(again._last_eval_results) == str(first._last_eval_results)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_of_evaluation(
    dataset: dict[str, str], tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 the model itself is evaluated; else one with other weights, and the model stays in training."""
    cfg = tiny_config(dataset, tmp_path, DATASETS__TEST=(dataset["NAME"],), TEST__PRECISION=precision)
    model = Trainer.build_model(cfg).train()
    ran = []
    forward = DetectionTransformer.forward
    monkeypatch.setattr(DetectionTransformer, "forward", lambda self, batch: ran.append(self) or forward(self, batch))
    results = Trainer.test(cfg, model)
    assert results["bbox"].keys() >= {"AP", "AP50"}
    assert len(set(ran)) == 1
    assert (ran[0] is model) == (precision == "fp32")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert ran[0].detector.encoder.layers[0].ffn.linear1.weight.dtype == dtype
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
