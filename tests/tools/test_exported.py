"""Tools that write or use exported models; here with graphs that are made by hand."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from data_helpers import write_coco, write_image
from runtime_helpers import write_model
from tool_helpers import save_model

from pair_detr import load_config
from pair_detr.data import register_coco
from pair_detr.tools import demo, evaluate_exported, export


@pytest.mark.usefixtures("catalogs")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_average_precision_of_an_exported_model(tmp_path: Path, batch_size: int) -> None:
    """Each image has a dog in its left half, which the graph finds; of the cat, it finds none."""
    sizes = [(60, 40), (50, 50), (40, 60)]
    boxes = [
        {"image_id": i, "bbox": [0, 0, w / 2, h], "category_id": 2, "area": w * h / 2}
        for i, (w, h) in enumerate(sizes, 1)
    ]
    boxes.append({"image_id": 1, "bbox": [30, 0, 30, 40], "area": 1200})
    register_coco("halves", str(write_coco(tmp_path / "data", boxes, sizes)), tmp_path / "data")
    write_model(tmp_path / "model", class_names=["cat", "dog"])
    config = save_model(tmp_path, NUM_CLASSES=2)[1]
    data = ["DATASETS.TRAIN", "('halves',)", "DATASETS.TEST", "('halves',)", "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = load_config(config, ["TEST.IMS_PER_BATCH", str(batch_size), *data])
    results = evaluate_exported.evaluate(cfg, tmp_path / "model")
    assert results["bbox"]["AP-dog"] == pytest.approx(100)
    assert results["bbox"]["AP-cat"] == 0
    # The graph, which is what it is, decides about precision, size and channels.
    others = ["TEST.PRECISION", "bf16", "INPUT.FIXED_SIZE", "(64, 64)", "INPUT.FORMAT", "BGR"]
    again = evaluate_exported.evaluate(load_config(config, [*data, *others]), tmp_path / "model")
    assert again["bbox"] == pytest.approx(results["bbox"], nan_ok=True)


@pytest.mark.usefixtures("catalogs")
def test_classes_of_an_exported_model_and_of_the_data(tmp_path: Path) -> None:
    register_coco(
        "pets",
        str(write_coco(tmp_path / "data", [{"image_id": 1, "bbox": [0, 0, 9, 9]}], [(20, 20)])),
        tmp_path / "data",
    )
    write_model(tmp_path / "model")
    config = save_model(tmp_path, NUM_CLASSES=2)[1]
    data = ["DATASETS.TRAIN", "('pets',)", "DATASETS.TEST", "('pets',)"]
    arguments = ["--config-file", config, "--model", str(tmp_path / "model")]
    with pytest.raises(ValueError, match=r"detects 3 classes \(square, .*config have 2 \(cat, dog"):
        evaluate_exported.main([*arguments, "--opts", *data])
    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty"):
        evaluate_exported.main([*arguments, "--opts", "DATASETS.TEST", "()"])


def test_the_demo_detects_with_an_exported_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path / "model", texts=True)
    for name, width in (("a", 60), ("b", 90)):
        write_image(tmp_path / f"{name}.png", width, 40)
    inputs = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    model = ["--model", str(tmp_path / "model"), "--confidence", "0.1"]
    with caplog.at_level(logging.INFO):
        assert demo.main([*model, "--input", *inputs, "--output", str(tmp_path / "out"), "--vocabulary", "disk"]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["disk"]
    boxes = [a["bbox"] for a in content["annotations"]]
    np.testing.assert_allclose(boxes, [[0, 0, 30, 40], [0, 0, 45, 40]], atol=1e-3)
    assert (tmp_path / "out" / "a.png").is_file()


def test_arguments_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, message in (
        (["--input", "x"], "give --weights, or --config-file, or the --model"),
        (["--config-file", "r50", "--model", "m", "--input", "x"], "has neither --config-file"),
        (["--model", "m", "--weights", "w", "--input", "x"], "an exported --model has neither"),
        (["--config-file", "r50", "--backend", "openvino", "--input", "x"], "--backend is for an exported --model"),
    ):
        with pytest.raises(SystemExit):
            demo.main(arguments)
        assert message in capsys.readouterr().err
    model = save_model(tmp_path)
    with pytest.raises(ValueError, match="precision is 'bf16', which onnx does not compute in"):
        export.main([*model, "--output", str(tmp_path / "out"), "--precision", "bf16"])
    with pytest.raises(FileExistsError, match=r"holds config\.yaml, .*which is no part of an exported model"):
        export.main([*model, "--output", str(tmp_path)])
    with pytest.raises(OSError, match=r"--output: nothing can be written to .*model\.pth"):
        export.main([*model, "--output", str(tmp_path / "model.pth" / "out")])
    with pytest.raises(ValueError, match="There are no weights"):
        export.main(["--config-file", model[1], "--output", str(tmp_path / "out"), "--opts", "MODEL.WEIGHTS", ""])
