"""configs/finetune: on one's own classes, from published weights by name."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset
from model_helpers import build, tiny_resnet_cfg

from pair_detr.checkpoint.zoo import ZOO
from pair_detr.config_files import load_config
from pair_detr.engine import argument_parser, run

CONFIGS = {"finetune/r50": "pair_detr", "finetune/conditional_detr_r50": "conditional_detr"}
# Of the tiny model; the config has the others.
_OF_MODEL = {"MODEL.BACKBONE.NAME": "build_detr_resnet_backbone", "MODEL.DETR.DROPOUT": "0.0"}
_OF_CONFIG = ("SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.MAX_ITER", "SOLVER.STEPS")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "finetuning_data")


@pytest.mark.parametrize(("name", "variant"), CONFIGS.items())
def test_only_the_classifier_starts_anew(
    name: str,
    variant: str,
    dataset: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A training of steps of no length has the published weights in both decoders, and new rows for new classes."""
    cfg = tiny_resnet_cfg("conditional_detr", NUM_QUERIES=5)
    published = build(cfg).state_dict()
    torch.save({"model": published, "pair_detr": {"class_names": ["dog", "two", "cat"]}}, tmp_path / "coco.pth")
    entry = replace(ZOO["conditional_detr_r50"], source=str(tmp_path / "coco.pth"))
    monkeypatch.setitem(ZOO, "conditional_detr_r50", entry)

    options = tiny_options(dataset, tmp_path / "out")
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    pairs = {key: value for key, value in pairs.items() if key not in _OF_CONFIG} | _OF_MODEL
    pairs |= {"SOLVER.BASE_LR": "1e-12", "SOLVER.EPOCHS.MAX": "1", "SOLVER.EPOCHS.STEPS": "()"}
    for key in ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP"):
        pairs[f"MODEL.RESNETS.{key}"] = str(cfg.MODEL.RESNETS[key])
    for key in ("HIDDEN_DIM", "NUM_HEADS", "ENC_LAYERS", "DEC_LAYERS", "FFN_DIM"):
        pairs[f"MODEL.DETR.{key}"] = str(cfg.MODEL.DETR[key])
    run(
        argument_parser().parse_args(
            ["--config-file", f"configs/{name}.yaml", *[text for pair in pairs.items() for text in pair]]
        )
    )

    trained = torch.load(tmp_path / "out/model_final.pth")["model"]
    rows = "detector.class_head.weight"
    torch.testing.assert_close(trained[rows][1], published[rows][1])
    assert not any(torch.allclose(trained[rows][0], row, atol=1e-3) for row in published[rows])
    for key in (key for key in published if "class_head" not in key):
        torch.testing.assert_close(trained[key], published[key], atol=1e-9, rtol=1e-6)
    output = capsys.readouterr().out
    assert "What does not come from zoo://conditional_detr_r50 as it is:" in output
    assert "rows of 1 classes of the same name taken, random start of the others" in output


@pytest.mark.parametrize(("name", "variant"), CONFIGS.items())
def test_recipe_is_gentle(name: str, variant: str) -> None:
    """The model of the published weights, at less than their learning rate, and without data of its own."""
    cfg, published = load_config(name), load_config(ZOO["conditional_detr_r50"].config)
    assert (variant, "zoo://conditional_detr_r50") == (cfg.MODEL.DETR.VARIANT, cfg.MODEL.WEIGHTS)
    assert f"output/{name}" == cfg.OUTPUT_DIR
    assert cfg.SOLVER.BASE_LR < published.SOLVER.BASE_LR
    assert cfg.SOLVER.EPOCHS.MAX <= 12
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((), ())
    same = published.MODEL.DETR.clone()
    same.VARIANT, same.PAIR = variant, cfg.MODEL.DETR.PAIR
    assert same == cfg.MODEL.DETR
