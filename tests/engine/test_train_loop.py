import itertools
import math
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from engine_helpers import default_config
from torch import nn

from pair_detr.engine import AutocastTrainer, build_optimizer
from pair_detr.engine.train_loop import autocast_precision


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[torch.dtype] = []

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self.linear(batch)
        self.seen.append(output.dtype)
        # Small enough that the first scale of GradScaler, 65536, does not make float16 overflow.
        loss = output.float().square().mean() / 100
        return {"loss_box": loss, "loss_class": 2 * loss}


def make_trainer(precision: torch.dtype | None, *, batches: object = None, **kwargs: object) -> AutocastTrainer:
    cfg, model = default_config(), Model()
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1e-3
    batches = itertools.repeat(torch.ones(2, 4)) if batches is None else batches
    return AutocastTrainer(model, batches, build_optimizer(cfg, model), precision=precision, **kwargs)


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_step(precision: torch.dtype | None) -> None:
    """The forward runs in the precision asked for; the gradient that reaches AdamW is unscaled, then clipped."""
    trainer = make_trainer(precision)
    trainer.run_step()
    assert trainer.model.seen == [precision or torch.float32]
    assert trainer.model.linear.weight.dtype == torch.float32
    # After one step AdamW's average is 1 - beta1 = 0.1 times the gradient, whose norm is clipped to 1e-3.
    averages = [trainer.optimizer.state[p]["exp_avg"] for p in trainer.model.parameters()]
    assert torch.cat([a.flatten() for a in averages]).norm().item() == pytest.approx(1e-4, rel=1e-3)


def test_overflow_skips_the_update() -> None:
    trainer = make_trainer(torch.float16, batches=iter([torch.full((2, 4), 6e4)] * 2))
    before = trainer.model.linear.weight.clone()
    scale = trainer.grad_scaler.get_scale()
    trainer.run_step()
    assert torch.equal(trainer.model.linear.weight, before)
    assert trainer.grad_scaler.get_scale() == scale / 2


def test_losses_are_logged_for_their_own_iterations() -> None:
    batches = [torch.full((1, 4), float(i)) for i in range(3)]
    trainer = make_trainer(None, batches=iter(batches))
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    expected = [trainer.model.linear(batch).square().mean().item() / 100 for batch in batches]
    with EventStorage() as storage:
        for trainer.iter in range(3):
            trainer.run_step()
        assert "total_loss" not in storage.histories()
        trainer.flush_metrics()
        trainer.flush_metrics()
    histories = {name: history.values() for name, history in storage.histories().items()}
    assert [iteration for _, iteration in histories["loss_box"]] == [0, 1, 2]
    for name, factor in {"loss_box": 1, "loss_class": 2, "total_loss": 3}.items():
        assert [value for value, _ in histories[name]] == pytest.approx([factor * loss for loss in expected]), name
    assert "data_time" in histories


