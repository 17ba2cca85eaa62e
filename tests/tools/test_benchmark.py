"""The tool that times models and counts what they cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import build, default_cfg, tiny_cfg, tiny_resnet_cfg

from pair_detr.analysis import comparison, matmul_rate
from pair_detr.analysis.flops import count_flops
from pair_detr.tools import benchmark

CPU = ["--opts", "MODEL.DEVICE", "cpu"]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tool logs; not caplog, as Detectron2's setup_logger stops the propagation that it needs."""
    logged: list[str] = []
    monkeypatch.setattr(benchmark.logger, "info", lambda text, *values: logged.append(text % values))
    # Smaller products of matrices do here.
    monkeypatch.setattr(matmul_rate, "_LARGEST", 64)
    monkeypatch.setattr(matmul_rate, "_SMALLEST", 64)
    return logged


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def save(tmp_path: Path, **configs: Any) -> list[str]:
    for name, cfg in configs.items():
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
    return ["--config-files", *(str(tmp_path / f"{name}.yaml") for name in configs)]


def test_inference_is_compared_turn_by_turn(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds in which the yardstick takes 2 and 8 s; the first config alone has one."""
    pytest.importorskip("transformers")

    def measure(steps: list, repeats: int, device: str) -> np.ndarray:
        assert repeats == 2
        assert len({len(step()) for step in steps}) == 1
        return np.array([[1.0, 2.0, 3.0], [2.0, 8.0, 4.0]])

    monkeypatch.setattr(comparison, "measure", measure)
    monkeypatch.setattr(benchmark, "matmul_rate", lambda device, precision: {"fp32": 1e9, "bf16": 4e9}[precision])
    ours = tiny_resnet_cfg("conditional_detr")
    arguments = save(tmp_path, a=ours, b=tiny_cfg())
    output = tmp_path / "out" / "speed.json"
    arguments += ["--sizes", "64x64", "--batches", "1", "2", "--backends", "plain:bf16", "transformers"]
    benchmark.main([*arguments, "--repeats", "2", "--output", str(output), *CPU])
    content = json.loads(output.read_text())
    assert content["matmul_rates"] == {"fp32": 1e9, "bf16": 4e9}
    assert f"torch {torch.__version__}" in content["machine"]
    a, b = arguments[1:3]
    cases = [(row["config"], row["backend"], row["batch"]) for row in content["speed"]]
    of_batch = [(a, "plain:bf16"), (a, "transformers:fp32"), (b, "plain:bf16")]
    assert cases == [(*case, images) for images in (1, 2) for case in of_batch]
    row = content["speed"][3]
    assert (row["seconds"], row["images_per_second"]) == (1.5, 2 / 1.5)
    assert (row["ratio"], row["lowest"], row["highest"]) == (0.375, 0.25, 0.5)
    flops = count_flops(build(ours).eval().detector, 64, 64)[0][""]
    assert row["matmul_share"] == pytest.approx(flops * 2 / 1.5 / 4e9)
    assert content["speed"][4]["matmul_share"] is None
    assert content["machine"] in messages[-2]
    assert "bf16 4, fp32 1" in messages[-2]
    header, _, *lines = cells(messages[-2])
    assert header[-3:] == ["ratio", "lowest-highest", "% of matmul rate"]
    assert lines[4][:8] == [a, "transformers:fp32", "64x64", "2", "5000.0", "0.40", "1.000", "1.000-1.000"]


def test_training_states_memory_and_the_matching(tmp_path: Path, messages: list[str]) -> None:
    arguments, output = save(tmp_path, a=tiny_cfg("detr")), tmp_path / "speed.json"
    arguments += ["--mode", "training", "--sizes", "32x48", "--batches", "1", "2", "--boxes", "2", "--repeats", "1"]
    benchmark.main([*arguments, "--backends", "torch", "torch:bf16", "--output", str(output), *CPU])
    rows = json.loads(output.read_text())["speed"]
    memory = {(row["backend"], row["batch"]): row["saved_bytes"] for row in rows}
    assert list(memory) == [("torch:fp32", 1), ("torch:bf16", 1), ("torch:fp32", 2), ("torch:bf16", 2)]
    assert memory["torch:fp32", 2] > 1.5 * memory["torch:fp32", 1]
    assert memory["torch:fp32", 2] > memory["torch:bf16", 2]
    assert all(0 < row["matcher_share"] < 1 for row in rows)
    assert [row["ratio"] for row in rows[::2]] == [1, 1]
    assert "2 boxes an image" in messages[-2]


def test_modules_are_counted_and_nothing_is_timed(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "compare", None)
    cfg = tiny_cfg()
    cfg.MODEL.MASK_ON = True
    arguments = [*save(tmp_path, a=cfg), "--modules", "--depth", "1", "--output", str(tmp_path / "cost.json")]
    benchmark.main([*arguments, "--sizes", "32x48", "16x16", *CPU])
    (counted,) = json.loads((tmp_path / "cost.json").read_text())["models"].values()
    everything, *parts = counted["modules"]
    model = build(cfg)
    assert everything["parameters"] == sum(p.numel() for p in model.detector.parameters())
    assert everything["flops"]["32x48"] == count_flops(model.eval().detector, 32, 48)[0][""]
    assert {row["module"] for row in parts} >= {"encoder", "decoder", "top_left_decoder", "box_head"}
    assert "| all " in messages[0]
    assert "Not counted, by number of calls: " in messages[0]
    assert "mask head is not among the operations" in messages[1]


def test_models_with_masks_are_timed(tmp_path: Path, messages: list[str]) -> None:
    cfg = tiny_cfg()
    cfg.MODEL.MASK_ON = True
    arguments = [*save(tmp_path, a=cfg), "--repeats", "1", "--sizes", "32x48", "--backends"]
    benchmark.main([*arguments, "plain", *CPU])
    benchmark.main([*arguments, "torch", "--mode", "training", *CPU])
    (row,) = cells(messages[-1])[2:]
    assert float(row[-1]) > 0


def test_tables_have_the_units_of_their_titles() -> None:
    row = {"config": "a", "backend": "torch:bf16", "size": "4x6", "batch": 4, "seconds": 0.05, "ratio": 0.5}
    row |= {"images_per_second": 80.0, "lowest": 0.4, "highest": 0.6, "matmul_share": 0.25}
    expected = ["a", "torch:bf16", "4x6", "4", "50.0", "80.00", "0.500", "0.400-0.600", "25.0"]
    assert cells(benchmark.speed_table([row]))[2] == expected
    row |= {"matcher_share": 0.03, "saved_bytes": 3 * 2**20}
    assert cells(benchmark.speed_table([row]))[2] == [*expected, "3.0", "3.0"]
    row |= {"matcher_share": None, "saved_bytes": None}
    assert cells(benchmark.speed_table([row]))[2] == [*expected, "", ""]
    row = {"module": "", "parameters": 2_500_000, "trained": 1_000_000, "flops": {"8x8": 2e9, "4x6": 7_000_000}}
    assert cells(benchmark.modules_table([row]))[2] == ["all", "2.500", "1.000", "2.000", "0.007"]


def test_default_size_is_that_of_the_config() -> None:
    cfg = default_cfg()
    assert benchmark.default_size(cfg) == (800, 1067)
    cfg.INPUT.MAX_SIZE_TEST = 600
    assert benchmark.default_size(cfg) == (450, 600)


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--sizes", "800"], ["--sizes", "0x4"], ["--batches", "0"], ["--boxes", "-1"]):
        with pytest.raises(SystemExit):
            benchmark.main(options)
    with pytest.raises(SystemExit):
        benchmark.main(["--backends", "torch:int8"])
    assert "'torch:int8' is not of the form RUNTIME or RUNTIME:PRECISION" in capsys.readouterr().err


def test_what_cannot_run_is_said_before_anything_is_prepared(messages: list[str]) -> None:
    arguments = ["--config-files", "quickstart", "--backends", "plain", "cudagraphs"]
    with pytest.raises(ValueError, match="cudagraphs:fp32 needs a GPU"):
        benchmark.main([*arguments, *CPU])
    with pytest.raises(ValueError, match=r"plain:fp32: .* a way of inference\."):
        benchmark.main([*arguments, "--mode", "training", *CPU])
    assert messages == []
