"""The study of what text rows tell of masks, on data whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clip.model import CLIP
from open_vocabulary_helpers import TINY_CLIP
from PIL import Image
from probe_helpers import write_class_data
from sklearn.metrics import jaccard_score, roc_auc_score

from pair_detr.open_vocabulary import Vocabulary
from pair_detr.studies import text_masks
from pair_detr.studies.class_objects import load_objects
from pair_detr.studies.dense_scores import DENSE_METHODS, OTHERS
from pair_detr.studies.mask_scores import (
    MASK_SIZE,
    area_under_curve,
    crop_masks,
    mask_iou,
    mean_masks,
    soft_iou,
)
from pair_detr.studies.text_masks import MEAN_IOU, OBJECT_IOU, OWN, explained, pixel_errors, score_masks
from pair_detr.studies.text_probes import MEAN, REAL, SHUFFLED, interval, predict_left_out


def test_measures_against_other_libraries() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 3, 6, 6)) > 0.4
    expected = [jaccard_score(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(mask_iou(first, second), expected)
    np.testing.assert_allclose(soft_iou(first.astype(float), second.astype(float)), expected)
    empty = np.zeros((6, 6), dtype=bool)
    assert mask_iou(empty, empty) == 1
    assert mask_iou(empty, first[0]) == 0
    scores = rng.random((6, 6)).round(1)
    assert area_under_curve(scores, first[0]) == pytest.approx(roc_auc_score(first[0].ravel(), scores.ravel()))
    assert np.isnan(area_under_curve(scores, empty))


def test_masks_are_cropped_to_their_boxes(tmp_path: Path) -> None:
    annotations, texts = write_class_data(tmp_path)
    objects = load_objects([str(annotations)], Vocabulary.load(texts), 4, with_masks=True)
    masks = crop_masks(objects)
    means = mean_masks(masks, objects.classes, len(objects.names))
    half = MASK_SIZE // 2
    for number, mask in enumerate(means):
        # Odd ones are the left half, others the upper one; the edge of the box is of pixels.
        inside, outside = (mask[:, :half], mask[:, half:]) if number % 2 else (mask[:half], mask[half:])
        assert inside[2:-4, 2:-4].min() == 1
        assert outside[4:, 4:].max() == 0


def test_masks_that_are_linear_in_the_rows_are_predicted() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 3))
    columns = np.arange(MASK_SIZE)
    # How far a class's masks reach to the right follows its row: their mean is linear in it, a ramp.
    reach = 14 + 5 * np.clip(rows[:, :1] / 2, -1, 1) + rng.uniform(-8, 8, size=(60, 200))
    masks = np.broadcast_to((columns < reach[..., None])[:, :, None], (60, 200, MASK_SIZE, MASK_SIZE))
    masks = masks.reshape(-1, MASK_SIZE, MASK_SIZE)
    classes = np.arange(60).repeat(200)
    means = mean_masks(masks, classes, 60)
    predicted = predict_left_out(rows, means.reshape(60, -1), folds=5, seeds=2, shared_penalty=True)
    scores = score_masks(predicted, means, masks, classes)
    assert scores[REAL][MEAN_IOU].mean() > 0.93
    for control in (SHUFFLED, MEAN):
        assert scores[control][MEAN_IOU].mean() < 0.88
    assert scores[OWN][MEAN_IOU].tolist() == [[1] * 60]
    assert scores[MEAN][OBJECT_IOU].mean() < scores[REAL][OBJECT_IOU].mean() <= scores[OWN][OBJECT_IOU].mean()
    deviations = ((means - means.mean(0)) ** 2).sum((1, 2))
    errors = pixel_errors(predicted, means)
    assert interval(explained, errors[REAL], deviations).low > 0.75
    assert interval(explained, errors[SHUFFLED], deviations).value < 0.1


def write_clip(file: Path) -> Path:
    torch.save(CLIP(**TINY_CLIP | {"vision_layers": 2}).state_dict(), file)
    return file


def test_study_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights: nothing is known of the maps but that there are scores for all methods."""
    annotations, texts = write_class_data(tmp_path)
    output = tmp_path / "out" / "masks.png"
    arguments = ["--data", str(annotations), "--text-weights", str(texts), "--min-boxes", "4", "--seeds", "2"]
    arguments += ["--folds", "3", "--images", str(tmp_path), "--output", str(output)]
    text_masks.main([*arguments, "--checkpoint", str(write_clip(tmp_path / "clip.pt")), "--objects", "30"])
    assert min(Image.open(output).size) > 300
    log = capsys.readouterr().out
    assert "12 classes, 96 boxes, 4 images" in log
    dense = log.split("Dense maps of clip: 30 objects")[1]
    for method in DENSE_METHODS:
        line = next(line for line in dense.splitlines() if line.startswith(f"| {method} "))
        found = [float(cell.split()[0]) for cell in line.split("|")[2:5] if cell.strip() != "-"]
        assert len(found) == (2 if method == OTHERS else 3)
        assert 0 <= min(found) <= max(found) <= 1
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        text_masks.main([*arguments, "--checkpoint", str(tmp_path / "none.pt")])
    with pytest.raises(SystemExit, match="2"):
        text_masks.main([*arguments, "--objects", "0"])
