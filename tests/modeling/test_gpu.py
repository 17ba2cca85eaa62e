"""The training step on a GPU."""

import copy
import warnings

import pytest
import torch
from detectron2.modeling import build_model

from pair_detr.analysis.speed import make_batch
from pair_detr.config_files import load_config
from pair_detr.modeling.meta_arch import DetectionTransformer

CONFIGS = {
    "detr": ("bases/quickstart", ["MODEL.DETR.VARIANT", "detr"]),
    "conditional_detr": ("bases/quickstart", ["MODEL.DETR.VARIANT", "conditional_detr"]),
    "pair_detr as published": ("bases/quickstart", ["MODEL.DETR.VARIANT", "pair_detr"]),
    "pair_detr": ("quickstart", []),
    "all branches": (
        "quickstart",
        [
            "MODEL.DETR.QUERY_GROUPS",
            "2",
            "MODEL.DETR.DENOISING.GROUPS",
            "2",
            "MODEL.DETR.DENOISING.NEGATIVES",
            "True",
            "MODEL.DETR.BOX_REFINEMENT",
            "look_forward_twice",
            "MODEL.DETR.BOX_BIAS",
            "True",
        ],
    ),
}


def build_on_cpu(name: str) -> DetectionTransformer:
    config, options = CONFIGS[name]
    cfg = load_config(config, [*options, "MODEL.DETR.NUM_CLASSES", "3", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    model = build_model(cfg)
    # Fresh heads predict the same box from many queries, and rounding would decide which of them are matched.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_agree_with_the_cpu_and_bfloat16_stays_finite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # By default, convolutions of fp32 are in TF32, which has 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = build_on_cpu(name)
    batch = [*make_batch(2, (96, 96), 3, 3), *make_batch(1, (64, 80), 0, 3)]
    on_gpu = copy.deepcopy(model).cuda()
    expected = model(batch)
    losses = on_gpu(batch)
    for key, loss in expected.items():
        assert losses[key].item() == pytest.approx(loss.item(), rel=1e-3), key
    with torch.autocast("cuda", torch.bfloat16):
        losses = on_gpu(batch)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in on_gpu.parameters() if p.grad is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_training_step_waits_for_the_device_once(name: str) -> None:
    model = build_on_cpu(name).cuda()
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
