"""Trainings with masks: several processes, mixed precision, text classifiers, image labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from open_vocabulary_helpers import make_vocabulary
from segmentation_helpers import build_sharp, make_mask_batch, mask_cfg
from torch.nn.parallel import DistributedDataParallel

from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.checkpoint.weights import CheckpointError, Weights, load_weights, read_weights, require_weights
from pair_detr.data.dataset_mixture import source_options
from pair_detr.modeling.meta_arch import DetectionTransformer

SIZES = [(40, 48), (64, 96)]


def detic_model(folder: Path, variant: str = "pair_detr", **detr: Any) -> DetectionTransformer:
    """Masks, texts as the classifier, and a loss for image labels."""
    cfg = mask_cfg(variant, **detr)
    make_vocabulary().save(folder / "texts.npy")
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(folder / "texts.npy")
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    return build(cfg).train()


def make_labeled() -> list[dict[str, Any]]:
    batch = make_batch(SIZES, [0, 0])
    for item, labels in zip(batch, ([1], [0, 2]), strict=True):
        del item["instances"]
        item |= {"ann_type": "image", "pos_category_ids": labels}
    return batch


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_labels_teach_classes_and_no_masks(tmp_path: Path, variant: str) -> None:
    model = detic_model(tmp_path, variant)
    boxed, labeled = model(make_mask_batch(SIZES, [2, 1])), model(make_labeled())
    assert boxed.keys() == labeled.keys()
    assert boxed["loss_mask"] > 0
    assert boxed["loss_dice"] > 0
    assert labeled["loss_mask"] == labeled["loss_dice"] == 0
    assert labeled["loss_image"] > 0
    sum(labeled.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert "mask_head" not in name or not parameter.grad.any(), name


def test_the_second_stage_has_no_use_for_image_labels(tmp_path: Path) -> None:
    """Neither for a batch of them, nor for a dataset, which is said before any is loaded."""
    model = detic_model(tmp_path, MASK__FREEZE_DETECTOR=True)
    assert set(model(make_mask_batch(SIZES, [2, 1]))) == {"loss_mask", "loss_dice"}
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.MASK\.FREEZE_DETECTOR must be False"):
        model(make_labeled())
    cfg = mask_cfg(MASK__FREEZE_DETECTOR=True)
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.DATASET_ANN = "MultiDatasetSampler", ["box", "image"]
    cfg.DATASETS.TRAIN = ("some_boxes", "some_labels")
    with pytest.raises(ValueError, match=r"FREEZE_DETECTOR is True.* some_labels has image labels.*remove it from"):
        source_options(cfg)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_do_not_depend_on_the_vocabulary(tmp_path: Path, variant: str) -> None:
    """A query's mask is that of whatever it found, also of classes that are new."""
    model = detic_model(tmp_path, variant).eval()
    batch = make_mask_batch(SIZES, [0, 0])
    with torch.no_grad():
        before = model.detector(model.preprocess(batch)).mask_queries
        new = make_vocabulary(("owl", "parrot"), seed=1)
        model.set_vocabulary(new.names, new.weights)
        after = model.detector(model.preprocess(batch)).mask_queries
        query = torch.arange(7).repeat(2)
        found, expected = (model.detector.mask_head(asked, query, [7, 7]) for asked in (after, before))
        instances = model(batch)[0]["instances"]
    torch.testing.assert_close(found, expected)
    assert set(instances.pred_classes.tolist()) <= {0, 1}
    assert instances.pred_masks.shape == (len(instances), *SIZES[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("frozen", [False, True])
def test_losses_of_masks_are_fp32_under_autocast(variant: str, frozen: bool) -> None:
    model = build_sharp(mask_cfg(variant, MASK__FREEZE_DETECTOR=frozen)).train()
    batch = make_mask_batch(SIZES, [2, 1])
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    assert losses.keys() == expected.keys()
    for name in ("loss_mask", "loss_dice"):
        assert losses[name].dtype == torch.float32
        # What it is computed from is not fp32.
        torch.testing.assert_close(losses[name], expected[name], rtol=0.15, atol=0)
    sum(losses.values()).backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in parameters)


# What the batches of two processes show, step by step: objects of both images, or image labels, which the second stage
# has not.
STEPS: list[tuple[tuple[int, int] | None, ...]] = [
    ((2, 1), (0, 0)),
    ((0, 0), (0, 3)),
    (None, (2, 1)),
    ((0, 0), None),
    ((0, 0), (0, 0)),
    (None, None),
    ((1, 0), (2, 2)),
]
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{variant: (variant, {}) for variant in VARIANTS},
    "second stage": ("pair_detr", {"MASK__FREEZE_DETECTOR": True}),
}


