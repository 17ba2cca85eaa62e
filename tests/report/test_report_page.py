"""The whole report: its files, and its page in a real browser."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser_helpers import browser_page
from PIL import Image
from report_helpers import CAT, DETECTIONS, DOG, NAMES, OBJECTS, evaluate, needs_tidecv
from tool_helpers import assert_nothing_is_cut_off

from pair_detr.evaluation import COCOEvaluator
from pair_detr.report import build, figures
from pair_detr.report.build import require_report, write_report
from pair_detr.report.content import Content, compute
from pair_detr.report.findings import find
from pair_detr.report.image_outcomes import image_outcomes
from pair_detr.report.outcomes import find_outcomes
from pair_detr.report.pictures import RIGHT, WRONG, draw_outcome
from pair_detr.utils.outputs import is_made_here

pytestmark = needs_tidecv

ABOUT = {"dataset": "pets <val>", "weights": "model_final.pth"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, COCOEvaluator, Content]:
    folder = tmp_path_factory.mktemp("report")
    images = folder / "images of pets"
    images.mkdir()
    evaluator = evaluate(folder=images)
    content = compute(evaluator.evaluations["bbox"], evaluator.class_names)
    write_report(content, evaluator.images, ABOUT, folder / "report")
    return folder / "report", evaluator, content


def test_files(written: tuple[Path, COCOEvaluator, Content]) -> None:
    folder, evaluator, _ = written
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    drawn = ("calibration", "classes", "confusion", "error_types", "precision_recall", "sizes", "thresholds")
    expected = {"report.html", "report.json", *(f"figures/{name}.png" for name in drawn)}
    assert names == expected | {"images/worst_01.png", "images/worst_02.png", "images/best_01.png"}
    assert all(is_made_here(folder / name) for name in names)
    # Truth and detections side by side, with a gap; small images are enlarged, here four times.
    assert Image.open(folder / "images/worst_01.png").size == (2 * 480 + 8, 400)
    numbers = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    results = evaluator.results["bbox"]
    assert numbers["all_classes"]["ap"] == pytest.approx(results["AP"])
    assert {name: x["ap"] for name, x in numbers["by_class"].items()} == {
        name: pytest.approx(results[f"AP-{name}"]) for name in NAMES
    }
    assert numbers["at_threshold"]["detections"] == sum(
        image["correct"] + image["wrong"] for image in numbers["images"]
    )
    assert numbers["by_size"]["large"]["ap"] is None


def test_a_second_report_replaces_the_first_alone(
    written: tuple[Path, COCOEvaluator, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, evaluator, content = written
    monkeypatch.setattr(build, "_figures", lambda content: [("sizes", figures.draw_sizes(content.by_size))])
    write_report(content, evaluator.images, ABOUT, tmp_path, count=2)
    own = tmp_path / "images" / "mine.png"
    Image.new("RGB", (4, 4)).save(own)
    with pytest.raises(FileExistsError, match=r"mine\.png"):
        require_report(tmp_path)
    own.unlink()
    require_report(tmp_path)
    # Where the second fails, the first is still there.
    with monkeypatch.context() as broken, pytest.raises(OSError, match="full"):
        broken.setattr(build, "render", lambda *_: (_ for _ in ()).throw(OSError("full")))
        write_report(content, evaluator.images, ABOUT, tmp_path, count=1)
    assert (tmp_path / "images" / "worst_02.png").is_file()
    write_report(content, evaluator.images, ABOUT, tmp_path, count=1)
    assert sorted(file.name for file in (tmp_path / "images").iterdir()) == ["best_01.png", "worst_01.png"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(written: tuple[Path, COCOEvaluator, Content], width: int) -> None:
    folder, evaluator, _ = written
    with browser_page(width) as (page, watched):
        page.goto((folder / "report.html").as_uri())
        assert page.title() == "Detection report: pets <val>"
        labels, values = (page.locator(f".card {tag}").all_inner_texts() for tag in ("span", "b"))
        cards = dict(zip(labels, values, strict=True))
        assert cards["AP"] == f"{evaluator.results['bbox']['AP']:.1f}"
        assert cards["AP50"] == f"{evaluator.results['bbox']['AP50']:.1f}"
        assert (cards["images"], cards["objects"]) == ("4", "4")
        # Names are text, whatever is in them.
        assert page.locator("td", has_text="<b>owl</b>").count() == 1
        images = page.locator("img")
        assert images.count() == 7 + 2 * 3
        assert all(images.evaluate_all("all => all.map(x => x.complete && x.naturalWidth > 0)"))
        # Words are not divided: no column is narrower than its longest word.
        texts = page.locator("td.text")
        assert texts.count() == 6
        assert min(texts.evaluate_all("all => all.map(x => x.getBoundingClientRect().width)")) >= 140
        # Nothing is wider than the screen: wide tables scroll by themselves.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for link in page.locator("nav a").all():
            assert page.locator(link.get_attribute("href")).count() == 1
        assert [url for url in watched.requests if not url.startswith("data:")] == [(folder / "report.html").as_uri()]
        assert watched.problems == []


def test_findings_of_the_scene(written: tuple[Path, COCOEvaluator, Content]) -> None:
    found = find(written[2])
    assert any('"<b>owl</b>" has the lowest AP (0.0), "cat" the highest' in sentence for sentence in found)
    assert found[-1] == "2 of 4 images have no error at the threshold."


def test_a_report_of_nothing(tmp_path: Path) -> None:
    """A model that detects nothing still has a report."""
    folder = tmp_path / "images"
    folder.mkdir()
    evaluator = evaluate(detections=[], folder=folder)
    content = compute(evaluator.evaluations["bbox"], evaluator.class_names)
    page = write_report(content, evaluator.images, ABOUT, tmp_path / "report")
    assert "No detection is correct" in page.read_text()


def test_boxes_of_numpy_are_counted(tmp_path: Path) -> None:
    """As datasets that are registered in Python have them, if their boxes come from NumPy's functions."""
    objects = [(image, index, tuple(np.float64(side) for side in box), crowd) for image, index, box, crowd in OBJECTS]
    evaluator = evaluate(objects, folder=tmp_path)
    content = compute(evaluator.evaluations["bbox"], evaluator.class_names, error_types=False)
    write_report(content, evaluator.images, ABOUT, tmp_path / "report", count=1)
    assert json.loads((tmp_path / "report" / "report.json").read_text())["all_classes"]["objects"] == 4


