"""Operations, memory and time of models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import build, default_cfg, tiny_cfg
from torch import nn

from pair_detr.analysis import speed
from pair_detr.analysis.flops import count_flops
from pair_detr.analysis.speed import training_bytes
from pair_detr.tools import analyze, benchmark


def test_operations_of_a_tiny_detr_are_those_counted_by_hand() -> None:
    """Multiply-adds of 32 x 48 pixels at stride 8 (M = 24 cells), D = 32, Q = 7, FFN 64, and 5 per LayerNorm value."""
    model = build(tiny_cfg("detr")).eval()
    flops, uncounted = count_flops(model.detector, 32, 48)
    cells, dim, queries, ffn = 24, 32, 7, 64
    norm = 5 * dim
    encoder_layer = (
        4 * cells * dim * dim  # query, key, value and output projection
        + 2 * cells * cells * dim  # query times key, weights times value
        + 2 * cells * dim * ffn
        + 2 * cells * norm
    )
    assert flops["encoder.layers.0"] == pytest.approx(encoder_layer)
    assert flops["encoder"] == 2 * flops["encoder.layers.0"]
    decoder_layer = (
        4 * queries * dim * dim + 2 * queries * queries * dim  # self-attention
        + 2 * queries * dim * dim + 2 * queries * cells * dim  # cross-attention; the decoder projects key and value
        + 2 * queries * dim * ffn
        + 3 * queries * norm
    )  # fmt: skip
    assert flops["decoder.layers.0"] == decoder_layer
    assert flops["decoder"] == 3 * (decoder_layer + 2 * cells * dim * dim) + 3 * queries * norm
    assert flops["class_head"] == queries * dim * 4
    assert flops["box_head"] == queries * (2 * dim * dim + dim * 4)
    assert flops["input_proj"] == cells * 8 * dim
    assert flops[""] == sum(flops[name] for name in dict(model.detector.named_children()))
    assert not {name for name in uncounted if any(word in name for word in ("linear", "conv", "matmul", "attention"))}


def test_pair_detr_costs_what_conditional_detr_does() -> None:
    pair, conditional = (
        count_flops(build(tiny_cfg(v)).eval().detector, 32, 48)[0] for v in ("pair_detr", "conditional_detr")
    )
    assert pair[""] == conditional[""] > 0
    assert pair["top_left_decoder"] == 0
    # Queries and keys are twice as wide as values: 3 dims where standard attention has 2.
    standard = count_flops(build(tiny_cfg("detr")).eval().detector, 32, 48)[0]
    spatial_query = 7 * 32 * 32
    difference = conditional["decoder.layers.1.cross_attn"] - standard["decoder.layers.1.cross_attn.out_proj"]
    assert difference == 7 * 24 * 3 * 32 + 2 * spatial_query


class Squares(nn.Module):
    """x * w, squared: autograd keeps the products (and x, for the gradient of w)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1000))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        x = torch.stack([item["image"] for item in batch])
        return {"loss": ((x * self.w) ** 2).sum()}


def test_saved_bytes_count_what_backward_needs_once() -> None:
    batch = [{"image": torch.rand(1000)} for _ in range(3)]
    assert training_bytes(Squares(), batch, "cpu", "fp32") == 2 * 3 * 1000 * 4


def test_inference_takes_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = np.array([[1.0, 20.0], [9.0, 30.0], [2.0, 70.0]])
    monkeypatch.setattr(speed, "measure", lambda steps, repeats, device: rounds[:repeats, : len(steps)])
    assert speed.inference_seconds(Squares(), [[], []], "cpu", "fp32", 3) == [2, 30]


def test_default_size_is_that_of_the_config() -> None:
    cfg = default_cfg()
    assert analyze.default_size(cfg) == (800, 1067)
    cfg.INPUT.MAX_SIZE_TEST = 600
    assert analyze.default_size(cfg) == (450, 600)


def test_tool_states_modules_speed_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr(analyze.logger, "info", lambda text, *values: messages.append(text % values))
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    arguments = ["--config-file", str(tmp_path / "config.yaml"), "--sizes", "32x48", "16x16", "--batches", "1", "2"]
    arguments += ["--precisions", "fp32", "bf16", "--repeats", "1", "--output", str(tmp_path / "out" / "cost.json")]
    analyze.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"])
    content = json.loads((tmp_path / "out" / "cost.json").read_text())
    everything = content["modules"][0]
    model = build(tiny_cfg())
    assert everything["parameters"] == everything["trained"] == sum(p.numel() for p in model.detector.parameters())
    assert everything["flops"]["32x48"] == count_flops(model.eval().detector, 32, 48)[0][""]
    assert {row["module"] for row in content["modules"]} >= {
        "encoder",
        "encoder.layers",
        "top_left_decoder",
        "box_head",
    }
    cases = [(row["size"], row["precision"], row["batch"]) for row in content["speed"]]
    assert cases == [(s, p, b) for s in ("32x48", "16x16") for p in ("fp32", "bf16") for b in (1, 2)]
    memory = {case: row["saved_bytes"] for case, row in zip(cases, content["speed"], strict=True)}
    assert memory["32x48", "fp32", 2] > 1.5 * memory["32x48", "fp32", 1]
    assert memory["32x48", "fp32", 2] > memory["32x48", "bf16", 2]
    assert all(row["seconds"] > 0 for row in content["speed"])
    assert f"torch {torch.__version__}" in content["machine"]
    assert "Not counted, by number of calls: " in messages[0]
    assert "| all " in messages[0]
    assert content["machine"] in messages[1]


def test_tables_have_the_units_of_their_titles() -> None:
    row = {"size": "4x6", "batch": 4, "precision": "bf16", "saved_bytes": 3 * 2**20, "seconds": 0.05}
    cells = [cell.strip() for cell in analyze._speed_table([row]).splitlines()[2].split("|")[1:-1]]
    assert cells == ["4x6", "4", "bf16", "3.0", "50.0", "80.00"]
    row = {"module": "", "parameters": 2_500_000, "trained": 1_000_000, "flops": {"4x6": 7_000_000, "8x8": 2e9}}
    cells = [cell.strip() for cell in analyze._modules_table([row], ["8x8", "4x6"]).splitlines()[2].split("|")[1:-1]]
    assert cells == ["all", "2.500", "1.000", "2.000", "0.007"]


def test_tools_measure_models_with_masks(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    cfg.MODEL.MASK_ON = True
    (tmp_path / "config.yaml").write_text(cfg.dump())
    config, repeats = str(tmp_path / "config.yaml"), ["--repeats", "1"]
    output = tmp_path / "cost.json"
    options = ["--sizes", "32x48", "--output", str(output), "--opts", "MODEL.DEVICE", "cpu"]
    analyze.main(["--config-file", config, *repeats, *options])
    assert json.loads(output.read_text())["speed"][0]["saved_bytes"] > 0
    benchmark.main(["--config-files", config, *repeats, "--size", "32", "48", "--opts", "MODEL.DEVICE", "cpu"])


def test_bad_arguments() -> None:
    for options in (["--sizes", "800"], ["--sizes", "0x4"], ["--batches", "0"], ["--precisions", "int8"]):
        with pytest.raises(SystemExit):
            analyze.main(["--config-file", "quickstart", *options])