def _batch(counts: tuple[int, int] | None, step: int, rank: int) -> list[dict[str, Any]]:
    torch.manual_seed(10 * step + rank)
    return make_labeled() if counts is None else make_mask_batch(SIZES, counts)


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    (Path(folder) / str(rank)).mkdir()
    try:
        result = {}
        for setting, (variant, options) in SETTINGS.items():
            # Unused parameters are an error here.
            model = DistributedDataParallel(detic_model(Path(folder, str(rank)), variant, **options))
            for step, counts in enumerate(STEPS):
                if None in counts and model.module.freeze_detector:
                    continue
                model.zero_grad(set_to_none=True)
                losses = model(_batch(counts[rank], step, rank))
                sum(losses.values()).backward()
                gradients = {key: p.grad.clone() for key, p in model.module.named_parameters() if p.requires_grad}
                result[setting, step] = {key: loss.detach() for key, loss in losses.items()}, gradients
        torch.save(result, Path(folder) / f"{rank}.pth")
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("warm_start")
def test_two_processes_with_empty_images_and_image_labels(tmp_path: Path) -> None:
    """None waits for another; both have the same losses' names and gradients; the normalizer is that of both."""
    mp.start_processes(_train, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert len(first) == len(VARIANTS) * len(STEPS) + 4
    for setting, step in first:
        (losses, gradients), (other_losses, other_gradients) = first[setting, step], second[setting, step]
        assert losses.keys() == other_losses.keys() == first[setting, 0][0].keys()
        assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())
        assert all(gradient.isfinite().all() for gradient in gradients.values())
    # Alone, the first process's three objects are three; with none in the other process they are 1.5 for each.
    for setting, (variant, options) in SETTINGS.items():
        alone = detic_model(tmp_path, variant, **options)(_batch(STEPS[0][0], 0, 0))
        torch.testing.assert_close(first[setting, 0][0]["loss_dice"], 2 * alone["loss_dice"])
        assert second[setting, 0][0]["loss_dice"] == 0


def save(folder: Path, cfg: CfgNode) -> str:
    """The checkpoint of a model, of whose classes the names are known."""
    model = build(cfg)
    model.class_names = ["a", "b", "c"]
    AtomicCheckpointer(model, str(folder)).save(cfg.MODEL.DETR.VARIANT)
    return str(folder / f"{cfg.MODEL.DETR.VARIANT}.pth")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_second_stage_starts_from_a_checkpoint_of_the_first(tmp_path: Path, variant: str) -> None:
    cfg = mask_cfg(variant, MASK__FREEZE_DETECTOR=True)
    cfg.MODEL.WEIGHTS = save(tmp_path, tiny_cfg(variant))
    require_weights(cfg)
    model = build(cfg, randomize=False)
    model.class_names = ["a", "b", "c"]
    weights = read_weights(cfg.MODEL.WEIGHTS)
    load_weights(model, weights)
    of_detector = {key: tensor for key, tensor in model.state_dict().items() if "mask_head" not in key}
    assert of_detector.keys() == weights.state.keys()
    assert all(torch.equal(tensor, weights.state[key]) for key, tensor in of_detector.items())


def test_a_frozen_detector_needs_weights(tmp_path: Path) -> None:
    """Or the masks would be those of a random one."""
    cfg = mask_cfg("detr", MASK__FREEZE_DETECTOR=True)
    with pytest.raises(ValueError, match=r'FREEZE_DETECTOR is True, but MODEL\.WEIGHTS is "".*trained detector'):
        require_weights(cfg)
    weights = read_weights(save(tmp_path, tiny_cfg("detr")))
    model = build(cfg)
    model.class_names = ["a", "b", "other"]
    with pytest.raises(CheckpointError, match=r"(?s)not those of the whole detector.*class_head.*FREEZE_DETECTOR to"):
        load_weights(model, weights)
    backbone = {key: tensor for key, tensor in weights.state.items() if ".backbone." in key}
    with pytest.raises(CheckpointError, match=r"(?s)not those of the whole detector.*encoder.*random start"):
        load_weights(build(cfg), Weights("backbone.pth", "this package's", backbone, None, {}))
