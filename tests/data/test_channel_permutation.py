"""Images in other colors: what is done to them, and that nothing learns their classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from model_helpers import default_cfg, make_targets
from PIL import Image

from pair_detr.data.checks.input_keys import check_input
from pair_detr.data.dataset_mapper import DetectionMapper
from pair_detr.data.dataset_mixture import source_options
from pair_detr.data.multi_dataset import MultiDatasetMapper
from pair_detr.data.transforms import RandomChannelPermutation
from pair_detr.modeling.batching import pack_boxes


def record(folder: Path) -> dict:
    """Of a file with another constant in each channel."""
    file = folder / "colors.png"
    Image.fromarray(np.full((20, 30, 3), (10, 20, 30), dtype=np.uint8)).save(file)
    annotation = {"bbox": [3.0, 4.0, 9.0, 10.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    return {"file_name": str(file), "height": 20, "width": 30, "image_id": 1, "annotations": [annotation]}


def mapper_cfg(prob: float):
    cfg = default_cfg()
    cfg.INPUT.CHANNEL_PERMUTATION, cfg.MODEL.CLIP.OBJECTNESS, cfg.MODEL.CLIP.TEXT_WEIGHTS = prob, True, "texts.npy"
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RESIZE_CROP.ENABLED = "none", False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (20,), 20
    return cfg


def test_every_other_order_is_drawn() -> None:
    image = np.arange(3, dtype=np.uint8)[None, None]
    np.random.seed(0)
    drawn = [tuple(RandomChannelPermutation()(T.AugInput(image)).apply_image(image)[0, 0]) for _ in range(200)]
    assert set(drawn) == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_mapped_images(prob: float, is_train: bool, tmp_path: Path) -> None:
    mapped = DetectionMapper(mapper_cfg(prob), is_train)(record(tmp_path))
    colors = mapped["image"][:, 0, 0].tolist()
    assert sorted(colors) == [10, 20, 30]
    assert (mapped["image"] == mapped["image"][:, :1, :1]).all()
    assert (colors == [10, 20, 30]) == (prob == 0 or not is_train)
    if is_train:
        assert mapped["unclassified"] == (prob == 1)
        assert mapped["instances"].gt_boxes.tensor.tolist() == [[3, 4, 9, 10]]
        assert mapped["instances"].gt_classes.tolist() == [1]


def test_images_with_labels_keep_their_colors(tmp_path: Path) -> None:
    cfg = mapper_cfg(1.0)
    cfg.DATASETS.TRAIN = ("first", "second")
    cfg.DATALOADER.DATASET_ANN, cfg.DATALOADER.DATASET_RATIO = ["box", "image"], [1, 1]
    mapper = MultiDatasetMapper(cfg, source_options(cfg))
    labeled = record(tmp_path) | {"dataset_source": 1, "pos_category_ids": [1]}
    labeled.pop("annotations")
    assert mapper(labeled)["image"][:, 0, 0].tolist() == [10, 20, 30]
    assert mapper(record(tmp_path) | {"dataset_source": 0})["image"][:, 0, 0].tolist() != [10, 20, 30]


def test_batches_say_which_classes_are_known(tmp_path: Path) -> None:
    mapped = [DetectionMapper(mapper_cfg(prob), True)(record(tmp_path)) for prob in (0.0, 1.0)]
    sizes = [(20, 30)] * 2
    targets = pack_boxes(mapped, sizes, 10, False)
    assert targets.classified.tolist() == [True, False]
    assert targets.to(torch.device("cpu")).classified.tolist() == [True, False]
    assert targets.repeat_images(2).classified.tolist() == [True, True, False, False]
    assert pack_boxes(mapped[:1], sizes[:1], 10, False).classified is None
    assert make_targets([1]).repeat_images(2).classified is None


def test_what_it_needs() -> None:
    cfg = mapper_cfg(0.5)
    check_input(cfg)
    cfg.INPUT.FORMAT = "HSV"
    with pytest.raises(
        ValueError, match=r"CHANNEL_PERMUTATION is 0\.5, which needs colors, but INPUT\.FORMAT is .HSV."
    ):
        check_input(cfg)
    cfg.INPUT.FORMAT = "RGB"
    for key, nothing in (("OBJECTNESS", False), ("TEXT_WEIGHTS", "")):
        lacking = cfg.clone()
        lacking.MODEL.CLIP[key] = nothing
        with pytest.raises(ValueError, match=r"CHANNEL_PERMUTATION is 0\.5, .*without MODEL\.CLIP\.TEXT_WEIGHTS"):
            check_input(lacking)
