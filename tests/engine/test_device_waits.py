"""The training step waits for the device once, in the matcher; shown on the CPU, see :mod:`device_watch`."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from device_watch import DeviceWatch
from model_helpers import build, make_batch, tiny_cfg
from open_vocabulary_helpers import text_cfg
from segmentation_helpers import make_mask_batch, mask_cfg
from torch import Tensor, nn

from pair_detr.engine import AutocastTrainer, build_optimizer
from pair_detr.engine.weight_average import WeightAverage
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.modeling.encoder import EncoderLayer
from pair_detr.modeling.meta_arch import DetectionTransformer

SIZES, COUNTS = [(32, 40), (40, 24)], [3, 0]
BRANCHES = {
    "DROPOUT": 0.1,
    "DENSE__ENABLED": True,
    "QUERY_SELECTION": "boxes",
    "QUERY_GROUPS": 2,
    "DENOISING__GROUPS": 2,
    "DENOISING__NEGATIVES": True,
    "RELATIVE_BOXES": True,
    "BOX_BIAS": True,
}
MIXED = "MultiDatasetSampler"


def make_trainer(model: DetectionTransformer, cfg: CfgNode, batch: list[dict[str, Any]], **kwargs: Any) -> Any:
    trainer = AutocastTrainer(model, itertools.repeat(batch), build_optimizer(cfg, model), seed=0, **kwargs)
    trainer.iter = 0
    # The optimizer makes its state in the first step.
    trainer.run_step()
    return trainer


def waits_of_a_step(model: DetectionTransformer, cfg: CfgNode, batch: list[dict[str, Any]], **kwargs: Any) -> list[str]:
    """What the host waits for in a step."""
    trainer = make_trainer(model, cfg, batch, **kwargs)
    with DeviceWatch([*model.parameters(), *model.buffers()]) as watch:
        trainer.run_step()
    return watch.waits


def assert_matcher_alone(waits: list[str], times: int = 1) -> None:
    assert len(waits) == times, waits
    assert all(wait.startswith("cpu at ") and "/losses/matcher.py:" in wait for wait in waits), waits


@pytest.mark.parametrize(
    ("variant", "options", "optimizer"),
    [
        ("detr", {"DROPOUT": 0.1}, "ADAMW"),
        ("conditional_detr", {"DROPOUT": 0.1}, "SGD"),
        ("conditional_detr", {**BRANCHES, "BOX_REFINEMENT": "layers"}, "MUON"),
        ("pair_detr", {"PAIR__BOX_DECODING": "pair", "PAIR__PROJECTION_DIM": 8}, "ADAMW"),
        (
            "pair_detr",
            {
                **BRANCHES,
                "BOX_REFINEMENT": "look_forward_twice",
                "LOSS__CLASSIFICATION": "mal",
                "PAIR__QUERIES_PER_OBJECT": 2,
                "PAIR__SHARED_DECODER": True,
            },
            "MUON",
        ),
    ],
)
def test_step_waits_in_the_matcher_alone(variant: str, options: dict[str, Any], optimizer: str) -> None:
    cfg = mask_cfg(variant, **options)
    cfg.SOLVER.OPTIMIZER = optimizer
    batch = make_mask_batch(SIZES, COUNTS)
    assert_matcher_alone(waits_of_a_step(build(cfg), cfg, batch, precision=torch.bfloat16))


def test_parts_of_a_batch_wait_once_each() -> None:
    cfg = tiny_cfg()
    assert_matcher_alone(waits_of_a_step(build(cfg), cfg, make_batch(SIZES, COUNTS), accumulate_steps=2), times=2)


def test_fixed_size() -> None:
    cfg = tiny_cfg(**BRANCHES)
    cfg.INPUT.FIXED_SIZE = (40, 40)
    assert_matcher_alone(waits_of_a_step(build(cfg), cfg, make_batch(SIZES, COUNTS)))


@pytest.mark.parametrize("kind", ["max_size", "max_score", "first", "min_loss", "pair_score", "image", "wsddn"])
def test_image_labels(kind: str) -> None:
    cfg = tiny_cfg(IMAGE_LABELS__LOSS=kind)
    cfg.DATALOADER.SAMPLER_TRAIN = MIXED
    batch = make_batch(SIZES, COUNTS)
    for item in batch:
        del item["instances"]
        item |= {"ann_type": "image", "pos_category_ids": [0, 2]}
    assert_matcher_alone(waits_of_a_step(build(cfg), cfg, batch))


def test_texts_and_sampled_classes(tmp_path: Path) -> None:
    cfg = text_cfg(tmp_path, "pair_detr", **BRANCHES)
    model = build(cfg)
    for module in model.criterion.modules():
        if hasattr(module, "federated_sampler"):
            module.federated_sampler = FederatedLossSampler(torch.ones(3), limit=2)
    assert_matcher_alone(waits_of_a_step(model, cfg, make_batch(SIZES, COUNTS)))


def test_average_of_the_weights() -> None:
    cfg = tiny_cfg()
    model = build(cfg)
    average = WeightAverage(model, 0.99)
    average.after_step()
    with DeviceWatch([*model.parameters(), *model.buffers(), *average.model.parameters()]) as watch:
        average.after_step()
    assert not watch.waits


def reads_an_element(tokens: Tensor) -> None:
    tokens.max().item()


def branches_on_a_value(tokens: Tensor) -> None:
    if tokens.isnan().any():
        raise ValueError


def selects_by_a_mask(tokens: Tensor) -> Tensor:
    return tokens[tokens > 0]


def assigns_by_a_mask(tokens: Tensor) -> None:
    tokens.detach().clone()[tokens > 0] = tokens.new_zeros(())


def assigns_a_number(tokens: Tensor) -> None:
    tokens.detach().clone()[torch.zeros(1, dtype=torch.long, device=tokens.device)] = 0.0


def indexes_by_a_list(tokens: Tensor) -> Tensor:
    return tokens[[0, 0]]


def copies_from_the_host(tokens: Tensor) -> Tensor:
    return torch.tensor([1.0, 2.0], device=tokens.device)


def moves_from_the_host(tokens: Tensor) -> Tensor:
    return torch.tensor([1.0, 2.0]).to(tokens.device)


def makes_alike_from_the_host(tokens: Tensor) -> Tensor:
    return tokens.new_tensor([1.0, 2.0])


def makes_a_list(tokens: Tensor) -> list[Any]:
    return tokens.detach().tolist()


def finds_positions(tokens: Tensor) -> Tensor:
    return tokens.nonzero()


def multiplies_all(tokens: Tensor) -> Tensor:
    """Its gradient reads how many factors are zero."""
    return tokens.prod()


@pytest.mark.parametrize(
    "mistake",
    [
        reads_an_element,
        branches_on_a_value,
        selects_by_a_mask,
        assigns_by_a_mask,
        assigns_a_number,
        indexes_by_a_list,
        copies_from_the_host,
        moves_from_the_host,
        makes_alike_from_the_host,
        makes_a_list,
        finds_positions,
        multiplies_all,
    ],
)
def test_mistake_in_a_layer_is_noticed(mistake: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = EncoderLayer.forward

    def slower(layer: nn.Module, tokens: Tensor, *args: Any) -> Tensor:
        tokens = forward(layer, tokens, *args)
        mistake(tokens)
        return tokens

    monkeypatch.setattr(EncoderLayer, "forward", slower)
    cfg = tiny_cfg(ENC_LAYERS=2)
    waits = waits_of_a_step(build(cfg), cfg, make_batch(SIZES, COUNTS))
    assert len([wait for wait in waits if "matcher.py" not in wait]) >= 2, waits
