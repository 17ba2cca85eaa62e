"""What the page answers: uploads of any kind, detections, classes of a visitor's choice, attention."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs, write_image
from model_helpers import build
from open_vocabulary_helpers import NAMES, text_cfg
from PIL import Image
from segmentation_helpers import mask_cfg, panoptic_cfg
from tool_helpers import save_model

from pair_detr import Predictor
from pair_detr.app import texts, uploads
from pair_detr.app.answers import Answers
from pair_detr.app.detection import PageModel
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.visualization.attention_report import report_attention


def answers_of(arguments: list[str]) -> Answers:
    return Answers(PageModel(Predictor.from_files(arguments[1], arguments[3])))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answers_of(save_model(tmp_path_factory.mktemp("linear")))


@pytest.fixture
def image(tmp_path: Path) -> str:
    write_image(tmp_path / "a.png", 60, 40)
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "CMYK", {}),
        ("b.png", "P", {}),
        ("c.png", "RGBA", {}),
        ("d.bmp", "1", {}),
        ("e.webp", "RGB", {}),
        ("f.gif", "L", {"save_all": True, "append_images": [Image.new("L", (60, 40), i) for i in (90, 180)]}),
    ],
)
def test_images_of_any_kind_are_detected_in(
    tmp_path: Path, linear: Answers, name: str, mode: str, options: dict
) -> None:
    Image.new(mode, (60, 40)).save(tmp_path / name, **options)
    detected, view = linear.detect(str(tmp_path / name), "", 0.0, False)
    assert detected is not None and "problem" not in view.status
    assert view.picture.shape == (40, 60, 3)
    assert ("Only the first of its 3 images" in view.status) == name.endswith("gif")


def test_what_is_no_image_has_a_line_without_folders(
    tmp_path: Path, linear: Answers, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.png").write_text("no <b>image</b>")
    (tmp_path / "cut.png").write_bytes(Path(image).read_bytes()[:200])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    monkeypatch.setattr(uploads, "MAX_PIXELS", 50_000)
    for name, reason in (
        ("text.png", "text.png is no image, or of a kind that is not read. Choose another file."),
        ("cut.png", "cannot be read as an image"),
        ("deep.png", "more than 8 bits per channel"),
        ("large.png", "300 x 200 pixels"),
        ("absent.png", "absent.png"),
    ):
        detected, view = linear.detect(str(tmp_path / name), "", 0.5, False)
        assert (detected, view.picture, view.rows) == (None, None, [])
        assert reason in view.status and 'class="problem"' in view.status
        assert str(tmp_path) not in view.status and "\n" not in view.status and "Traceback" not in view.status


def test_nothing_is_shown_without_an_image(linear: Answers) -> None:
    detected, view = linear.detect(None, "", 0.5, False)
    assert detected is None and texts.WELCOME in view.status
    assert linear.attend(None, None, 0, "center").maps == ()


def test_detections_are_those_of_the_predictor(linear: Answers, image: str) -> None:
    expected = linear.model.predictor(image)["instances"]
    detected, _ = linear.detect(image, "", 0.5, False)
    assert torch.equal(detected.instances.scores, expected.scores)
    threshold = float(expected.scores[4:6].mean())
    rows = linear.show(detected, threshold, False).rows
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    names = linear.model.predictor.metadata.thing_classes
    assert [row[1] for row in rows] == [names[c] for c in expected.pred_classes[:5]]
    assert rows[0][3] == ", ".join(f"{x:.0f}" for x in expected.pred_boxes.tensor[0].tolist())
    view = linear.show(detected, 0.9999, False)
    assert view.rows == [] and f"the best one is {expected.scores[0]:.2f} ({names[expected.pred_classes[0]]})" in (
        view.status
    )


def test_boxes_of_large_images_are_in_pixels_of_the_file(
    tmp_path: Path, linear: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_SHOWN_SIDE", 30)
    write_image(tmp_path / "a.png", 60, 40)
    expected = linear.model.predictor(tmp_path / "a.png")["instances"].pred_boxes.tensor[0].numpy()
    detected, view = linear.detect(str(tmp_path / "a.png"), "", 0.0, False)
    assert view.picture.shape == (20, 30, 3)
    np.testing.assert_allclose(2 * detected.instances.pred_boxes.tensor[0].numpy(), expected, atol=1e-3)
    np.testing.assert_allclose([float(x) for x in view.rows[0][3].split(",")], expected, atol=0.51)


def test_a_click_finds_the_smallest_box_that_is_shown(linear: Answers, image: str) -> None:
    detected, _ = linear.detect(image, "", 0.0, False)
    instances = detected.instances[:3]
    instances.scores = torch.tensor([0.9, 0.8, 0.3])
    instances.pred_boxes.tensor = torch.tensor([[0.0, 0, 50, 40], [10, 10, 30, 30], [15, 15, 20, 20]])
    detected.instances = instances
    assert detected.at(17, 17, 0.5) == 1
    assert detected.at(17, 17, 0.2) == 2
    assert detected.at(40, 5, 0.2) == 0
    assert detected.at(55, 5, 0.2) is None


@pytest.mark.parametrize("variant", ["pair_detr", "conditional_detr", "detr"])
def test_attention_is_that_of_the_query_of_the_detection(tmp_path: Path, image: str, variant: str) -> None:
    answers = answers_of(save_model(tmp_path, variant=variant))
    model = answers.model
    detected, _ = answers.detect(image, "", 0.0, False)
    instances = detected.instances
    for index in (0, 5):
        for layer in (0, model.num_layers - 1):
            report = report_attention(model.predictor.model, model.predictor.prepare(image), 7, layer)
            box = instances.pred_boxes.tensor[index].numpy()
            (row,) = np.flatnonzero(np.abs(report.boxes - box).max(1) < 1e-3)
            found = model.attention(detected, index, layer)
            for decoder in model.decoders:
                for kind in model.kinds:
                    expected = report.cross[decoder][kind][row].mean(0)
                    np.testing.assert_allclose(found.maps[decoder][kind], expected, atol=1e-6)
    view = answers.attend(detected, 5, 0, model.decoders[-1])
    assert [picture.shape for picture in view.maps] == [(40, 60, 3)] * (1 if variant == "detr" else 3)
    assert "detection 6" in view.status and ("reference point" in view.status) == (variant != "detr")
    assert texts.HINT in answers.attend(detected, None, 0, "center").status


def test_visitors_choose_classes_without_changing_those_of_others(tmp_path: Path, image: str) -> None:
    cfg = text_cfg(tmp_path)
    answers = answers_of(save_model(tmp_path, cfg))
    first, view = answers.detect(image, "", 0.0, False)
    assert {row[1] for row in view.rows} <= set(NAMES)
    other, view = answers.detect(image, "forklift,, Helmet ", 0.0, False)
    assert {row[1] for row in view.rows} <= {"forklift", "Helmet"}
    assert "forklift" in view.rows[0][1] or "Helmet" in view.rows[0][1]
    before = answers.model.attention(first, 0, 0).maps["center"]["combined"]
    refused, view = answers.detect(image, "zebra", 0.0, False)
    assert refused is None and "zebra: not among the 3 classes of" in view.status
    assert str(tmp_path) not in view.status and "\n" not in view.status
    # A file of this machine is a name as any other.
    (tmp_path / "names.txt").write_text("helmet\n")
    assert answers.detect(image, str(tmp_path / "names.txt"), 0.0, False)[0] is None
    again, _ = answers.detect(image, "", 0.0, False)
    # But for rounding, as lengths of texts are made 1 again.
    torch.testing.assert_close(again.instances.scores, first.instances.scores)
    np.testing.assert_allclose(answers.model.attention(again, 0, 0).maps["center"]["combined"], before, atol=1e-6)
    assert other.metadata.thing_classes == ["forklift", "Helmet"]


def test_masks_are_drawn_for_what_is_above_the_threshold(tmp_path: Path, image: str) -> None:
    answers = answers_of(save_model(tmp_path, mask_cfg()))
    expected = answers.model.predictor(image)["instances"]
    detected, _ = answers.detect(image, "", 0.0, False)
    threshold = float(expected.scores[2:4].mean())
    shown = detected.outputs(threshold)["instances"]
    assert len(shown) == 3 and torch.equal(shown.pred_masks, expected.pred_masks[:3])
    assert answers.attend(detected, 1, 0, "center").maps


def test_panoptic_models_show_detections_or_segments(tmp_path: Path, image: str) -> None:
    with restored_catalogs():
        cfg = panoptic_cfg("pair_detr", "scenes")
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
        model = build(cfg)
        AtomicCheckpointer(model, str(tmp_path)).save("model")
        cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
        answers = Answers(PageModel(Predictor(cfg)))
        assert answers.model.is_panoptic
        detected, view = answers.detect(image, "", 0.0, False)
        assert list(detected.outputs(0.0)) == ["instances"] and list(detected.outputs(0.0, True)) == ["panoptic_seg"]
        segments = answers.show(detected, 0.0, True)
        assert segments.picture.shape == view.picture.shape == (40, 60, 3)
        assert not np.array_equal(segments.picture, view.picture)
        assert f"{len(detected.segments[1])} panoptic segment" in segments.status and segments.rows == view.rows
        assert answers.attend(detected, 0, 1, "center").maps


def test_summary_names_variant_classes_and_weights(linear: Answers) -> None:
    assert texts.summary(linear.model) == "Pair DETR · 3 classes (cat, dog, owl) · model.pth · CPU"
    assert not linear.model.takes_vocabulary
    assert texts.plain("a_b *c* <i>") == r"a\_b \*c\* \<i\>"
