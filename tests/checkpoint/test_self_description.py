"""Checkpoints that need nothing beside them: no config, no data, no other weights."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversion_helpers import tiny_state
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, tiny_options, write_dataset
from model_helpers import build
from open_vocabulary_helpers import NAMES, build_text_model, text_cfg
from safetensors.torch import save_file
from segmentation_helpers import panoptic_cfg

from pair_detr import Predictor
from pair_detr.checkpoint import export_transformers
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer, final_iteration
from pair_detr.checkpoint.self_description import config_of
from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.engine import Trainer, argument_parser, main
from pair_detr.tools import demo

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def detections(predictor: Predictor) -> dict[str, torch.Tensor]:
    found = predictor(IMAGE)["instances"]
    return {"boxes": found.pred_boxes.tensor, "scores": found.scores, "classes": found.pred_classes}


def assert_same(found: Predictor, expected: Predictor) -> None:
    torch.testing.assert_close(detections(found), detections(expected))
    assert found.metadata.thing_classes == expected.metadata.thing_classes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, torch.Tensor]]]:
    """Final weights by themselves, and what a predictor with config and data detected; the data are gone."""
    data, output = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("output")
    with restored_catalogs():
        cfg = tiny_config(write_dataset(data, "self_described"), output, SOLVER__MAX_ITER=2)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
        expected = detections(Predictor(cfg))
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(output / "model_final.pth", folder)
    shutil.rmtree(data)
    yield folder / "model_final.pth", expected


def change(file: Path, target: Path, text: str | None) -> Path:
    """The checkpoint with another config."""
    content = torch.load(file)
    if text is None:
        del content["pair_detr"]["config_text"]
    else:
        content["pair_detr"]["config_text"] = text
    torch.save(content, target)
    return target


def test_final_weights_are_enough(trained: tuple[Path, dict[str, torch.Tensor]]) -> None:
    file, expected = trained
    for weights in (file, str(file)):
        predictor = Predictor(weights)
        torch.testing.assert_close(detections(predictor), expected)
    assert predictor.metadata.thing_classes == ["one", "two"]
    assert predictor.category_ids == [1, 2]
    cfg = config_of(str(file), ["TEST.DETECTIONS_PER_IMAGE", "3"])
    assert (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.DATASETS.REGISTER, cfg.INPUT.MIN_SIZE_TEST) == (3, [], 32)
    assert len(Predictor(cfg)(IMAGE)["instances"]) == 3


def test_they_are_weights_alone(trained: tuple[Path, dict[str, torch.Tensor]]) -> None:
    content = torch.load(trained[0])
    assert sorted(content) == ["model", "pair_detr"]
    assert content["pair_detr"]["iteration"] == 1 == final_iteration(str(trained[0].parent))


def test_demo_needs_nothing_else(trained: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    from PIL import Image

    pytest.importorskip("cv2")
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    arguments = ["--weights", str(trained[0]), "--input", str(tmp_path / "photo.png"), "--confidence", "0"]
    assert demo.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["annotations"]) == len(trained[1]["scores"])
    with pytest.raises(SystemExit):
        demo.main(["--input", "x"])


def test_other_machines_and_files_of_the_training_do_not_matter(
    trained: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    text = torch.load(trained[0])["pair_detr"]["config_text"]
    for old, new in (("DEVICE: cpu", "DEVICE: cuda:7"), ("  WEIGHTS: ''", "  WEIGHTS: detectron2://absent.pkl")):
        assert old in text
        text = text.replace(old, new)
    torch.testing.assert_close(detections(Predictor(change(trained[0], tmp_path / "x.pth", text))), trained[1])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("SEED: !!python/object/apply:os.system ['touch {marker}']", ValueError, "could run code, and is not read"),
        ("_BASE_: r50.yaml", KeyError, "_BASE_"),
        ("MODEL: {QUERIES: 1}", KeyError, r"The config in .*x\.pth: There is no config key MODEL\.QUERIES"),
        ("[1, 2]", ValueError, "has no keys and values"),
        (None, CheckpointError, r"x\.pth does not tell the config of its model: .*Give the config file .*config\.yaml"),
    ],
)
def test_configs_are_values_alone(
    trained: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, text: str | None, error: type, message: str
) -> None:
    marker = tmp_path / "marker"
    file = change(trained[0], tmp_path / "x.pth", text and text.replace("{marker}", str(marker)))
    with pytest.raises(error, match=message):
        Predictor(file)
    assert not marker.exists()


def test_vocabulary_is_inside(tmp_path: Path) -> None:
    cfg = text_cfg(tmp_path)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    model = build_text_model(tmp_path)
    AtomicCheckpointer(model, str(tmp_path), config_text=cfg.dump()).save("model_final")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    expected = Predictor(cfg)
    for file in tmp_path.glob("*.npy"):
        file.unlink()
    predictor = Predictor(tmp_path / "model_final.pth")
    assert_same(predictor, expected)
    assert predictor.metadata.thing_classes == list(NAMES)
    # A choice of them, and no others.
    chosen = Predictor(tmp_path / "model_final.pth", vocabulary=[NAMES[1]])
    assert chosen.metadata.thing_classes == [NAMES[1]]
    with pytest.raises(ValueError, match=r"unicorn: not among the .* classes of .*model_final\.pth"):
        predictor.set_vocabulary(["unicorn"])


def test_things_and_stuff_are_inside(tmp_path: Path) -> None:
    with restored_catalogs():
        cfg = panoptic_cfg("pair_detr", "self_described_panoptic")
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
        model = build(cfg)
        AtomicCheckpointer(model, str(tmp_path), config_text=cfg.dump()).save("model_final")
        cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
        expected = Predictor(cfg)
        outputs = expected(IMAGE)
    predictor = Predictor(tmp_path / "model_final.pth")
    assert_same(predictor, expected)
    assert predictor.model.panoptic == expected.model.panoptic
    assert predictor.metadata.stuff_classes == expected.metadata.stuff_classes
    assert torch.equal(predictor(IMAGE)["panoptic_seg"][0], outputs["panoptic_seg"][0])


def test_weights_of_transformers_show_their_config(tmp_path: Path) -> None:
    """A folder as it lies on the hub, with images of a size of its own."""
    exported = export_transformers(tiny_state("conditional_detr"), num_heads=4, class_names=["cat", "dog", "owl"])
    save_file(exported.state, tmp_path / "model.safetensors")
    exported.files["preprocessor_config.json"]["size"] = {"shortest_edge": 48, "longest_edge": 96}
    for name, content in exported.files.items():
        (tmp_path / name).write_text(json.dumps(content))
    predictor = Predictor(tmp_path)
    assert predictor.metadata.thing_classes == ["cat", "dog", "owl"]
    assert (predictor.cfg.MODEL.DETR.NUM_HEADS, predictor.cfg.INPUT.MIN_SIZE_TEST) == (4, 48)
    found, expected = predictor.model.state_dict(), tiny_state("conditional_detr")
    # Norms of the backbone are folded into it.
    others = [key for key in expected if "backbone" not in key]
    assert [key for key in others if not torch.equal(found[key], expected[key])] == []
    assert len(predictor(IMAGE)["instances"])


def test_final_weights_are_evaluated_but_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where only they were copied."""
    monkeypatch.setattr("pair_detr.engine.launch.setup_logger", lambda *_, **__: None)
    monkeypatch.setattr("pair_detr.engine.launch.default_setup", lambda *_: None)

    def run(*flags: str, **changes: Any) -> dict:
        options = tiny_options(dataset, tmp_path / "out", DATASETS__TEST=(dataset["NAME"],), **changes)
        return main(argument_parser().parse_args([*flags, *options]))

    with restored_catalogs():
        dataset = write_dataset(tmp_path, "self_described_evaluated")
        (tmp_path / "out").mkdir()
        expected = run(SOLVER__MAX_ITER=2)
        for name in ("last_checkpoint", "model_0000001.pth"):
            (tmp_path / "out" / name).unlink()
        assert str(run("--eval-only", "--resume")) == str(expected)
        with caplog.at_level(logging.WARNING, "pair_detr"):
            run("--resume", SOLVER__MAX_ITER=1)
        assert "(but see model_final.pth, which has weights alone and may be MODEL.WEIGHTS there)" in caplog.text
