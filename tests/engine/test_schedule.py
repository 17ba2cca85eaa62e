from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from engine_helpers import default_config

from pair_detr.config.validation import flatten, idle_keys
from pair_detr.config_files import load_config
from pair_detr.engine import Trainer
from pair_detr.engine.solver import build_lr_scheduler, resolve_epochs, warn_of_ignored_iterations


def config(**epochs: object) -> CfgNode:
    cfg = default_config()
    cfg.SOLVER.IMS_PER_BATCH = 16
    for key, value in epochs.items():
        cfg.SOLVER.EPOCHS[key] = value
    cfg.freeze()
    return cfg


def test_coco() -> None:
    """50 epochs of COCO's 118,287 images at 16 a batch: 7392.94 iterations each."""
    cfg = config(MAX=50, STEPS=[40], CHECKPOINT_PERIOD=1, EVAL_PERIOD=5)
    resolved = resolve_epochs(cfg, 118287)
    assert resolved.SOLVER.MAX_ITER == 369647
    assert resolved.SOLVER.STEPS == (295718,)
    assert resolved.SOLVER.CHECKPOINT_PERIOD == 7393
    assert resolved.TEST.EVAL_PERIOD == 36965
    assert resolved.is_frozen()
    assert cfg.SOLVER.MAX_ITER != resolved.SOLVER.MAX_ITER


def test_at_the_end_only() -> None:
    resolved = resolve_epochs(config(MAX=3, CHECKPOINT_PERIOD=0, EVAL_PERIOD=0), 32)
    assert resolved.SOLVER.MAX_ITER == 6
    assert resolved.SOLVER.CHECKPOINT_PERIOD > 6
    assert resolved.TEST.EVAL_PERIOD == 0


def test_fewer_images_than_a_batch() -> None:
    resolved = resolve_epochs(config(MAX=3, STEPS=[2]), 4)
    assert resolved.SOLVER.MAX_ITER == 1
    assert resolved.SOLVER.CHECKPOINT_PERIOD == 1


def test_iterations_stay() -> None:
    cfg = config()
    assert resolve_epochs(cfg, 1000) is cfg


