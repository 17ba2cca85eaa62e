"""Weights as torch.compile, DataParallel, averages of models and Lightning save them; the names are those of the real
wrappers where torch has them."""

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_helpers import BACKBONES, DETECTORS, assert_same, laid_out, theirs, tiny_state
from model_helpers import VARIANTS, build, tiny_cfg
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pair_detr.checkpoint import METADATA, ConversionError, convert, read_checkpoint, read_state_dict
from pair_detr.checkpoint.formats.registry import Layout
from pair_detr.checkpoint.weights import CheckpointError, load_weights, read_weights
from pair_detr.checkpoint.wrappers import unwrap
from pair_detr.tools import convert_weights

State = dict[str, Tensor]


def module_of(state: State) -> nn.Module:
    """A module with that state dict."""
    root = nn.Module()
    for key, tensor in state.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(name, tensor)
    return root


def compiled_part(state: State) -> State:
    module = module_of(state)
    name = next(name for name, _ in module.named_children())
    setattr(module, name, torch.compile(getattr(module, name)))
    return dict(module.state_dict())


class Lightning(nn.Module):
    """A user's module, that has the model as an attribute."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, model)


WRAPPERS: dict[str, Callable[[State], State]] = {
    "compiled": lambda state: torch.compile(module_of(state)).state_dict(),
    "part compiled": compiled_part,
    "parallel": lambda state: nn.DataParallel(module_of(state)).state_dict(),
    "parallel, compiled": lambda state: torch.compile(nn.DataParallel(module_of(state))).state_dict(),
    "compiled, parallel": lambda state: nn.DataParallel(torch.compile(module_of(state))).state_dict(),
    "average": lambda state: AveragedModel(module_of(state)).state_dict(),
    "average of parallel": lambda state: AveragedModel(nn.DataParallel(module_of(state))).state_dict(),
    "Lightning": lambda state: Lightning(module_of(state), "model").state_dict(),
    "Lightning, net": lambda state: Lightning(module_of(state), "net").state_dict(),
    "Lightning, detector": lambda state: Lightning(module_of(state), "detector").state_dict(),
    "Lightning, compiled": lambda state: Lightning(torch.compile(module_of(state)), "model").state_dict(),
    "Lightning, strategy": lambda state: {
        f"_forward_module.{key}": x for key, x in Lightning(module_of(state), "model").state_dict().items()
    },
    "parallel in Lightning": lambda state: Lightning(nn.DataParallel(module_of(state)), "detector").state_dict(),
    "nested twice": lambda state: Lightning(Lightning(module_of(state), "model"), "lit").state_dict(),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("source", ["detr", "transformers", "ours"])
def test_wrapped_weights_are_read_as_if_they_were_not(
    tmp_path: Path, wrapper: str, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys of transformers and of this package begin with model. and detector. by themselves."""
    expected = tiny_state("detr") if source == "ours" else theirs(source, "detr")
    torch.save({"state_dict": WRAPPERS[wrapper](expected)}, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        assert_same(read_state_dict(tmp_path / "a.pth"), expected)
    assert re.search(r"a\.pth: removed .*(_orig_mod|module|model|net|detector)\.", caplog.text)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(("first", "second"), [("modelTeacher.", "modelStudent."), ("model1.", "model2.")])
@pytest.mark.parametrize("source", ["detr", "ours"])
def test_several_models_are_named(tmp_path: Path, prefix: str, first: str, second: str, source: str) -> None:
    """With what they have in common, nothing says which of them is meant; the command that is named takes one."""
    state = tiny_state("detr") if source == "ours" else theirs(source, "detr")
    content = renamed(prefix + first, state) | renamed(prefix + second, shifted(state))
    torch.save(content, tmp_path / "a.pth")
    names = f"{prefix}{first[:-1]}, {prefix}{second[:-1]}"
    message = f"There are several models, under {re.escape(names)}, .* --entry {re.escape(prefix + first[:-1])} FILE"
    with pytest.raises(CheckpointError, match=message):
        read_weights(str(tmp_path / "a.pth"))
    assert_same(read_checkpoint(tmp_path / "a.pth", entry=prefix + second[:-1]).state, shifted(state))


def test_teacher_and_student_next_to_another_module_are_named(tmp_path: Path) -> None:
    state = tiny_state("detr")
    content = renamed("student.", state) | renamed("teacher.", state) | {"projector.weight": torch.ones(2, 2)}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="several models, under student, teacher, and"):
        read_weights(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("prefix", ["", "detector.", "model.module."])
@pytest.mark.parametrize(
    # Tiny states have no mask head.
    "layout",
    [layout for layout in (*DETECTORS, *BACKBONES) if "masks" not in layout.name],
    ids=lambda layout: layout.name,
)
def test_every_layout_is_found_below_a_prefix_and_stays_as_it_is_without(layout: Layout, prefix: str) -> None:
    state = tiny_state(layout.variant or "detr")
    if layout.variant is None:
        state = {key: tensor for key, tensor in state.items() if "backbone" in key}
    expected = laid_out(state, layout)
    if layout.variant is None and prefix == "detector.":
        prefix = "backbone."
    found = unwrap({prefix + key: tensor for key, tensor in expected.items()})
    assert_same(found.state, expected)
    assert "".join(found.removed) == prefix


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prefix", ["", "model.", "lit.model.", "net._orig_mod."])
def test_own_weights_with_or_without_the_meta_architecture(variant: str, prefix: str) -> None:
    model = build(tiny_cfg(variant))
    expected = dict(model.state_dict())
    for part in (model, model.detector):
        found = unwrap({prefix + key: tensor for key, tensor in part.state_dict().items()})
        assert_same(found.state, expected)
    backbone = {key: tensor for key, tensor in expected.items() if ".backbone." in key}
    assert_same(unwrap(backbone).state, backbone)


def lightning_file(path: Path, state: State) -> None:
    """What Lightning's Trainer.save_checkpoint writes of a module with a criterion and a metric."""
    content = {
        "epoch": 3,
        "global_step": 300,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {"criterion.empty_weight": torch.ones(4), "val_map.classes": torch.zeros(1), **state},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_path": "a.ckpt", "best": torch.ones(())}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
        "lr_schedulers": [{"last_epoch": 3}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-4},
    }
    torch.save(content, path)


def test_files_of_lightning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.ckpt"
    lightning_file(path, {f"model.{key}": tensor for key, tensor in theirs("detr", "detr").items()})
    with caplog.at_level(logging.INFO):
        weights = read_weights(str(path))
    assert weights.layout == "official DETR"
    assert_same(weights.state, tiny_state("detr"))
    assert "left out 2 tensors beside the model's: criterion.empty_weight, val_map.classes" in caplog.text


def test_names_that_are_not_a_wrapper_s_stay(tmp_path: Path) -> None:
    """A model with two parts is none of them; nothing of it is left out."""
    state = {f"backbone.{key}": tensor for key, tensor in theirs("torchvision", None).items()}
    assert_same(unwrap(state | {"neck.weight": torch.zeros(2)}).state, state | {"neck.weight": torch.zeros(2)})
    unknown = {"model.a.weight": torch.zeros(1), "model.b.weight": torch.zeros(1)}
    assert unwrap(unknown).state.keys() == unknown.keys()
    with pytest.raises(ConversionError, match=r"two tensors a\.weight"):
        unwrap({"_orig_mod.a.weight": torch.zeros(1), "a.weight": torch.ones(1)})


def test_what_was_looked_at_is_said(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a.weight": torch.zeros(1), "module.b.weight": torch.zeros(1)}}, tmp_path / "a")
    message = r"of no known source.*Looked at the 2 tensors of entry 'state_dict', without module\. in their names"
    with pytest.raises(CheckpointError, match=rf"(?s){message}"):
        read_weights(str(tmp_path / "a"))
    # A model that is nearly known is compared without its prefix.
    state = {f"model.{key}": tensor for key, tensor in theirs("detr", "detr").items()}
    state["model.denoising.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"(?s)closest are\nofficial DETR: .*unexpected: denoising\.weight"):
        read_weights(str(tmp_path / "a"))


def shifted(state: State) -> State:
    return {key: tensor + 1 for key, tensor in state.items()}


def renamed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


# What a file holds, given the weights and their average.
AVERAGES: dict[str, Callable[[State, State], dict[str, Any]]] = {
    "model_ema": lambda state, average: {"model": state, "model_ema": average, "epoch": 1},
    "ema.module": lambda state, average: {"model": state, "ema": {"module": average, "updates": 100}},
    "ema, counted": lambda state, average: {"model": state, "ema_state": {"num_updates": 5, **average}},
    "AveragedModel": lambda state, average: {
        "model": state,
        "ema_model": {"n_averaged": torch.tensor(3), **renamed("module.", average)},
    },
    "Lightning": lambda state, average: {
        "state_dict": renamed("model.", state) | renamed("ema_model.module.", average) | {"loss.w": torch.ones(2)}
    },
    "callback of Lightning": lambda state, average: {
        "state_dict": renamed("model.", state),
        "callbacks": {"EMACallback": {"decay": 0.99, "ema_weights": renamed("model.", average)}},
    },
    "own name": lambda state, average: {"model": state, "averaged_model": average},
    "timm": lambda state, average: {"state_dict": state, "state_dict_ema": average},
}


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("source", ["detr", "ours"])
def test_the_command_that_the_warning_gives_takes_the_average(
    tmp_path: Path, kind: str, source: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)
    state = tiny_state("detr") if source == "ours" else theirs("detr", "detr")
    path = tmp_path / "check point.pth"
    content = AVERAGES[kind](state, shifted(state))
    torch.save(content | {METADATA: {"class_names": ["a", "b", "c"], "config": {}}}, path)
    with caplog.at_level(logging.WARNING):
        assert_same(read_weights(str(path)).state, tiny_state("detr"))
    (command,) = re.findall(r"To take the averages: (.*), and set MODEL\.WEIGHTS to the new file", caplog.text)
    python, flag, module, *arguments = shlex.split(command)
    assert (python, flag, module) == ("python", "-m", "pair_detr.tools.convert_weights")
    convert_weights.main(arguments)
    assert arguments[-1] == str(tmp_path / "check point_ema.pth")
    average = read_weights(arguments[-1])
    assert_same(average.state, shifted(tiny_state("detr")))
    if source == "ours":
        assert average.class_names == ["a", "b", "c"]


def test_the_average_evaluates(tmp_path: Path) -> None:
    """Own weights of an average, as MODEL.WEIGHTS."""
    model = build(tiny_cfg("pair_detr"))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.save({"model": state, "ema": {"module": shifted(state)}}, tmp_path / "a.pth")
    arguments = [str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]
    with pytest.raises(ConversionError, match="holds this package's weights already"):
        convert_weights.main(arguments)
    convert_weights.main([*arguments, "--entry", "ema.module"])
    load_weights(model, read_weights(str(tmp_path / "b.pth")), complete=True)
    assert_same(dict(model.state_dict()), shifted(state))


def test_mmengine_saves_the_average_as_the_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its EMAHook exchanges the two before it saves them."""
    state = theirs("mmdet", "conditional_detr")
    plain = {"steps": torch.tensor(9), **renamed("module.", state)}
    torch.save({"state_dict": shifted(state), "ema_state_dict": plain}, tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING):
        assert_same(read_state_dict(tmp_path / "a.pth"), shifted(state))
    assert "averaged" not in caplog.text
    assert_same(read_checkpoint(tmp_path / "a.pth", entry="ema_state_dict").state, state)
    assert convert(read_checkpoint(tmp_path / "a.pth")).metadata["source"] == "mmdet"
