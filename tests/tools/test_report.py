"""The report of a trained model, from the command line."""

import json
import sys
from pathlib import Path

import pytest
from data_helpers import write_coco, write_image
from model_helpers import tiny_cfg
from PIL import Image
from report_helpers import needs_tidecv
from tool_helpers import pets, save_model

from pair_detr.evaluation import COCOEvaluator
from pair_detr.report import build
from pair_detr.tools import report

pytestmark = needs_tidecv

dataset = pytest.fixture(pets)


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    cfg = tiny_cfg(NUM_CLASSES=2)
    cfg.DATALOADER.NUM_WORKERS = 0
    return [*save_model(tmp_path, cfg), "--images", "1"]


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their drawing is tested by itself, and takes most of the time."""
    monkeypatch.setattr(build, "_figures", lambda content: [])


@pytest.mark.usefixtures("few_figures")
def test_a_report_has_the_numbers_of_an_evaluation(
    tmp_path: Path, dataset: str, model: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {}
    evaluate = COCOEvaluator.evaluate
    monkeypatch.setattr(COCOEvaluator, "evaluate", lambda self: results.update(evaluate(self)) or results)
    report.main([*model, "--dataset", dataset, "--output", str(tmp_path / "out"), "--confidence", "0"])
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["all_classes"]["ap"] == pytest.approx(results["bbox"]["AP"])
    assert numbers["info"]["dataset"] == "pets"
    assert numbers["at_threshold"]["threshold"] == 0
    # The crowd is no object; all objects are found or missed.
    assert numbers["all_classes"]["objects"] == 2
    assert sum(image["found"] + image["missed"] for image in numbers["images"]) == 2
    assert [Path(image["file_name"]).name for image in numbers["images"]] == ["1.png", "2.png"]
    picture = Image.open(tmp_path / "out" / "images" / "worst_01.png")
    assert picture.size in ((2 * 480 + 8, 320), (2 * 500 + 8, 500))
    assert "open it in a browser" in capsys.readouterr().out.splitlines()[-1]
    # A second time it replaces its own files; tidecv may be missing.
    monkeypatch.setitem(sys.modules, "tidecv", None)
    report.main([*model, "--dataset", dataset, "--output", str(tmp_path / "out")])
    assert "pip install --no-deps tidecv==1.0.1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["ap50_lost"] is None


@pytest.mark.usefixtures("few_figures", "catalogs")
def test_a_folder_is_reported_on_as_a_whole(tmp_path: Path, model: list[str]) -> None:
    annotations = [{"image_id": i, "bbox": [5, 10, 20, 15], "category_id": 1 + i % 2} for i in range(1, 11)]
    write_coco(tmp_path / "photos", annotations, [(60, 40)] * 10)
    report.main([*model, "--data", str(tmp_path / "photos"), "--output", str(tmp_path / "out")])
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(numbers["images"]) == 10
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.usefixtures("few_figures", "catalogs")
@pytest.mark.parametrize("layout", ["yolo", "pascal_voc"])
def test_a_folder_that_is_not_divided_is_reported_on_as_a_whole(tmp_path: Path, model: list[str], layout: str) -> None:
    """As annotation programs write it: images and labels alone."""
    photos = tmp_path / "photos"
    for number in range(6):
        image, label = photos / "images" / f"{number}.png", photos / "labels" / f"{number}.txt"
        if layout == "pascal_voc":
            image, label = photos / "JPEGImages" / f"{number}.jpg", photos / "Annotations" / f"{number}.xml"
        for file in (image, label):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_image(image, 60, 40)
        name, box = ("cat", "dog")[number % 2], "<xmin>6</xmin><ymin>11</ymin><xmax>25</xmax><ymax>25</ymax>"
        label.write_text(
            f"{number % 2} 0.25 0.4 0.3 0.4\n"
            if layout == "yolo"
            else f"<annotation><filename>{image.name}</filename><size><width>60</width><height>40</height></size>"
            f"<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        )
    if layout == "yolo":
        (photos / "classes.txt").write_text("cat\ndog\n")
    report.main([*model, "--data", str(photos), "--output", str(tmp_path / "out")])
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (len(numbers["images"]), numbers["all_classes"]["objects"]) == (6, 6)


@pytest.mark.usefixtures("few_figures")
def test_nothing_detected_is_said_in_words(
    tmp_path: Path, dataset: str, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report.main([*model, "--dataset", dataset, "--output", str(tmp_path / "out"), "--confidence", "1"])
    said = capsys.readouterr().out
    assert "The report is " in said and "nan%" not in said


@pytest.mark.usefixtures("few_figures", "catalogs")
def test_of_several_sets_the_one_for_tests_is_reported_on(tmp_path: Path, model: list[str]) -> None:
    for split, count in (("train", 4), ("valid", 3), ("test", 2)):
        annotations = [{"image_id": i, "bbox": [5, 10, 20, 15], "category_id": 1 + i % 2} for i in range(1, count + 1)]
        file = write_coco(tmp_path / "photos" / split, annotations, [(60, 40)] * count)
        file.rename(file.with_name("_annotations.coco.json"))
    report.main([*model, "--data", str(tmp_path / "photos"), "--output", str(tmp_path / "out")])
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["images"]) == 2


@pytest.mark.usefixtures("few_figures", "catalogs")
def test_data_for_tests_need_none_for_training(tmp_path: Path, model: list[str]) -> None:
    annotations = [{"image_id": i, "bbox": [5, 10, 20, 15], "category_id": 1 + i % 2} for i in (1, 2)]
    file = write_coco(tmp_path / "photos" / "test", annotations, [(60, 40)] * 2)
    file.rename(file.with_name("_annotations.coco.json"))
    report.main([*model, "--data", str(tmp_path / "photos"), "--output", str(tmp_path / "out")])
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["images"]) == 2


@pytest.mark.usefixtures("catalogs")
def test_errors_come_before_the_model_runs(tmp_path: Path, dataset: str, model: list[str]) -> None:
    output = ["--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="There is no dataset: name one with --dataset, or a folder with --data"):
        report.main([*model, *output])
    with pytest.raises(ValueError, match=r"--dataset petz: there is no such dataset.*use --data"):
        report.main([*model, *output, "--dataset", "petz"])
    with pytest.raises(ValueError, match="--task segm: the model has no masks"):
        report.main([*model, *output, "--dataset", dataset, "--task", "segm"])
    with pytest.raises(SystemExit):
        report.main([*model, *output, "--dataset", dataset, "--data", "photos"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("my own")
    with pytest.raises(FileExistsError, match=r"report\.html exists, and was not made by this program"):
        report.main([*model, *output, "--dataset", dataset])
    assert (tmp_path / "out" / "report.html").read_text() == "my own"


def test_other_classes_are_named(tmp_path: Path, dataset: str) -> None:
    arguments = save_model(tmp_path, tiny_cfg(NUM_CLASSES=3))
    with pytest.raises(ValueError, match=r"cat, dog, owl.*pets.*cat, dog.*Name data with the classes of the model"):
        report.main([*arguments, "--dataset", dataset, "--output", str(tmp_path / "out")])