def test_iterations_that_do_not_count_are_named(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(MAX=5)
    warn_of_ignored_iterations(cfg)
    cfg.defrost()
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.EPOCHS.MAX = 100, 10, 0
    warn_of_ignored_iterations(cfg)
    assert not caplog.messages
    cfg.SOLVER.EPOCHS.MAX = 5
    warn_of_ignored_iterations(cfg)
    (message,) = caplog.messages
    assert message.startswith("Ignored, as SOLVER.EPOCHS.MAX is ") and "SOLVER.MAX_ITER, TEST.EVAL_PERIOD." in message
    assert "Set SOLVER.EPOCHS.MAX 0 to count in iterations" in message


@pytest.mark.parametrize("steps", [[4, 2], [2, 2], [5], [0]])
def test_steps_that_make_no_sense(steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"SOLVER.EPOCHS.STEPS .* must ascend"):
        resolve_epochs(config(MAX=5, STEPS=steps), 1000)


def test_no_images() -> None:
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN"):
        resolve_epochs(config(MAX=5), 0)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """base.yaml, which counts 12 epochs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("SOLVER: {EPOCHS: {MAX: 12, STEPS: [10]}}")


def lengths(cfg: CfgNode) -> tuple[int, int]:
    """In iterations and in epochs, where 0 epochs let the iterations count."""
    return cfg.SOLVER.MAX_ITER, cfg.SOLVER.EPOCHS.MAX


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("own", "options", "expected", "source"),
    [
        # Command line over YAML.
        ("", "SOLVER.MAX_ITER 7", (7, 0), "The options: SOLVER.MAX_ITER"),
        ("", "SOLVER.STEPS (5,)", (40000, 0), "The options: SOLVER.STEPS"),
        ("", "SOLVER.MAX_ITER 7 SOLVER.STEPS (5,)", (7, 0), "The options: SOLVER.MAX_ITER and SOLVER.STEPS"),
        ("SOLVER: {MAX_ITER: 7}", "SOLVER.EPOCHS.MAX 3 SOLVER.EPOCHS.STEPS []", (7, 3), ""),
        ("SOLVER: {MAX_ITER: 7}", "SOLVER.MAX_ITER 9", (9, 0), "own.yaml: SOLVER.MAX_ITER"),
        # YAML over its base.
        ("SOLVER: {MAX_ITER: 7}", "", (7, 0), "own.yaml: SOLVER.MAX_ITER"),
        ("SOLVER: {STEPS: [5]}", "", (40000, 0), "own.yaml: SOLVER.STEPS"),
        ("SOLVER: {EPOCHS: {MAX: 3, STEPS: [2]}}", "", (40000, 3), ""),
        # Counting in iterations as it had to be asked for before.
        ("SOLVER: {MAX_ITER: 7, EPOCHS: {MAX: 0}}", "", (7, 0), ""),
        ("", "SOLVER.EPOCHS.MAX 0 SOLVER.MAX_ITER 7", (7, 0), ""),
        # The default's value is as explicit as any other.
        ("", "SOLVER.MAX_ITER 40000", (40000, 0), "The options: SOLVER.MAX_ITER"),
        # Neither is set.
        ("SEED: 1", "SEED 2 SOLVER.EPOCHS.STEPS (3,)", (40000, 12), ""),
    ],
)
def test_the_later_source_of_a_length_counts(
    own: str, options: str, expected: tuple[int, int], source: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = Path("own.yaml")
    file.write_text(f"_BASE_: base.yaml\n{own}")
    with caplog.at_level("INFO"):
        assert lengths(load_config(str(file), options.split())) == expected
    assert len(caplog.messages) == bool(source)
    if source:
        who, _, what = source.partition(": ")
        said = f"{who}: the iterations of {what} replace the inherited SOLVER.EPOCHS.MAX 12: "
        assert caplog.messages[0].startswith(f"{said}SOLVER.MAX_ITER {expected[0]}, ")


def test_what_is_set_between_two_bases_gives_way_to_the_later(tmp_path: Path) -> None:
    for name, content in {
        "epochs": "SOLVER: {EPOCHS: {MAX: 3}}",
        "iterations": "SOLVER: {MAX_ITER: 7}",
        "first": "_BASE_: [epochs.yaml, iterations.yaml]\nSEED: 1",
        "second": "_BASE_: [iterations.yaml, epochs.yaml]\nSEED: 1",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    assert lengths(load_config(tmp_path / "first.yaml")) == (7, 0)
    assert lengths(load_config(tmp_path / "second.yaml")) == (7, 3)


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("key", ["SOLVER.MAX_ITER 7", "SOLVER.STEPS (5,)"])
def test_a_contradiction_within_one_source_is_an_error(key: str) -> None:
    name, value = key.split()
    with pytest.raises(ValueError, match=rf"^The options: {name} counts in iterations and SOLVER\.EPOCHS\.MAX 5 in ep"):
        load_config("base.yaml", ["SOLVER.EPOCHS.MAX", "5", name, value])
    short = name.rpartition(".")[2]
    Path("own.yaml").write_text(f"SOLVER: {{{short}: {value.replace('(', '[').replace(')', ']')}, EPOCHS: {{MAX: 5}}}}")
    for options in ([], ["SOLVER.MAX_ITER", "3"]):
        with pytest.raises(ValueError, match=rf"^own\.yaml: {name} counts in iterations and SOLVER\.EPOCHS\.MAX 5"):
            load_config("own.yaml", options)


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("options", "expected"), [("", (40000, 12)), ("SOLVER.MAX_ITER 7", (7, 0)), ("SOLVER.EPOCHS.MAX 5", (40000, 5))]
)
def test_the_config_that_a_run_has_written_says_the_same(options: str, expected: tuple[int, int]) -> None:
    """It has all keys, and of two runs with one length, one counts in epochs."""
    Path("own.yaml").write_text("_BASE_: base.yaml\nSOLVER: {EPOCHS: {STEPS: []}}")
    cfg = load_config("own.yaml", options.split())
    Path("written.yaml").write_text(cfg.dump())
    assert flatten(load_config("written.yaml")) == flatten(cfg)
    assert lengths(cfg) == expected
    assert lengths(load_config("written.yaml", ["SOLVER.MAX_ITER", "9"])) == (9, 0)
    # Of before iterations could win.
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EPOCHS.MAX = 1000, 12
    Path("written.yaml").write_text(cfg.dump())
    assert lengths(load_config("written.yaml")) == (1000, 12)


@pytest.mark.usefixtures("base")
def test_the_number_of_processes_scales_iterations_that_were_set_over_epochs() -> None:
    """Detectron2's --num-gpus 1 with a config for 8: an eighth of the batch, eight times the iterations."""
    options = ["SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.IMS_PER_BATCH", "16"]
    by_epochs = DefaultTrainer.auto_scale_workers(load_config("base.yaml", options), 1)
    assert (by_epochs.SOLVER.IMS_PER_BATCH, resolve_epochs(by_epochs, 100).SOLVER.MAX_ITER) == (2, 600)
    cfg = DefaultTrainer.auto_scale_workers(load_config("base.yaml", [*options, "SOLVER.MAX_ITER", "7"]), 1)
    assert (cfg.SOLVER.IMS_PER_BATCH, resolve_epochs(cfg, 100).SOLVER.MAX_ITER) == (2, 56)


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(("images_per_batch", "expected"), [(4, 300), (10, 120), (32, 38)])
def test_another_batch_size_changes_epochs_and_not_iterations(images_per_batch: int, expected: int) -> None:
    """12 epochs of 100 images."""
    options = ["SOLVER.IMS_PER_BATCH", str(images_per_batch)]
    by_epochs = resolve_epochs(load_config("base.yaml", options), 100)
    assert expected == by_epochs.SOLVER.MAX_ITER
    cfg = resolve_epochs(load_config("base.yaml", [*options, "SOLVER.MAX_ITER", "7"]), 100)
    assert lengths(cfg) == (7, 0)


@pytest.mark.usefixtures("base")
def test_what_iterations_leave_of_the_epochs(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is inherited; what is set besides the iterations has no effect, and the log says so."""
    cfg = load_config("base.yaml", ["SOLVER.MAX_ITER", "30000"])
    assert (tuple(cfg.SOLVER.STEPS), cfg.SOLVER.EPOCHS.STEPS) == ((), [])
    assert not [key for key in idle_keys(cfg) if key.startswith("SOLVER.")]
    cfg = load_config("base.yaml", ["SOLVER.MAX_ITER", "7", "SOLVER.EPOCHS.EVAL_PERIOD", "1"])
    assert idle_keys(cfg)["SOLVER.EPOCHS.EVAL_PERIOD"] == "SOLVER.EPOCHS.MAX is 0"
    assert not caplog.messages
    load_config("base.yaml", ["SOLVER.STEPS", "(5,)"])
    assert caplog.messages[-1].endswith(
        "MAX_ITER is Detectron2's default: set it as well, or SOLVER.EPOCHS.STEPS instead."
    )


def learning_rates(cfg: CfgNode) -> list[float]:
    """Of all iterations, relative to the first group's base rate."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:], "lr": 2.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(4 * first)
        found.append(first / 0.5)
        optimizer.step()
        scheduler.step()
    return found


def stable_decay(**solver: object) -> CfgNode:
    cfg = default_config()
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = "WarmupStableDecayLR", 0.5, 10
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def test_a_rate_that_is_stable_and_then_decays_on_a_line() -> None:
    """From 1 at iteration 6 to BASE_LR_END, a fifth, at 10, where the training has ended."""
    found = learning_rates(stable_decay(STEPS=(6,), BASE_LR_END=0.1))
    assert found == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4])


def test_it_warms_up_as_others_do() -> None:
    """Half of the rate at first, and all of it after 2 iterations; a second step says nothing."""
    found = learning_rates(stable_decay(STEPS=(8, 9), WARMUP_ITERS=2, WARMUP_FACTOR=0.5))
    assert found == pytest.approx([0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 0.5])


@pytest.mark.parametrize("steps", [(), (10,), (500,)])
def test_a_decay_that_never_comes_is_said(steps: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    assert learning_rates(stable_decay(STEPS=steps)) == pytest.approx([1] * 10)
    assert "has no step before SOLVER.MAX_ITER 10: the learning rate stays as it is" in caplog.text


def test_other_schedules_are_detectron2_s() -> None:
    cfg = stable_decay(STEPS=(4, 8), LR_SCHEDULER_NAME="WarmupMultiStepLR")
    assert learning_rates(cfg) == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
    with pytest.raises(ValueError, match="Unknown LR scheduler"):
        build_lr_scheduler(stable_decay(LR_SCHEDULER_NAME="none"), torch.optim.SGD([torch.zeros(1)], lr=1.0))
