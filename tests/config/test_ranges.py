"""Values of config keys: the edges of every range, and that they are checked before anything else is done."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from config_edges import EDGES, NEEDS
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from engine_helpers import default_config, tiny_config, write_dataset
from model_helpers import tiny_cfg

from pair_detr.config.idle_keys import IDLE
from pair_detr.config.ranges import RULES
from pair_detr.config.validation import check_config, check_values, flatten
from pair_detr.config_files import config_file, load_config
from pair_detr.engine import Trainer
from pair_detr.engine.launch import argument_parser, main, run
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.predictor import Predictor
from pair_detr.tools.common import load_model_config, tool_parser

FOLDER = config_file("r50").parent
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))


def with_values(values: dict[str, Any]) -> CfgNode:
    """A config with values of any type, as users set them in Python."""
    cfg = default_config().clone()
    cfg.defrost()
    for key, value in values.items():
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        node[name] = value
    return cfg


def required_config(key: str) -> dict[str, Any]:
    return {name: value for start, needs in NEEDS.items() if key.startswith(start) for name, value in needs.items()}


@pytest.mark.parametrize("key", EDGES)
def test_edges_of_every_range(key: str) -> None:
    wrong, right = EDGES[key]
    for value in right:
        check_values(with_values({**required_config(key), key: value}))
    for value in wrong:
        with pytest.raises(ValueError, match=key.rpartition(".")[2]) as raised:
            check_values(with_values({**required_config(key), key: value}))
        # In its range alone, but not together with another key; the message has both.
        together = RULES[key].accepts(value)
        assert str(raised.value).startswith(f"{key} is {value!r}; it must be ") or together, value
        assert not together or key.rpartition(".")[0] in str(raised.value)


def test_every_rule_has_its_edges() -> None:
    assert set(EDGES) == set(RULES)


def test_every_number_and_choice_is_in_the_table() -> None:
    """What is not: names, files, the datasets' own lists, and what has never an effect."""
    idle = {
        key
        for key in flatten(default_config())
        if any(entry.matches(key) and entry.applies.__name__ == "always" for entry in IDLE)
    }
    others = {
        key
        for key, value in flatten(default_config()).items()
        if key not in RULES and key not in idle and not isinstance(value, bool)
    }
    assert others == {
        "VERSION",
        "GLOBAL.HACK",
        "DATASETS.REGISTER",
        "TEST.EVALUATOR",
        "MODEL.WEIGHTS",
        "MODEL.FPN.IN_FEATURES",
        *(f"MODEL.TIMM.{key}" for key in ("NAME", "WEIGHTS", "KWARGS")),
        *(f"MODEL.CLIP.{key}" for key in ("TEXT_WEIGHTS", "VOCABULARY", "ENCODER", "CHECKPOINT")),
        *(f"DATALOADER.DATASET_{key}" for key in ("ANN", "RATIO", "BS", "MIN_SIZES", "MAX_SIZES")),
        "DATALOADER.USE_RFS",
    }


@pytest.mark.parametrize("name", FILES)
def test_the_package_s_configs_are_in_range(name: str) -> None:
    check_values(load_config(name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MODEL.MASK_ON": "False"}, r"MODEL\.MASK_ON is 'False'; it must be True or False"),
        ({"SOLVER.NESTEROV": True, "SOLVER.MOMENTUM": 0.0, "SOLVER.OPTIMIZER": "SGD"}, "NESTEROV is True, but SOLVER"),
        ({"MODEL.DETR.HIDDEN_DIM": 32, "MODEL.DETR.NUM_HEADS": 5}, r"HIDDEN_DIM is 32; .*NUM_HEADS \(5\)"),
        ({f"MODEL.DETR.COST.{key}": 0.0 for key in ("CLASS", "L1", "GIOU")}, "COST.* are all 0"),
        ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}, r"MIN_SIZE_TRAIN is \(800,\); with .* range it must be"),
        ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range", "INPUT.MIN_SIZE_TRAIN": (9, 8)}, r"MIN_SIZE_TRAIN is \(9, 8\)"),
        ({"SOLVER.MAX_ITER": 5, "SOLVER.STEPS": (2, 5)}, r"SOLVER\.STEPS has 5, which is SOLVER\.MAX_ITER"),
        # All faults at once.
        ({"SOLVER.BASE_LR": -1.0, "SOLVER.GAMMA": -1.0}, r"BASE_LR is -1\.0; .* SOLVER\.GAMMA is -1\.0; "),
    ],
)
def test_values_that_exclude_each_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(with_values(values))


def test_keys_without_effect_are_not_refused() -> None:
    check_values(with_values({"MODEL.DETR.VARIANT": "detr", "MODEL.DETR.PAIR.TEMPERATURE": 0.0, "VIS_PERIOD": -1}))
    # In epochs, the steps of an inherited schedule in iterations do not count.
    check_values(with_values({"SOLVER.EPOCHS.MAX": 2, "SOLVER.MAX_ITER": 30000}))


