"""The trial of open vocabulary on generated shapes: which image is where, what is known of it, and its text weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.data import DatasetCatalog, MetadataCatalog
from open_vocabulary_helpers import make_vocabulary

from pair_detr.config_files import load_config
from pair_detr.data import load_dataset, make_shapes
from pair_detr.data.datasets.open_shapes import register_open_shapes
from pair_detr.data.datasets.shapes import CLASS_NAMES, register_shapes
from pair_detr.modeling.class_sampling import build_federated_sampler
from pair_detr.open_vocabulary import UnnamedClassesError, Vocabulary, random_text_weights
from pair_detr.tools import make_open_shapes, text_weights

NAMES = ("open_shapes_train_boxes", "open_shapes_train_image_labels", "open_shapes_val")


@pytest.fixture
def shapes(tmp_path: Path) -> Iterator[Path]:
    with restored_catalogs():
        root = tmp_path / "shapes"
        make_shapes(str(root), num_train=60, num_val=5)
        make_open_shapes.main(["--output", str(root)])
        for name in (*NAMES, "shapes_train", "shapes_val"):
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)
        register_shapes(str(root))
        register_open_shapes(root)
        yield root


@pytest.mark.usefixtures("shapes")
def test_images_are_divided_by_what_they_show() -> None:
    truth = {x["file_name"]: {a["category_id"] for a in x["annotations"]} for x in load_dataset("shapes_train")}
    boxes, labels = (load_dataset(name) for name in NAMES[:2])
    assert {x["file_name"] for x in boxes} == {file for file, classes in truth.items() if 0 not in classes}
    assert all({a["category_id"] for a in x["annotations"]} == truth[x["file_name"]] for x in boxes)
    assert len(boxes) > 5
    assert {x["file_name"] for x in labels} == {file for file, classes in truth.items() if classes == {0}}
    assert all(x["pos_category_ids"] == [0] and not x["annotations"] for x in labels)
    assert len(labels) > 2
    assert load_dataset(NAMES[2])[0]["annotations"] == load_dataset("shapes_val")[0]["annotations"]


@pytest.mark.usefixtures("shapes")
def test_circles_are_novel() -> None:
    """They are evaluated apart; but images with boxes are known to have none."""
    assert MetadataCatalog.get(NAMES[2]).novel_classes == ["circle"]
    assert build_federated_sampler(load_config("detic/quickstart_image_labels")) is None


def test_texts_are_as_alike_as_clips(shapes: Path) -> None:
    texts = Vocabulary.load(shapes / "texts.npy")
    assert texts.names == CLASS_NAMES
    cosines = texts.weights @ texts.weights.T
    assert ((cosines - 0.8).abs() < 0.05).sum() == 6
    assert torch.equal(texts.weights, random_text_weights(CLASS_NAMES).weights)


def test_text_weights_from_a_file(tmp_path: Path) -> None:
    known = make_vocabulary(["cat", "traffic cone", "dog"])
    known.save(tmp_path / "known.npy")
    output = tmp_path / "some.npy"
    arguments = ["--from", str(tmp_path / "known.npy"), "--output", str(output), "--vocabulary"]
    text_weights.main([*arguments, "dog,traffic_cone"])
    found = Vocabulary.load(output)
    assert found.names == ("dog", "traffic_cone")
    torch.testing.assert_close(found.weights, known.weights[[2, 1]])
    assert found.metadata["encoder"] == "test"
    with pytest.raises(ValueError, match="has no owl"):
        text_weights.main([*arguments, "dog,owl"])
    # As published, without names.
    (tmp_path / "known.json").unlink()
    with pytest.raises(UnnamedClassesError):
        text_weights.main([*arguments, "dog"])
    text_weights.main([*arguments, "dog", "--from-vocabulary", "cat,traffic cone,dog"])
    torch.testing.assert_close(Vocabulary.load(output).weights, known.weights[2:])
