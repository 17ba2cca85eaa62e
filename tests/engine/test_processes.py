"""Two processes against one with both batches: gradients and the losses that are logged, where objects are few."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils.events import EventStorage
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from segmentation_helpers import make_mask_batch, mask_cfg
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pair_detr.engine import AutocastTrainer

# Objects of the two images of each process, step by step.
STEPS = [((2, 1), (0, 0)), ((0, 0), (0, 1)), ((0, 0), (0, 0)), ((0, 1), (3, 0)), ((1, 0), (0, 0))]
# All branches that training adds, of decoders that share their layers or do not.
BRANCHES = {
    "DENSE__ENABLED": True,
    "QUERY_SELECTION": "boxes",
    "QUERY_GROUPS": 2,
    "DENOISING__GROUPS": 2,
    "DENOISING__NEGATIVES": True,
    "BOX_REFINEMENT": "look_forward_twice",
    "BOX_BIAS": True,
    "PAIR__QUERIES_PER_OBJECT": 4,
    "LOSS__CLASSIFICATION": "mal",
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{variant: (variant, {}) for variant in VARIANTS},
    "branches": ("pair_detr", BRANCHES),
    "shared branches": ("pair_detr", BRANCHES | {"PAIR__SHARED_DECODER": True}),
    "masks": ("detr", {}),
    "masks of groups": ("conditional_detr", BRANCHES),
}
SETTINGS = tuple(CONFIGS)


def _batch(setting: str, step: int, rank: int) -> list[dict[str, Any]]:
    torch.manual_seed(10 * step + rank)
    return (make_mask_batch if "masks" in setting else make_batch)([(40, 48)] * 2, STEPS[step][rank])


def _train(setting: str, ranks: list[int], wrap: Callable[[nn.Module], nn.Module]) -> tuple[list[Any], Any]:
    """Gradients of each step with the batches of some processes, and histories of the losses."""
    variant, detr = CONFIGS[setting]
    model = build((mask_cfg if "masks" in setting else tiny_cfg)(variant, **detr))
    # Queries that predict almost the same are matched as the rounding of a machine has it.
    model.detector.query_embed.weight.data.mul_(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    batches = ([item for rank in ranks for item in _batch(setting, step, rank)] for step in range(len(STEPS)))
    trainer = AutocastTrainer(wrap(model), batches, optimizer)
    # Batch normalization would see half of the batch.
    model.detector.backbone.eval()
    gradients = []
    with EventStorage() as storage:
        for trainer.iter in range(len(STEPS)):
            trainer.run_step()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
        trainer.flush_metrics()
    return gradients, {name: history.values() for name, history in storage.histories().items() if "loss" in name}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        result = {setting: _train(setting, [rank], DistributedDataParallel) for setting in SETTINGS}
        torch.save(result, Path(folder) / f"{rank}.pth")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, warm_start: None) -> list[dict[str, Any]]:
    """The results of both processes, by setting."""
    folder = tmp_path_factory.mktemp("processes")
    mp.start_processes(_worker, (str(folder),), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pth") for rank in (0, 1)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_sparse_batches_of_two_processes_equal_one(found: list[dict[str, Any]], setting: str) -> None:
    """Fewer objects than processes, one process without any, none at all."""
    expected, logged = _train(setting, [0, 1], lambda model: model)
    for gradients, histories in (of_process[setting] for of_process in found):
        for step, by_name in enumerate(expected):
            for name, gradient in by_name.items():
                torch.testing.assert_close(gradients[step][name], gradient, rtol=1e-4, atol=1e-5, msg=f"{step} {name}")
        assert histories.keys() == logged.keys()
        for name, values in logged.items():
            # Zeros of batches without objects are logged as such, in every step.
            assert [step for _, step in histories[name]] == [step for _, step in values] == list(range(len(STEPS)))
            assert [v for v, _ in histories[name]] == pytest.approx([v for v, _ in values], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("setting", SETTINGS)
def test_logged_losses_add_up_to_the_total(found: list[dict[str, Any]], setting: str) -> None:
    _, histories = found[0][setting]
    total = [value for value, _ in histories.pop("total_loss")]
    sums = [sum(value for value, _ in values) for values in zip(*histories.values(), strict=True)]
    assert sums == pytest.approx(total, rel=1e-6)
    assert any(value == 0 for value, _ in histories["loss_box"])