@pytest.mark.parametrize(("count", "device", "good"), [(2, "cuda:1", True), (2, "cuda:2", False), (1, "cuda", True)])
def test_gpus_of_this_machine(count: int, device: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    cfg = with_values({"MODEL.DEVICE": device})
    if good:
        check_values(cfg)
    else:
        with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda:2'; it must be cpu, cuda or"):
            check_values(cfg)


def test_all_entry_points_check_before_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dataset exists here, which would be the next error; and no folder is made."""
    options = ["DATASETS.TRAIN", "('nowhere',)", "DATASETS.TEST", "('nowhere',)", "OUTPUT_DIR", str(tmp_path / "out")]
    message = r"^SOLVER\.CHECKPOINT_PERIOD is 0; it must be a whole number, 1 or more\.$"
    wrong = ["SOLVER.CHECKPOINT_PERIOD", "0"]
    for flags in ([], ["--eval-only"], ["--resume"]):
        with pytest.raises(ValueError, match=message):
            main(argument_parser().parse_args([*flags, *options, *wrong]))
    assert not (tmp_path / "out").exists()
    cfg = load_config("", [*options, *wrong])
    for start in (Trainer, Predictor, check_config):
        with pytest.raises(ValueError, match=message):
            start(cfg)
    (tmp_path / "config.yaml").write_text("MODEL: {DEVICE: cpu}")
    parser = tool_parser("A tool.", "tool")
    parser.set_defaults(config_file=str(tmp_path / "config.yaml"), opts=wrong)
    with pytest.raises(ValueError, match=message):
        load_model_config(parser.parse_args([]))
    # A model can be built on another machine than that which it is made for.
    model_cfg = tiny_cfg()
    model_cfg.MODEL.DEVICE, model_cfg.SOLVER.GAMMA = "cuda:7", -1.0
    DetectionTransformer.from_config(model_cfg)
    model_cfg.MODEL.CONVNET.CHANNELS = [8, -8]
    with pytest.raises(ValueError, match=r"MODEL\.CONVNET\.CHANNELS is \[8, -8\]"):
        DetectionTransformer.from_config(model_cfg)


@pytest.mark.parametrize("key", ["MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"])
def test_statistics_of_other_channels_are_noticed_before_the_data_are_read(key: str, tmp_path: Path) -> None:
    """No dataset exists here, which would be the next error."""
    options = ["DATASETS.TEST", "('nowhere',)", "OUTPUT_DIR", str(tmp_path / "out"), key, "[1.0, 1.0]"]
    message = rf"^{key} has 2 values, but INPUT\.FORMAT 'RGB' needs 3, one for each channel: correct "
    with pytest.raises(ValueError, match=message):
        main(argument_parser().parse_args(["--eval-only", *options]))
    with pytest.raises(ValueError, match=message):
        Predictor(load_config("", options))
    parser = tool_parser("A tool.", "tool")
    parser.set_defaults(config_file="quickstart", opts=options)
    with pytest.raises(ValueError, match=message):
        load_model_config(parser.parse_args([]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-gpus", "0"], r"--num-gpus is 0; it must be 1 or more.*set MODEL\.DEVICE cpu"),
        (["--num-gpus", "-1"], "--num-gpus is -1"),
        (["--num-machines", "0"], "--num-machines is 0; it must be 1 or more"),
        (["--machine-rank", "1"], "--machine-rank is 1; with --num-machines 1 it must be a number from 0 to 0"),
        (["--num-machines", "2", "--machine-rank", "-1"], "--machine-rank is -1; .* from 0 to 1"),
        (["--num-machines", "2"], "--num-machines is 2, but --dist-url is auto"),
    ],
)
def test_numbers_of_processes(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(argument_parser().parse_args(flags))


def test_a_training_at_the_edges(tmp_path: Path) -> None:
    """What the table allows, Detectron2's trainer does."""
    with restored_catalogs():
        dataset = write_dataset(tmp_path, "config_ranges")
        changes: dict[str, Any] = {
            "SOLVER__MAX_ITER": 2,
            "SOLVER__STEPS": (1, 9),
            "SOLVER__CHECKPOINT_PERIOD": 1,
            "SOLVER__WARMUP_FACTOR": 0.0,
            "SOLVER__WARMUP_ITERS": 1,
            "SOLVER__BIAS_LR_FACTOR": 0.0,
            "DATALOADER__NUM_WORKERS": 0,
            "MODEL__DETR__ENC_LAYERS": 0,
            "INPUT__MIN_SIZE_TEST": 0,
            "TEST__DETECTIONS_PER_IMAGE": 1,
        }
        cfg = tiny_config(dataset, tmp_path / "output", **changes)
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = math.inf
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        assert trainer.iter == 2
