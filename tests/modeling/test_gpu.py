"""The training step on a GPU."""

import copy
import warnings

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from pair_detr import add_pair_detr_config
from pair_detr.analysis.speed import make_batch
from pair_detr.config.variants import VARIANTS
from pair_detr.config_files import config_file
from pair_detr.modeling.meta_arch import DetectionTransformer


def build_on_cpu(variant: str) -> DetectionTransformer:
    cfg = get_cfg()
    add_pair_detr_config(cfg)
    cfg.merge_from_file(str(config_file("quickstart")))
    cfg.merge_from_list(["MODEL.DETR.VARIANT", variant, "MODEL.DETR.NUM_CLASSES", 3, "MODEL.DEVICE", "cpu"])
    return build_model(cfg)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_losses_agree_with_the_cpu_and_bfloat16_stays_finite(variant: str) -> None:
    model = build_on_cpu(variant)
    batch = [*make_batch(2, (96, 96), 3, 3), *make_batch(1, (64, 80), 0, 3)]
    on_gpu = copy.deepcopy(model).cuda()
    expected = model(batch)
    losses = on_gpu(batch)
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-3), name
    with torch.autocast("cuda", torch.bfloat16):
        losses = on_gpu(batch)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in on_gpu.parameters() if p.requires_grad)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_training_step_waits_for_the_device_once(variant: str) -> None:
    model = build_on_cpu(variant).cuda()
    batch = [*make_batch(2, (96, 96), 3, 3), *make_batch(1, (64, 80), 0, 3)]
    sum(model(batch).values()).backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sum(model(batch).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing" in str(warning.message)]
    # The matcher's copy of all costs.
    assert len(waits) == 1, [str(warning.message) for warning in waits]
