"""Batches with image labels in the whole model and in trainings of one process and of two."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from engine_helpers import tiny_config, write_dataset
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from torch.nn.parallel import DistributedDataParallel

from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.engine import Trainer
from pair_detr.losses.image_labels import IMAGE_LABEL_LOSSES
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.utils.json_files import write_json

SIZES = [(40, 48), (64, 96)]


def mixed_cfg(variant: str = "pair_detr", **detr: Any) -> CfgNode:
    cfg = tiny_cfg(variant, **detr)
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    return cfg


def make_labeled(labels: tuple[list[int], ...] = ([1], [0, 2])) -> list[dict[str, Any]]:
    batch = make_batch(SIZES, [0] * len(SIZES))
    return [item | {"ann_type": "image", "pos_category_ids": x} for item, x in zip(batch, labels, strict=True)]


def gradients(model: DetectionTransformer, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    sum(model(batch).values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


CHOICES: list[tuple[str, dict[str, Any]]] = [
    *((variant, {}) for variant in VARIANTS),
    *(("pair_detr", {"IMAGE_LABELS__LOSS": name}) for name in IMAGE_LABEL_LOSSES if name != "max_size"),
    ("pair_detr", {"IMAGE_LABELS__LOSS": "pair_score", "PAIR__PROJECTION_DIM": 8}),
    ("pair_detr", {"PAIR__BOX_DECODING": "pair", "LOSS__DEEP_SUPERVISION": False}),
    ("detr", {"IMAGE_LABELS__LOSS": "wsddn"}),
]


@pytest.mark.parametrize(("variant", "options"), CHOICES)
def test_only_the_image_label_loss_acts(variant: str, options: dict[str, Any]) -> None:
    model = build(mixed_cfg(variant, **options))
    losses = model(make_labeled())
    assert losses.pop("loss_image") > 0
    assert all(loss == 0 for loss in losses.values())
    found = gradients(model, make_labeled())
    # What predicts boxes, corners and pairs is not used for classes.
    idle = re.compile(r"detector\.(box_head|top_left_head|top_left_decoder|(center|top_left)_projection)\.")
    for name, gradient in found.items():
        # Otherwise DistributedDataParallel waits for a parameter for ever.
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert not (idle.match(name) and gradient.any()), name
    assert all(found[f"detector.{name}"].any() for name in ("class_head.weight", "input_proj.weight"))
    # The gradient is that of this loss alone.
    batch = make_labeled()
    found = {name: gradient.clone() for name, gradient in gradients(model, batch).items()}
    model.zero_grad(set_to_none=False)
    model(batch)["loss_image"].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("options", [{}, {"PAIR__CLASS_DECODER": "top_left"}])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_the_classifier_alone(variant: str, options: dict[str, Any]) -> None:
    """It gets the gradient that it gets otherwise; nothing else gets one."""
    batch = make_labeled()
    expected = gradients(build(mixed_cfg(variant, **options)), batch)
    found = gradients(build(mixed_cfg(variant, IMAGE_LABELS__CLASSIFIER_ONLY=True, **options)), batch)
    for name, gradient in found.items():
        if name.startswith("detector.class_head."):
            torch.testing.assert_close(gradient, expected[name])
            assert gradient.any()
        else:
            assert gradient is not None, name
            assert not gradient.any(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_with_boxes_train_as_without_image_labels(variant: str) -> None:
    mixed, plain = build(mixed_cfg(variant)), build(tiny_cfg(variant))
    batch = make_batch(SIZES, [2, 1])
    losses = mixed(batch)
    assert losses.keys() == mixed(make_labeled()).keys()
    assert losses.pop("loss_image") == 0
    assert losses == plain(batch)
    expected = gradients(plain, batch)
    for name, gradient in gradients(mixed, [item | {"ann_type": "box"} for item in batch]).items():
        assert torch.equal(gradient, expected[name]), name


def test_batches_that_cannot_be_learned_from() -> None:
    for cfg in (tiny_cfg(), mixed_cfg(CLASS_AGNOSTIC=True)):
        with pytest.raises(ValueError, match=r"SAMPLER_TRAIN MultiDatasetSampler; MODEL\.DETR\.CLASS_AGNOSTIC"):
            build(cfg)(make_labeled())
    with pytest.raises(ValueError, match=r"mixes images of the kinds \['box', 'image'\]"):
        build(mixed_cfg())(make_labeled()[:1] + make_batch(SIZES[:1], [1]))


# Which of two processes has image labels, step by step.
STEPS = [(True, False), (False, True), (True, True), (False, False), (True, False)]


def _batch(labeled: bool, step: int, rank: int) -> list[dict[str, Any]]:
    torch.manual_seed(10 * step + rank)
    return make_labeled() if labeled else make_batch(SIZES, [2, rank])


DISTRIBUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "pair": ("pair_detr", {"IMAGE_LABELS__LOSS": "pair_score"}),
    "classifier only": ("pair_detr", {"IMAGE_LABELS__CLASSIFIER_ONLY": True}),
    "softmax": ("detr", {}),
}


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        result = {}
        for name, (variant, options) in DISTRIBUTED.items():
            # Unused parameters are an error here.
            model = DistributedDataParallel(build(mixed_cfg(variant, **options)))
            for step, labeled in enumerate(STEPS):
                model.zero_grad(set_to_none=True)
                sum(model(_batch(labeled[rank], step, rank)).values()).backward()
                result[name, step] = {key: p.grad.clone() for key, p in model.module.named_parameters()}
        torch.save(result, Path(folder) / f"{rank}.pth")
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("warm_start")
def test_processes_with_batches_of_different_kinds(tmp_path: Path) -> None:
    """No process waits for another, and the gradient is the mean of what each batch gives by itself."""
    mp.start_processes(_train, (str(tmp_path),), nprocs=2, start_method="forkserver")
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    for setting, step in found[0]:
        first, second = (x[setting, step] for x in found)
        assert all(torch.equal(gradient, second[name]) for name, gradient in first.items())
        labeled = STEPS[step]
        if labeled == (False, False):
            # The normalizer is that of both together.
            continue
        variant, options = DISTRIBUTED[setting]
        model = build(mixed_cfg(variant, **options))
        each = [gradients(model, _batch(labeled[rank], step, rank)) for rank in (0, 1)]
        for name, gradient in first.items():
            torch.testing.assert_close(gradient, (each[0][name] + each[1][name]) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", ["max_size", "pair_score"])
def test_training_on_data_sets_of_both_kinds(tmp_path: Path, loss: str) -> None:
    """With the loader, the trainer and mixed precision; resumed in the middle."""
    entry = write_dataset(tmp_path, f"image_label_training_{loss}")
    content = json.loads((tmp_path / "annotations.json").read_text())
    images = [image | {"pos_category_ids": [2]} for image in content["images"]]
    write_json(content | {"images": images, "annotations": []}, tmp_path / "labels.json")
    labels = f"image_label_training_{loss}_labels"
    register_image_labels(labels, tmp_path / "labels.json", tmp_path)
    options = {
        "DATASETS__TRAIN": (entry["NAME"], labels),
        "DATALOADER__SAMPLER_TRAIN": "MultiDatasetSampler",
        "MODEL__DETR__IMAGE_LABELS__LOSS": loss,
        "SOLVER__AMP__ENABLED": True,
        "SOLVER__MAX_ITER": 6,
        "SOLVER__CHECKPOINT_PERIOD": 3,
    }

    class Recording(Trainer):
        def run_step(self) -> None:
            super().run_step()
            self.flush_metrics()
            latest = self.storage.latest().items()
            self.recorded.append({name: v for name, (v, i) in latest if "loss" in name and i == self.iter})

    def train(output: Path, resume: bool = False, **changes: Any) -> list[dict[str, float]]:
        torch.manual_seed(0)
        trainer = Recording(tiny_config(entry, output, **options | changes))
        trainer.recorded = []
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return trainer.recorded

    whole = train(tmp_path / "whole")
    labeled = ["loss_image" in step for step in whole]
    assert 2 <= sum(labeled) <= 4
    for step, is_labeled in zip(whole, labeled, strict=True):
        if is_labeled:
            assert step.keys() == {"loss_image", "total_loss"}
        else:
            assert {"loss_class", "loss_box_aux", "loss_top_left"} < step.keys()
    train(tmp_path / "parts", SOLVER__MAX_ITER=3)
    assert train(tmp_path / "parts", resume=True) == whole[3:]
