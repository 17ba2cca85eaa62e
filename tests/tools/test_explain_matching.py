"""Why an object has its query, and other ways to assign them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import tiny_cfg
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tool_helpers import CLASSES, pets, save_model
from torchvision.ops import generalized_box_iou

import pair_detr
from pair_detr.analysis.matching_report import MatchingReport, report_matching
from pair_detr.tools import explain_matching
from pair_detr.visualization.matching_figure import draw_matching, shown_queries

TRAP = np.array([[1.0, 2.0, 9.0], [2.0, 10.0, 9.0]])


dataset = pytest.fixture(pets)


def clipped(boxes: np.ndarray) -> set[tuple[float, ...]]:
    """To the 60 x 40 pixels of the image, as detections are."""
    return {tuple(box) for box in boxes.clip(0, np.float32([60, 40, 60, 40])).round(2).tolist()}


def test_report_adds_up_to_the_assignment_of_scipy(tmp_path: Path, dataset: str) -> None:
    """Terms against torchvision, on the original image's scale, with the weights of the config."""
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path)[1::2])
    record = explain_matching.find_image(dataset, "1.png")
    report = report_matching(predictor.model, explain_matching.prepare(predictor, record, dataset))
    assert report.labels.tolist() == [1, 0]
    np.testing.assert_allclose(report.truth, [[5, 10, 25, 25], [30, 5, 42, 29]], atol=1e-3)
    found = predictor(tmp_path / "pets" / "1.png")["instances"].pred_boxes.tensor
    assert clipped(report.boxes) >= {tuple(b) for b in found.numpy().round(2).tolist()}
    assert report.query.tolist() == linear_sum_assignment(report.cost)[1].tolist()
    giou = generalized_box_iou(torch.tensor(report.truth), torch.tensor(report.boxes))
    np.testing.assert_allclose(report.terms[2], -2 * giou, atol=1e-4)
    scale = np.array([60, 40, 60, 40])

    def cxcywh(boxes: np.ndarray) -> np.ndarray:
        return np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1) / scale

    l1 = np.abs(cxcywh(report.truth)[:, None] - cxcywh(report.boxes)).sum(-1)
    np.testing.assert_allclose(report.terms[1], 5 * l1, atol=1e-4)
    row = report.rows(list(CLASSES))[0]
    assert row["class"] == "dog"
    assert row["cost"] == pytest.approx(row["class cost"] + row["L1 cost"] + row["GIoU cost"], abs=1e-5)
    assert row["its cost"] == pytest.approx(report.cost[0].min())


def test_report_of_a_fixed_size_is_in_pixels_of_the_image(tmp_path: Path, dataset: str) -> None:
    """Boxes are relative to the padded image there: the objects and predictions are where they are without."""
    cfg = tiny_cfg()
    cfg.INPUT.FIXED_SIZE = (64, 64)
    predictor = pair_detr.Predictor.from_files(*save_model(tmp_path, cfg)[1::2])
    record = explain_matching.find_image(dataset, "1.png")
    report = report_matching(predictor.model, explain_matching.prepare(predictor, record, dataset))
    np.testing.assert_allclose(report.truth, [[5, 10, 25, 25], [30, 5, 42, 29]], atol=1e-3)
    found = predictor(tmp_path / "pets" / "1.png")["instances"].pred_boxes.tensor
    assert clipped(report.boxes) >= {tuple(b) for b in found.numpy().round(2).tolist()}


def test_queries_are_shown_with_the_matched_ones_first() -> None:
    cost = np.array([[5.0, 1.0, 2.0, 0.5], [4.0, 1.5, 0.0, 9.0]])
    report = MatchingReport(cost[None], np.array([1, 2]), np.array([0, 0]), np.zeros((2, 4)), np.zeros((4, 4)))
    assert shown_queries(report).tolist() == [1, 2, 3, 0]


def test_figure_marks_the_assignment_and_stacks_the_terms() -> None:
    terms = np.array([[[1.0, 3.0], [2.0, 0.5]], [[0.5, 1.0], [1.0, 4.0]], [[-1.0, 0.5], [-2.0, 1.5]]])
    truth = np.array([[0.0, 1.0, 4.0, 6.0], [2.0, 2.0, 9.0, 8.0]])
    report = MatchingReport(terms, np.array([1, 0]), np.array([0, 2]), truth, truth[::-1] + 1)
    figure = draw_matching(np.zeros((10, 12, 3), np.uint8), report, CLASSES, "title")
    picture, bars, costs = figure.axes[:3]
    boxes = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in picture.patches]
    assert boxes == [(0, 1, 4, 5), (1, 2, 4, 5), (2, 2, 7, 6), (3, 3, 7, 6)]
    assert [patch.get_linestyle() for patch in picture.patches] == ["-", "--"] * 2
    # Of the first object with query 1: 3, 1 and 0.5; of the second with query 0: 2 and 1, and -2 to the left of 0.
    spans = [(patch.get_x(), patch.get_width()) for patch in bars.patches]
    assert spans == [(0, 3), (0, 2), (3, 1), (2, 1), (4, 0.5), (0, -2)]
    totals = next(line for line in bars.lines if line.get_label() == "total")
    assert totals.get_xydata().tolist() == [[4.5, 0], [1, 1]]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["1 cat", "2 owl"]
    # Columns are the queries 1 and 0.
    np.testing.assert_allclose(costs.images[0].get_array(), [[4.5, 0.5], [6, 1]])
    assert [patch.get_xy() for patch in costs.patches] == [(-0.5, -0.5), (0.5, 0.5)]
    assert costs.lines[0].get_xydata().tolist() == [[1, 0], [1, 1]]


def test_tool_writes_a_picture_and_a_table(tmp_path: Path, dataset: str) -> None:
    arguments = [*save_model(tmp_path), "--dataset", dataset]
    output = tmp_path / "out" / "matching.png"
    options = ["--opts", "MODEL.DEVICE", "cpu"]
    explain_matching.main([*arguments, "--image", "#0", "--output", str(output), *options])
    assert min(Image.open(output).size) > 400
    content = json.loads(output.with_suffix(".json").read_text())
    assert [row["class"] for row in content["matches"]] == ["dog", "cat"]
    assert np.array(content["terms"]["giou"]).shape == (2, 7)
    for image, message in (("9.png", r'no such image among its 2.* "#0" to "#1"'), ("2.png", "no objects to match")):
        with pytest.raises(ValueError, match=message):
            explain_matching.main([*arguments, "--image", image, *options])


def test_classes_are_matched_by_name(tmp_path: Path, dataset: str) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    cfg = tiny_cfg()
    arguments = save_model(folder, cfg)
    state = torch.load(folder / "model.pth", weights_only=True)
    state["pair_detr"]["class_names"] = ["owl", "dog", "hen"]
    torch.save(state, folder / "model.pth")
    predictor = pair_detr.Predictor.from_files(*arguments[1::2])
    record = explain_matching.find_image(dataset, "1")
    with pytest.raises(ValueError, match=r'1\.png of "pets" has objects of cat, which the model does not know'):
        explain_matching.prepare(predictor, record, dataset)
