"""SOLVER.COMPILE: how often the network is compiled, that nothing else changes, and what it needs."""

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from engine_helpers import IMAGE_SIZE, tiny_config, write_dataset
from model_helpers import build, make_batch, tiny_cfg

from pair_detr.config.validation import check_config
from pair_detr.engine import AutocastTrainer, Trainer, trainer
from pair_detr.engine.compilation import compile_for_training

FIXED = (40, 48)
BUCKETS = [(32, 48), (48, 48)]
# Tracing takes seconds a layer.
TINY = {"ENC_LAYERS": 0, "DEC_LAYERS": 1}
BRANCHES = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes", "RELATIVE_BOXES": True}
DENOISING = {**BRANCHES, "DENOISING__GROUPS": 2, "DENOISING__NEGATIVES": True}
# Sizes of images and their objects, batch by batch.
BATCHES = [
    ([(32, 40), (40, 24)], [3, 0]),
    ([(32, 48), (24, 48)], [1, 2]),
    ([(40, 48), (32, 32)], [0, 0]),
    ([(20, 48), (30, 30)], [5, 1]),
    ([(40, 40), (24, 32)], [1, 1]),
]


class Counter:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(cfg: CfgNode) -> tuple[torch.nn.Module, Counter]:
    model, counter = build(cfg).train(), Counter()
    compile_for_training(cfg, model, backend=counter)
    return model, counter


@pytest.mark.parametrize(
    ("variant", "options", "buckets", "graphs"),
    [
        ("detr", TINY, BUCKETS, 2),
        ("pair_detr", {**TINY, **BRANCHES, "PAIR__QUERIES_PER_OBJECT": 2}, BUCKETS[1:], 1),
        ("conditional_detr", {**TINY, **DENOISING}, [], 2),
    ],
)
def test_losses_and_gradients_are_those_of_the_eager_model(
    variant: str, options: dict[str, Any], buckets: list[tuple[int, int]], graphs: int
) -> None:
    """Whatever the sizes of images and their objects, it is compiled as often as promised."""
    cfg = tiny_cfg(variant, **options)
    cfg.MODEL.BACKBONE.NAME = "build_patch_backbone"
    cfg.INPUT.FIXED_SIZE, cfg.INPUT.SIZE_BUCKETS = () if buckets else FIXED, buckets
    model, counter = compiled(cfg)
    eager = copy.deepcopy(model)
    assert eager.state_dict().keys() == model.state_dict().keys()
    for sizes, counts in BATCHES:
        batch = make_batch(sizes, counts)
        losses, expected = model(batch), eager(batch)
        for name, loss in expected.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-5)
        for of_model in (losses, expected):
            sum(of_model.values()).backward()
    assert counter.graphs == graphs
    for (name, parameter), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        assert "_orig_mod" not in name
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_sizes_without_bound_are_refused() -> None:
    cfg = tiny_cfg()
    cfg.SOLVER.COMPILE = True
    with pytest.raises(ValueError, match=r"SOLVER\.COMPILE is True.* set INPUT\.FIXED_SIZE, as to \(1333, 1333\)"):
        check_config(cfg)
    cfg.INPUT.SIZE_BUCKETS = [(800, 1333)]
    with pytest.raises(ValueError, match=r"SIZE_BUCKETS is \[\(800, 1333\)\].* add \(1333, 1333\)"):
        check_config(cfg)
    cfg.INPUT.SIZE_BUCKETS = [(800, 1333), (1333, 1333)]
    check_config(cfg)
    cfg.INPUT.SIZE_BUCKETS, cfg.INPUT.FIXED_SIZE = [], FIXED
    check_config(cfg)


def test_graphs_of_what_varies_are_refused() -> None:
    cfg = tiny_cfg(**BRANCHES)
    cfg.SOLVER.CUDA_GRAPHS, cfg.INPUT.FIXED_SIZE = True, FIXED
    with pytest.raises(
        ValueError, match=r"SOLVER\.CUDA_GRAPHS replays what SOLVER\.COMPILE compiles: set that to True"
    ):
        check_config(cfg)
    cfg.SOLVER.COMPILE = True
    check_config(cfg)
    with pytest.raises(ValueError, match=r"SOLVER\.CUDA_GRAPHS needs a GPU, and MODEL\.DEVICE is cpu"):
        compile_for_training(cfg, build(cfg))
    cfg.MODEL.DETR.DENOISING.GROUPS = 2
    with pytest.raises(ValueError, match=r"each number would be recorded: set MODEL\.DETR\.DENOISING\.GROUPS 0"):
        check_config(cfg)