def test_a_loss_is_the_mean_over_the_batches_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero of a batch of the other kind is left out, one of a batch without objects is not."""
    batches = [torch.ones(1, 4), torch.zeros(1, 4), torch.zeros(1, 4)]
    # The second batch has nothing to do with loss_box. Nor has the first, but a loss that is there counts.
    lacks = {("loss_box", 4.0), ("loss_box", 0.0)}
    trainer = make_trainer(
        None, batches=iter(batches[:2]), lacks_loss=lambda batch, name: (name, batch.sum().item()) in lacks
    )
    nn.init.zeros_(trainer.model.linear.bias)
    with EventStorage() as storage:
        for trainer.iter in range(2):
            trainer.run_step()
            nn.init.zeros_(trainer.model.linear.bias)
        first, _ = trainer._pending[0].losses.tolist()
        records = []

        def gather(own: list) -> list[list]:
            records.extend(own)
            # The other process: no objects in the first step, labels of images in the second.
            return [own, [({"loss_box": 0.0, "loss_class": 1.0}, 0.0), ({"loss_class": 3.0, "loss_image": 2.0}, 0.0)]]

        monkeypatch.setattr(comm, "all_gather", gather)
        trainer.flush_metrics()
        assert [list(losses) for losses, _ in records] == [["loss_box", "loss_class"], ["loss_class"]]
        logged = {name: history.values() for name, history in storage.histories().items() if "loss" in name}
    assert logged == {
        "loss_box": [(pytest.approx(first / 2), 0)],
        "loss_class": [(pytest.approx(first + 0.5), 0), (1.5, 1)],
        "loss_image": [(2.0, 1)],
        # What is minimized: the mean over the processes.
        "total_loss": [(pytest.approx(1.5 * first + 0.5), 0), (2.5, 1)],
    }


def test_not_a_number_is_reported_with_its_iteration() -> None:
    trainer = make_trainer(None, batches=iter([torch.ones(1, 4), torch.full((1, 4), math.nan)]))
    with EventStorage():
        for trainer.iter in (7, 8):
            trainer.run_step()
        with pytest.raises(FloatingPointError, match=r"iteration 8.*loss_box.*BASE_LR"):
            trainer.flush_metrics()


def test_random_numbers_follow_from_seed_process_and_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(seed: int, iteration: int, rank: int = 0) -> float:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        torch.rand(iteration + 3)  # whatever happened before does not matter
        trainer = make_trainer(None, seed=seed)
        drawn: list[float] = []
        trainer.model.register_forward_hook(lambda *_: drawn.append(torch.rand(()).item()))
        trainer.iter = iteration
        trainer.run_step()
        return drawn[0]

    for arguments in ((0, 5), (0, 5, 1)):
        assert draw(*arguments) == draw(*arguments)
    # Processes that drop the same would average out less of the noise.
    assert len({draw(0, 5), draw(0, 6), draw(1, 5), draw(0, 5, rank=1), draw(0, 5, rank=2)}) == 5


@pytest.mark.parametrize("before", [None, torch.float16])
@pytest.mark.parametrize("after", [None, torch.float16])
def test_resume_in_another_precision(before: torch.dtype | None, after: torch.dtype | None) -> None:
    saved = make_trainer(before)
    saved.iter = 3
    saved.run_step()
    resumed = make_trainer(after)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.iter == 3
    resumed.run_step()


def test_precision_of_the_config() -> None:
    cfg = default_config()
    assert autocast_precision(cfg) is None
    cfg.SOLVER.AMP.ENABLED = True
    assert autocast_precision(cfg) is torch.bfloat16
    cfg.SOLVER.AMP.DTYPE = "float16"
    assert autocast_precision(cfg) is torch.float16
    cfg.SOLVER.AMP.DTYPE = "half"
    with pytest.raises(ValueError, match=r"SOLVER.AMP.DTYPE.*bfloat16, float16"):
        autocast_precision(cfg)


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_parts_of_a_batch_equal_the_batch(precision: torch.dtype | None) -> None:
    """Gradients, updates and the losses that are logged; by the second step the parameters have also changed."""
    batches = torch.randn(2, 6, 4)
    results = []
    for steps in (1, 3):
        torch.manual_seed(5)
        trainer = make_trainer(precision, batches=iter(batches), accumulate_steps=steps)
        with EventStorage() as storage:
            for trainer.iter in range(2):
                trainer.run_step()
            trainer.flush_metrics()
        assert len(trainer.model.seen) == 2 * steps
        assert len(storage.history("total_loss").values()) == 2
        averages = [trainer.optimizer.state[p]["exp_avg"].flatten() for p in trainer.model.parameters()]
        losses = torch.tensor([value for value, _ in storage.history("loss_class").values()])
        results.append(torch.cat([*averages, *(p.detach().flatten() for p in trainer.model.parameters()), losses]))
    tolerance = 1e-6 if precision is None else 2e-3
    assert torch.allclose(*results, rtol=tolerance, atol=1e-7 if precision is None else 1e-5)


def test_overflow_in_a_part_skips_the_update() -> None:
    batch = torch.cat([torch.ones(2, 4), torch.full((2, 4), 6e4), torch.ones(2, 4)])
    trainer = make_trainer(torch.float16, batches=iter([batch]), accumulate_steps=3)
    before, scale = trainer.model.linear.weight.clone(), trainer.grad_scaler.get_scale()
    trainer.run_step()
    assert torch.equal(trainer.model.linear.weight, before)
    assert trainer.grad_scaler.get_scale() == scale / 2


def test_processes_exchange_gradients_once_a_step(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        trainer = make_trainer(None, accumulate_steps=2)
        plain = trainer.model
        trainer.model = nn.parallel.DistributedDataParallel(plain)
        exchanges = []

        def exchange(state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
            exchanges.append(len(plain.seen))
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        trainer.model.register_comm_hook(None, exchange)
        for trainer.iter in range(2):
            trainer.run_step()
        assert exchanges == [2, 4]
    finally:
        torch.distributed.destroy_process_group()
