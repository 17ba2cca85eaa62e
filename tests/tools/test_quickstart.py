import json
import re
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from PIL import Image
from process_helpers import running
from pycocotools import mask as mask_util

from pair_detr.config_files import load_config
from pair_detr.data import make_shapes, register_shapes
from pair_detr.engine.run_lock import FolderInUseError, claimed
from pair_detr.modeling import Detector
from pair_detr.tools import quickstart


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A handful of images in the place of the 8000."""
    names = ("shapes_train", "shapes_val")
    before = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in names}
    folder = tmp_path / "datasets" / "shapes"
    register_shapes(str(folder))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setattr(quickstart, "make_shapes", lambda root: make_shapes(root, num_train=8, num_val=4))
    yield folder
    torch.set_flush_denormal(False)
    for name in names:
        DatasetCatalog[name], MetadataCatalog[name] = before[name]


def test_from_nothing_to_the_result(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart.main(
        ["--model", "conditional_detr", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "MODEL.WEIGHTS", ""]
    )
    output = capsys.readouterr().out
    assert re.fullmatch(r"AP=[01]\.\d{3} AP50=[01]\.\d{3}", output.splitlines()[-1])
    folder = Path("output", "quickstart", "conditional_detr")
    for name in ("model_final.pth", "predictions.png", "metrics.json", "config.yaml"):
        assert (folder / name).is_file(), name
    assert f"pair-detr eval --config-file {folder}/config.yaml MODEL.WEIGHTS {folder}/model_final.pth" in output
    assert "pair-detr quickstart --model pair_detr|detr" in output
    assert "VARIANT: conditional_detr" in (folder / "config.yaml").read_text()


def test_last_line_is_a_fraction() -> None:
    box = {"AP": 76.04, "AP50": 98.4, "AP75": 80.0, "APs": 1.0, "APm": 2.0}
    summary = quickstart._summary({"bbox": box}, "detr", Path("p.png"), Path("d"))
    assert summary.splitlines()[-1] == "AP=0.760 AP50=0.984"
    assert "--model pair_detr|conditional_detr\n  boxes and masks   " in summary and "quickstart --masks" in summary
    both = {"bbox": box, "segm": box | {"AP": 61.26, "AP50": 90.0}}
    summary = quickstart._summary(both, "detr", Path("p.png"), Path("d"))
    assert summary.splitlines()[-1] == "AP=0.760 AP50=0.984 mask_AP=0.613 mask_AP50=0.900"
    assert "quickstart --masks --model pair_detr|conditional_detr\n" in summary


def test_with_masks(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart.main(["--masks", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "MODEL.WEIGHTS", ""])
    last = capsys.readouterr().out.splitlines()[-1]
    number = r"[01]\.\d{3}"
    assert re.fullmatch(rf"AP={number} AP50={number} mask_AP={number} mask_AP50={number}", last)
    folder = Path("output", "quickstart", "pair_detr_masks")
    assert (folder / "predictions.png").is_file()
    metrics = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert any("segm/AP" in entry for entry in metrics)


def test_two_at_once_and_pictures_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "make_shapes", lambda root: pytest.fail("the second one has started"))
    folder = tmp_path / "out"

    def first(pipe: Connection) -> None:
        with claimed(folder):
            pipe.send(True)
            signal.pause()

    with running(first) as (process, pipe):
        pipe.recv()
        with pytest.raises(
            FolderInUseError, match=rf"process {process.pid} on .*choose another folder with --output\."
        ):
            quickstart.main(["--output", str(folder)])
    (folder / "predictions.png").write_bytes(b"a picture of the user")
    with pytest.raises(
        FileExistsError, match=r"predictions\.png exists, and was not made by this program.*--overwrite"
    ):
        quickstart.main(["--output", str(folder)])


def test_data_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: str) -> None:
        raise PermissionError(root)

    monkeypatch.setattr(quickstart, "make_shapes", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PermissionError, match="set the environment's DETECTRON2_DATASETS to another folder"):
        quickstart.main([])


def test_pictures(tmp_path: Path) -> None:
    """Two images; the second has no confident prediction, so its right half shows no box."""
    metadata = Metadata(name="pictures", thing_classes=["a", "b"], thing_dataset_id_to_contiguous_id={1: 0, 2: 1})
    annotation = {"bbox": [10, 10, 50, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    images = []
    for image_id in (1, 2):
        file = tmp_path / f"{image_id}.png"
        Image.new("RGB", (60, 60)).save(file)
        images.append({"file_name": str(file), "image_id": image_id, "annotations": [annotation]})
    results = [
        {"image_id": 1, "category_id": 2, "bbox": [10, 10, 40, 30], "score": 0.35},
        {"image_id": 2, "category_id": 2, "bbox": [10, 10, 40, 30], "score": 0.25},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    quickstart.draw_predictions(images, tmp_path / "results.json", metadata, tmp_path / "pictures.png")

    drawn = np.asarray(Image.open(tmp_path / "pictures.png").convert("RGB")).astype(int)
    orange = np.abs(drawn - (255, 127, 14)).max(-1) < 10  # the second color of matplotlib's cycle
    counts = [part.sum() for part in np.array_split(orange, 4, axis=1)]
    assert min(counts[:3]) > 500 and counts[3] == 0
    # A label is wider with its score; the frames themselves are the same.
    assert counts[0] == pytest.approx(counts[2], rel=0.02)
    assert counts[1] > 1.05 * counts[0]


def test_pictures_of_masks(tmp_path: Path) -> None:
    """A mask colors its pixels, half of the box, on both sides."""
    metadata = Metadata(name="masks", thing_classes=["a"], thing_dataset_id_to_contiguous_id={1: 0})
    Image.new("RGB", (60, 60)).save(tmp_path / "1.png")
    half = [[10, 10, 50, 10, 50, 30, 10, 30]]
    annotation = {"bbox": [10, 10, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": half}
    image = {"file_name": str(tmp_path / "1.png"), "image_id": 1, "height": 60, "width": 60}
    (mask,) = mask_util.frPyObjects(half, 60, 60)
    result = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}
    areas = {}
    for name, entry in {
        "boxes": result,
        "masks": result | {"segmentation": {**mask, "counts": mask["counts"].decode()}},
    }.items():
        (tmp_path / "results.json").write_text(json.dumps([entry]))
        output = tmp_path / f"{name}.png"
        truth = image | {"annotations": [annotation]}
        quickstart.draw_predictions([truth], tmp_path / "results.json", metadata, output)
        drawn = np.asarray(Image.open(output).convert("RGB")).astype(int)
        # The first color of matplotlib's cycle over black; the frame has it undiluted.
        blue = np.abs(drawn - 0.45 * np.array((31, 119, 180))).max(-1) < 3
        black = drawn.max(-1) < 3
        areas[name] = [[part.sum() for part in np.array_split(x, 4, axis=1)] for x in (blue, black)]
    for side in (0, 1):
        colored, dark = (parts[side] for parts in areas["masks"])
        assert areas["boxes"][0][side] < 0.01 * colored
        # 40 x 20 of 60 x 60 pixels, some of them below the frame.
        assert colored / (colored + dark) == pytest.approx(800 / 3600, rel=0.15)


@pytest.mark.parametrize("model", quickstart.MODELS)
def test_config_builds(model: str) -> None:
    from detectron2.modeling import build_model

    cfg = load_config(quickstart.MODELS[model])
    assert model == cfg.MODEL.DETR.VARIANT
    assert isinstance(build_model(cfg).detector, Detector)
