"""--resume with another config: what counts from there on, what is refused, and whether the ways out are ways."""

import argparse
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from engine_helpers import tiny_config, tiny_options, write_dataset

from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.config_files import load_config
from pair_detr.engine import Trainer, argument_parser, main
from pair_detr.engine import run as launch
from pair_detr.engine.resume import Difference, ResumeError, require_resumable
from pair_detr.engine.user_errors import WorkerError

RESNET = {
    "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__RESNETS__DEPTH": 18,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
    "MODEL__RESNETS__OUT_FEATURES": ["res3"],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_resume")


@pytest.fixture(scope="module")
def checkpoint(dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of a training of one iteration; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoint")
    trained(dataset, folder, SOLVER__MAX_ITER=1)
    return folder


@pytest.fixture(scope="module")
def three_iterations(dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of three."""
    folder = tmp_path_factory.mktemp("three_iterations")
    trained(dataset, folder, SOLVER__MAX_ITER=3)
    return folder


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """main would set up loggers, which keeps records from caplog."""
    monkeypatch.setattr("pair_detr.engine.launch.setup_logger", lambda *_, **__: None)
    monkeypatch.setattr("pair_detr.engine.launch.default_setup", lambda *_: None)


class Rates(HookBase):
    """The learning rates of each iteration: of the backbone, and of all else."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[float, float]] = {}

    def before_step(self) -> None:
        names = {parameter: name for name, parameter in self.trainer.checkpointer.model.named_parameters()}
        groups = [(group["lr"], names[group["params"][0]]) for group in self.trainer.optimizer.param_groups]
        backbone = next((rate for rate, name in groups if "backbone" in name), groups[0][0])
        other = next((rate for rate, name in groups if "backbone" not in name), groups[0][0])
        self.of[self.trainer.iter] = (backbone, other)


def trained(dataset: dict[str, str], folder: Path, resume: bool = False, **changes: Any) -> tuple[Trainer, Rates]:
    torch.manual_seed(0)
    trainer, rates = Trainer(tiny_config(dataset, folder, **changes)), Rates()
    trainer._hooks.insert(0, rates)
    rates.trainer = trainer
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer, rates


def run(dataset: dict[str, str], folder: Path, *flags: str, **changes: Any) -> dict:
    return main(argument_parser().parse_args([*flags, *tiny_options(dataset, folder, **changes)]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Iterations 3 to 5, or longer; the backbone has a tenth.
        ({"SOLVER__BASE_LR": 5e-4}, [5e-4] * 3),
        ({"SOLVER__STEPS": (4,)}, [1e-3, 1e-4, 1e-4]),
        ({"SOLVER__STEPS": (2, 5), "SOLVER__GAMMA": 0.5}, [5e-4, 5e-4, 2.5e-4]),
        ({"SOLVER__MAX_ITER": 8, "SOLVER__STEPS": (6,), "SOLVER__BASE_LR": 2e-3}, [2e-3] * 3 + [2e-4] * 2),
        ({"SOLVER__MAX_ITER": 4}, [1e-3]),
        ({"SOLVER__EPOCHS__MAX": 4, "SOLVER__EPOCHS__STEPS": [2]}, [1e-3, 1e-4, 1e-4, 1e-4, 1e-4]),
        ({"SOLVER__WARMUP_ITERS": 5, "SOLVER__WARMUP_FACTOR": 0.0}, [6e-4, 8e-4, 1e-3]),
    ],
)
def test_rates_are_those_of_the_new_schedule(
    dataset: dict[str, str], three_iterations: Path, tmp_path: Path, changes: dict[str, Any], expected: list[float]
) -> None:
    shutil.copytree(three_iterations, tmp_path, dirs_exist_ok=True)
    _, resumed = trained(dataset, tmp_path, resume=True, **changes)
    _, anew = trained(dataset, tmp_path / "anew", **changes)
    assert [rates for i, rates in anew.of.items() if i >= 3] == list(resumed.of.values())
    assert [other for _, other in resumed.of.values()] == pytest.approx(expected)
    assert [backbone for backbone, _ in resumed.of.values()] == pytest.approx([0.1 * rate for rate in expected])


@pytest.mark.parametrize("before", [0.1, 1.0])
def test_other_groups_of_parameters_keep_what_the_optimizer_knows(
    dataset: dict[str, str], tmp_path: Path, before: float
) -> None:
    """A multiplier of 1 makes one group of two, whose parameters are in another order."""
    old, _ = trained(dataset, tmp_path, SOLVER__MAX_ITER=3, SOLVER__BACKBONE_MULTIPLIER=before)
    cfg = tiny_config(dataset, tmp_path, SOLVER__BACKBONE_MULTIPLIER=1.1 - before, SOLVER__WEIGHT_DECAY=0.5)
    new = Trainer(cfg)
    new.resume_or_load(resume=True)
    assert len(old.optimizer.param_groups) != len(new.optimizer.param_groups)
    assert {group["weight_decay"] for group in new.optimizer.param_groups} == {0.5, 1e-4}
    old_parameters = dict(old.model.named_parameters())
    for name, parameter in new.model.named_parameters():
        for key, value in old.optimizer.state[old_parameters[name]].items():
            assert torch.equal(new.optimizer.state[parameter][key], value), (name, key)
    new.train()


def test_what_counts_is_said_and_what_does_not_is_not(
    dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(dataset, tmp_path, SOLVER__MAX_ITER=3)
    counts = {
        "SOLVER__BASE_LR": 5e-4,
        "SOLVER__CHECKPOINT_PERIOD": 100,
        "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 0.2,
        "SOLVER__IMS_PER_BATCH": 2,
        "SOLVER__AMP__ENABLED": True,
        "MODEL__DETR__LOSS__GIOU": 3.0,
        "MODEL__DETR__DROPOUT": 0.0,
        "INPUT__RANDOM_FLIP": "none",
        "SEED": 2,
    }
    silent = {
        "DATALOADER__NUM_WORKERS": 1,
        "TEST__IMS_PER_BATCH": 2,
        "SOLVER__MOMENTUM": 0.5,
        "MODEL__BACKBONE__FREEZE_AT": 0,
        "MODEL__WEIGHTS": "elsewhere.pth",
        "INPUT__MIN_SIZE_TEST": 16,
        "VIS_PERIOD": 3,
    }
    run(dataset, tmp_path, "--resume", **counts, **silent)
    (record,) = (record for record in caplog.records if record.message.startswith("Resuming"))
    title, *lines = record.message.splitlines()
    assert title.endswith("which count from iteration 3 on:")
    assert {line.partition(":")[0].replace(".", "__") for line in lines} == {*counts, "SOLVER__MAX_ITER"}
    assert "SOLVER.BASE_LR: 0.001 -> 0.0005" in lines
    assert "SEED: 1 -> 2 (another order of images, and other random numbers, from here on)" in lines
    caplog.clear()
    run(dataset, tmp_path, "--resume", **counts, SOLVER__MAX_ITER=7)
    (record,) = (record for record in caplog.records if record.message.startswith("Resuming"))
    assert record.message.splitlines()[1:] == ["SOLVER.MAX_ITER: 6 -> 7"]
    caplog.clear()
    run(dataset, tmp_path, "--resume", **counts, SOLVER__MAX_ITER=7)
    assert "Resuming" not in caplog.text


# The changes, what is said, and those of them that the weights of the checkpoint can start a new run with.
REFUSED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "optimizer": ({"SOLVER__OPTIMIZER": "SGD"}, r"SOLVER\.OPTIMIZER was ADAMW and is SGD", True),
    "queries": ({"MODEL__DETR__NUM_QUERIES": 7}, r"MODEL\.DETR\.NUM_QUERIES was 5 and is 7", True),
    "variant": (
        {"MODEL__DETR__VARIANT": "conditional_detr"},
        r"MODEL\.DETR\.VARIANT was pair_detr and is conditional_detr",
        True,
    ),
    "agnostic": ({"MODEL__DETR__CLASS_AGNOSTIC": True}, r"CLASS_AGNOSTIC was False and is True", True),
    "decoding": ({"MODEL__DETR__PAIR__BOX_DECODING": "pair"}, r"BOX_DECODING was center and is pair", True),
    "groups": ({"MODEL__DETR__QUERY_GROUPS": 2}, r"MODEL\.DETR\.QUERY_GROUPS was 1 and is 2", True),
    "dense": ({"MODEL__DETR__DENSE__ENABLED": True}, r"MODEL\.DETR\.DENSE\.ENABLED was False and is True", True),
    "one to many": ({"MODEL__DETR__PAIR__QUERIES_PER_OBJECT": 4}, r"QUERIES_PER_OBJECT was 1 and is 4", True),
    "heads": ({"MODEL__DETR__NUM_HEADS": 4}, r"MODEL\.DETR\.NUM_HEADS was 2 and is 4", False),
    "width": ({"MODEL__DETR__HIDDEN_DIM": 32}, r"MODEL\.DETR\.HIDDEN_DIM was 16 and is 32", False),
    "layers": ({"MODEL__DETR__DEC_LAYERS": 1}, r"MODEL\.DETR\.DEC_LAYERS was 2 and is 1", False),
    "backbone": ({"MODEL__CONVNET__CHANNELS": [4, 4]}, r"CONVNET\.CHANNELS was \[4, 8\] and is \[4, 4\]", False),
    "pixels": ({"INPUT__FORMAT": "BGR"}, r"INPUT\.FORMAT was RGB and is BGR", False),
    "softmax": ({"MODEL__DETR__LOSS__CLASSIFICATION": "softmax"}, r"CLASSIFICATION was focal and is softmax", False),
    "two": (
        {"SOLVER__OPTIMIZER": "SGD", "MODEL__DETR__NUM_HEADS": 4},
        r"NUM_HEADS was 2 and is 4; SOLVER\.OPTIMIZER was|OPTIMIZER was ADAMW and is SGD; MODEL",
        False,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_change_is_refused_before_the_data_are_read(
    dataset: dict[str, str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    changes, message, is_warm_start = REFUSED[case]
    shutil.copytree(checkpoint, tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr("pair_detr.engine.launch.Trainer", lambda cfg: pytest.fail("training was set up"))
        with pytest.raises(ResumeError, match=rf"model_0000000\.pth cannot be resumed.*{message}") as raised:
            run(dataset, tmp_path / "old", "--resume", **changes)
    text = str(raised.value)
    assert "\n" not in text
    assert ("from its weights" in text) == is_warm_start
    assert "another OUTPUT_DIR and without --resume" in text
    weights = re.search(r"MODEL\.WEIGHTS (\S+)\)", text)[1] if is_warm_start else str(tmp_path / "old/model_final.pth")
    if is_warm_start:
        run(dataset, tmp_path / "new", MODEL__WEIGHTS=weights, SOLVER__MAX_ITER=1, **changes)
    else:
        with pytest.raises(CheckpointError):
            run(dataset, tmp_path / "new", MODEL__WEIGHTS=weights, SOLVER__MAX_ITER=1, **changes)


def test_other_frozen_stages_are_refused(dataset: dict[str, str], tmp_path: Path) -> None:
    run(dataset, tmp_path, SOLVER__MAX_ITER=1, MODEL__BACKBONE__FREEZE_AT=2, **RESNET)
    changes = {"MODEL__BACKBONE__FREEZE_AT": 0, **RESNET}
    with pytest.raises(ResumeError, match=r"MODEL\.BACKBONE\.FREEZE_AT was 2 and is 0.*MODEL\.WEIGHTS"):
        run(dataset, tmp_path, "--resume", **changes)
    weights = str(tmp_path / "model_final.pth")
    run(dataset, tmp_path / "new", MODEL__WEIGHTS=weights, SOLVER__MAX_ITER=1, **changes)


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [("MODEL.CLIP.QUERIES", "none", "content"), ("MODEL.CLIP.OBJECTNESS", False, True)],
)
def test_what_texts_are_used_for_needs_a_new_run(key: str, before: object, now: object) -> None:
    """It adds parameters; the weights may start it."""
    difference = Difference(key, before, now)
    assert difference.is_refused
    assert difference.is_warm_start


def test_in_python_the_trainer_compares(dataset: dict[str, str], checkpoint: Path) -> None:
    with pytest.raises(ResumeError, match=r"SOLVER\.OPTIMIZER was ADAMW"):
        trained(dataset, checkpoint, resume=True, SOLVER__OPTIMIZER="SGD")


def test_nothing_left_to_train(dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(dataset, tmp_path, SOLVER__MAX_ITER=5)
    for iterations in (5, 2):
        caplog.clear()
        _, rates = trained(dataset, tmp_path, resume=True, SOLVER__MAX_ITER=iterations)
        assert not rates.of
        assert f"Nothing is left to train: {tmp_path}/model_0000004.pth is of iteration 5" in caplog.text
        assert f"SOLVER.MAX_ITER is {iterations}. Raise it" in caplog.text
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 4


def test_classes_are_compared_before_the_data_are_read(
    dataset: dict[str, str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "old")
    content = torch.load(tmp_path / "old" / "model_0000000.pth")
    assert MetadataCatalog.get(dataset["NAME"]).thing_classes == ["one", "two"]
    monkeypatch.setattr("pair_detr.engine.launch.Trainer", lambda cfg: pytest.fail("training was set up"))
    for names, difference in ((["two", "one"], "in another order"), (["one", "zwei"], "in the second alone: zwei")):
        content["pair_detr"]["class_names"] = names
        torch.save(content, tmp_path / "old" / "model_0000000.pth")
        with pytest.raises(
            CheckpointError, match=rf"have 2 classes \(one, two\), but .*model_0000000\.pth .*{difference}"
        ):
            run(dataset, tmp_path / "old", "--resume")


def older(path: Path, change: Callable[[dict], None] = lambda content: None) -> None:
    """A checkpoint from before these things were saved."""
    content = torch.load(path)
    del content["pair_detr"]["training"], content["trainer"]["parameters"]
    change(content)
    torch.save(content, path)


def test_older_checkpoints(dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = trained(dataset, tmp_path / "whole")
    trained(dataset, tmp_path / "parts", SOLVER__MAX_ITER=3)
    older(tmp_path / "parts" / "model_0000002.pth")
    parts, _ = trained(dataset, tmp_path / "parts", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    assert "Resuming" not in caplog.text

    older(tmp_path / "parts" / "model_0000005.pth")
    _, rates = trained(dataset, tmp_path / "parts", resume=True, SOLVER__BASE_LR=5e-4, SOLVER__MAX_ITER=7)
    assert rates.of == {6: pytest.approx((5e-5, 5e-4))}
    assert re.search(r"other rates .*\n(?:.*\n)*learning rate of \d+ parameters: 0\.001 -> 0\.0005", caplog.text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SOLVER__OPTIMIZER": "SGD"}, r"it has the state of another SOLVER\.OPTIMIZER\. Set back"),
        (
            {"SOLVER__BACKBONE_MULTIPLIER": 1.0},
            r"groups of \[\d+, .* the config's are of \[\d+, \d+\]: .*BACKBONE_M",
        ),
    ],
)
def test_older_checkpoints_of_another_optimizer(
    dataset: dict[str, str], checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(checkpoint, tmp_path / "old")
    older(tmp_path / "old" / "model_0000000.pth")
    with pytest.raises(ResumeError, match=rf"model_0000000\.pth cannot be resumed.*{message}"):
        trained(dataset, tmp_path / "old", resume=True, **changes)


def test_an_evaluation_compares_what_tensors_do_not_show(dataset: dict[str, str], tmp_path: Path) -> None:
    tests = {"DATASETS__TEST": (dataset["NAME"],)}
    run(dataset, tmp_path, SOLVER__MAX_ITER=1)
    for changes in ({"MODEL__PIXEL_MEAN": [1.0, 2.0, 3.0]}, {"MODEL__DETR__NUM_HEADS": 4}):
        (key,) = (key.replace("__", r"\.") for key in changes)
        with pytest.raises(CheckpointError, match=rf"The checkpoint .*model_0000000\.pth does not fit .*{key}"):
            run(dataset, tmp_path, "--eval-only", "--resume", **tests, **changes)
    # The optimizer and the schedule play no part.
    run(dataset, tmp_path, "--eval-only", "--resume", SOLVER__OPTIMIZER="SGD", SOLVER__MAX_ITER=9, **tests)


def test_damaged_checkpoints_are_passed_over(dataset: dict[str, str], tmp_path: Path) -> None:
    trained(dataset, tmp_path, SOLVER__MAX_ITER=2, SOLVER__CHECKPOINT_PERIOD=1)
    path = tmp_path / "model_0000001.pth"
    path.write_bytes(path.read_bytes()[:1000])
    cfg = load_config("", tiny_options(dataset, tmp_path))
    assert require_resumable(cfg).path == tmp_path / "model_0000000.pth"
    for path in tmp_path.glob("model_*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read\. Start anew without --resume"):
        require_resumable(cfg)
    for path in (tmp_path / "last_checkpoint", *tmp_path.glob("model_*.pth")):
        path.unlink()
    assert require_resumable(cfg) is None


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_several_processes_say_the_same(dataset: dict[str, str], tmp_path: Path) -> None:
    def arguments(*flags: str, **changes: Any) -> argparse.Namespace:
        return argument_parser().parse_args(["--num-gpus", "2", *flags, *tiny_options(dataset, tmp_path, **changes)])

    run(dataset, tmp_path, SOLVER__MAX_ITER=1)
    with pytest.raises(ResumeError) as raised:
        run(dataset, tmp_path, "--resume", SOLVER__OPTIMIZER="SGD")
    with pytest.raises(WorkerError, match=f"^{re.escape(str(raised.value))}$"):
        launch(arguments("--resume", SOLVER__OPTIMIZER="SGD"))
    launch(arguments("--resume", SOLVER__MAX_ITER=2))
    assert (tmp_path / "log.txt").read_text().count("number of processes: 1 -> 2") == 1
    assert "number of processes" not in (tmp_path / "log.txt.rank1").read_text()
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 1
