"""Models that are timed against each other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import tiny_cfg

from pair_detr.analysis import comparison
from pair_detr.analysis.backends import Backend
from pair_detr.analysis.comparison import Workload, compare


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was asked for; steps of a second, but there is no memory for more than 2 images."""
    asked: list[tuple] = []

    def prepare_inference(cfg: Any, backend: Backend, folder: Any) -> Callable:
        def make(batch: list[dict]) -> Callable:
            if len(batch) > 2:
                raise torch.OutOfMemoryError
            asked.append((str(backend), len(batch), tuple(batch[0]["image"].shape)))
            return lambda: None

        return make

    monkeypatch.setattr(comparison, "prepare_inference", prepare_inference)
    monkeypatch.setattr(comparison, "measure", lambda steps, repeats, device: np.ones((repeats, len(steps))))
    monkeypatch.setattr(torch.compiler, "reset", lambda: asked.append(("reset",)))
    return asked


def test_batches_without_memory_are_left_out(calls: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = []
    monkeypatch.setattr(comparison.logger, "warning", lambda text, *values: warnings.append(text % values))
    workload = Workload("inference", [(16, 24), (32, 16)], [2, 4], boxes=0, repeats=1)
    rows = compare({"a": tiny_cfg()}, [Backend("plain"), Backend("torch")], workload, {"fp32": 1e9})
    assert [(row["size"], row["batch"], row["images_per_second"]) for row in rows[::2]] == [
        ("16x24", 2, 2.0),
        ("32x16", 2, 2.0),
    ]
    assert warnings == [f"4 images of {size} pixels: out of memory, left out." for size in ("16x24", "32x16")]
    assert calls == [
        (f"{runtime}:fp32", 2, (3, *size)) for size in ((16, 24), (32, 16)) for runtime in ("plain", "torch")
    ]
    with pytest.raises(torch.OutOfMemoryError):
        compare({"a": tiny_cfg()}, [Backend("plain")], Workload("inference", [(16, 24)], [4], 0, 1), {"fp32": 1e9})


def test_graphs_of_another_size_are_forgotten(calls: list[tuple]) -> None:
    """torch.compile gives up after eight of them, but one for any size is kept."""
    workload = Workload("inference", [(16, 24)], [1, 2], boxes=0, repeats=1)
    compare({"a": tiny_cfg()}, [Backend("cudagraphs")], workload, {"fp32": 1e9})
    assert calls.count(("reset",)) == 2
    compare({"a": tiny_cfg()}, [Backend("compiled")], workload, {"fp32": 1e9})
    assert calls.count(("reset",)) == 2