@pytest.mark.gpu
def test_graphs_train_as_the_eager_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded at the second batch of a size, replayed from the third on."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cfg = tiny_cfg("pair_detr", **TINY, **BRANCHES)
    cfg.INPUT.SIZE_BUCKETS, cfg.SOLVER.COMPILE, cfg.SOLVER.CUDA_GRAPHS = BUCKETS, True, True
    cfg.MODEL.DEVICE = "cuda"
    model = build(cfg).train()
    eager = copy.deepcopy(model)
    compile_for_training(cfg, model)
    totals, batches = [], [make_batch(*batch) for batch in BATCHES]
    for network in (model, eager):
        optimizer = torch.optim.SGD(network.parameters(), 1e-4)
        trainer = AutocastTrainer(network, itertools.cycle(batches), optimizer)
        for trainer.iter in range(4 * len(BATCHES)):
            trainer.run_step()
        totals.append([float(step.losses.sum()) for step in trainer._pending])
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


def test_more_sizes_than_torch_compiles_for() -> None:
    cfg = tiny_cfg()
    cfg.INPUT.SIZE_BUCKETS = BUCKETS
    limited = torch._dynamo.config.patch(recompile_limit=1)
    with (
        limited,
        pytest.raises(ValueError, match=r"There are 2 shapes of batches .* compiles a function 1 times"),
    ):
        compile_for_training(cfg, build(cfg))
    # Each number of images is another shape.
    cfg.DATALOADER.DATASET_BS = [2, 2, 3]
    limited = torch._dynamo.config.patch(recompile_limit=3)
    with limited, pytest.raises(ValueError, match="There are 4 shapes of batches"):
        compile_for_training(cfg, build(cfg))


def test_buckets_that_some_images_would_not_fit() -> None:
    cfg = tiny_cfg()
    cfg.INPUT.SIZE_BUCKETS = [(1333, 1333)]
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.DATASET_MAX_SIZES = "MultiDatasetSampler", [1333, 1500]
    with pytest.raises(ValueError, match=r"DATASET_MAX_SIZES\) pixels: add \(1500, 1500\)"):
        check_config(cfg)
    cfg = tiny_cfg()
    cfg.INPUT.SIZE_BUCKETS, cfg.INPUT.MIN_SIZE_TRAIN = [(1333, 1333)], (0,)
    with pytest.raises(ValueError, match=r"but INPUT\.MIN_SIZE_TRAIN 0 leaves them as they are"):
        check_config(cfg)


def test_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    cfg = tiny_cfg()
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and g\+\+ is not found: install g\+\+"):
        compile_for_training(cfg, build(cfg))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_compilation")


def losses_of(run: Trainer) -> dict[int, float]:
    return {iteration: value for value, iteration in run.storage.history("total_loss").values()}


def test_training_averages_resumes_and_evaluates_as_without(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation runs eagerly, and checkpoints have the names of a model that is not compiled."""
    counter = Counter()

    def compile_and_count(cfg: CfgNode, model: torch.nn.Module) -> None:
        compile_for_training(cfg, model, backend=counter)

    monkeypatch.setattr(trainer, "compile_for_training", compile_and_count)

    def train(folder: str, resume: bool = False, **changes: Any) -> Trainer:
        options = {
            "MODEL__DETR__DEC_LAYERS": 1,
            # Compiled, it draws other random numbers.
            "MODEL__DETR__DROPOUT": 0.0,
            "INPUT__FIXED_SIZE": (IMAGE_SIZE, IMAGE_SIZE),
            "SOLVER__EMA_DECAY": 0.5,
            "DATASETS__TEST": (dataset["NAME"],),
            "TEST__EVAL_PERIOD": 2,
            "SOLVER__MAX_ITER": 4,
        }
        torch.manual_seed(0)
        run = Trainer(tiny_config(dataset, tmp_path / folder, **options | changes))
        run.resume_or_load(resume=resume)
        run.train()
        return run

    expected = losses_of(train("eager"))
    found = train("compiled", SOLVER__COMPILE=True)
    assert losses_of(found) == pytest.approx(expected, rel=1e-5)
    assert counter.graphs == 1
    state = torch.load(tmp_path / "compiled" / "model_0000003.pth", weights_only=False)
    assert not [name for part in ("model", "trained_model") for name in state[part] if "_orig_mod" in name]
    train("half", SOLVER__COMPILE=True, SOLVER__MAX_ITER=2)
    resumed = losses_of(train("half", resume=True, SOLVER__COMPILE=True))
    assert resumed == pytest.approx({i: expected[i] for i in (2, 3)}, rel=1e-5)
