import pytest
from detectron2.config import CfgNode
from engine_helpers import default_config

from pair_detr.engine.solver import resolve_epochs, warn_of_ignored_iterations


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
    assert message.startswith("SOLVER.MAX_ITER, TEST.EVAL_PERIOD do not count")
    assert "set SOLVER.EPOCHS.MAX 0 to count in iterations" in message


@pytest.mark.parametrize("steps", [[4, 2], [2, 2], [5], [0]])
def test_steps_that_make_no_sense(steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"SOLVER.EPOCHS.STEPS .* must ascend"):
        resolve_epochs(config(MAX=5, STEPS=steps), 1000)


def test_no_images() -> None:
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN"):
        resolve_epochs(config(MAX=5), 0)