def test_scores_below_all_thresholds_are_said() -> None:
    evaluator = evaluate(detections=[(*item[:3], item[3] / 1000) for item in DETECTIONS])
    content = compute(evaluator.evaluations["bbox"], evaluator.class_names, error_types=False)
    assert content.total.ap50 > 0
    first, *_ = find(content)
    assert first.startswith("No correct detection has a score of 0.01")


def test_many_classes_are_legible(tmp_path: Path) -> None:
    names = [f"a class with a long name, number {number}" for number in range(40)]
    objects = [(1, index, (10.0, 10, 40, 40), 0) for index in range(40)]
    evaluator = evaluate(objects, [(1, 3, (10.0, 10, 40, 40), 0.9)], names=names, images=1)
    content = compute(evaluator.evaluations["bbox"], names, error_types=False)
    confusion, classes = figures.draw_confusion(content.confusion, names), figures.draw_classes(content.by_class)
    for figure in (confusion, classes):
        figure.draw_without_rendering()
        assert_nothing_is_cut_off(figure)
    assert len(confusion.axes[0].get_xticks()) == 25
    assert len(classes.axes[0].get_yticks()) == 30


@pytest.mark.parametrize(("size", "scale"), [((100, 120), 4), ((480, 200), 1), ((600, 900), 1)])
def test_pictures_show_where_objects_are(tmp_path: Path, size: tuple[int, int], scale: int) -> None:
    """What is found is blue and what is missed orange, at the place of the object."""
    evaluator = evaluate(OBJECTS[:2], [(1, 0, CAT, 0.9)], images=1, size=size, folder=tmp_path)
    evaluation = evaluator.evaluations["bbox"]
    (outcome,) = image_outcomes(find_outcomes(evaluation), [1], 0.5)
    truth, found = draw_outcome(outcome, str(tmp_path / "1.png"), evaluation, NAMES)
    assert truth.shape == found.shape == (size[0] * scale, size[1] * scale, 3)
    # The middle of the lower edge of the cat and of the dog, which no label covers.
    for picture, box, color in ((truth, CAT, RIGHT), (truth, DOG, WRONG), (found, CAT, RIGHT)):
        x, y = round((box[0] + box[2]) / 2 * scale), round(box[3] * scale)
        assert (picture[y - 2 : y + 3, x] == color).all(-1).any()
    x, y = round(80 * scale), round(60 * scale)
    assert (found[y - 2 : y + 3, x] == 128).all()
