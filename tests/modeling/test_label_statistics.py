"""BatchNorm in batches of image labels."""

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from model_helpers import build, tiny_cfg
from torch import nn

from pair_detr.modeling.batch_norm import fixed_statistics


def test_statistics_are_fixed_within_the_block() -> None:
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.BatchNorm1d(3))
    norms[2].eval()
    x = torch.randn(8, 3, 5, 5) + 4
    with fixed_statistics(norms):
        assert [module.training for module in norms] == [False, True, False]
        torch.testing.assert_close(norms[0](x), x, rtol=1e-4, atol=1e-4)
        assert not norms[0].running_mean.any()
    assert [module.training for module in norms] == [True, True, False]
    assert norms[0](x).mean().abs() < 1e-5


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, NaiveSyncBatchNorm])
def test_layers_that_other_processes_wait_for_stay_as_they_are(kind: type[nn.Module]) -> None:
    norm = kind(3)
    with fixed_statistics(norm):
        assert norm.training


def labeled(color: float, label: int) -> dict:
    image = torch.full((3, 32, 32), color).to(torch.uint8)
    return {"image": image, "ann_type": "image", "pos_category_ids": [label], "height": 32, "width": 32}


@pytest.mark.parametrize("fixed", [True, False])
def test_photos_of_a_batch_do_not_change_each_other(fixed: bool) -> None:
    """The loss of two is the mean of theirs, and they leave no traces in the statistics; if asked for."""
    cfg = tiny_cfg("pair_detr")
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.CONVNET.CHANNELS = "build_convnet_backbone", [8, 16]
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.MODEL.DETR.DROPOUT = "MultiDatasetSampler", 0.0
    cfg.MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS = fixed
    model = build(cfg).train()
    statistics = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    assert statistics
    photos = [labeled(30.0, 0), labeled(200.0, 1)]
    both, *each = (model(batch)["loss_image"] for batch in (photos, photos[:1], photos[1:]))
    assert torch.allclose(both, sum(each) / 2, rtol=1e-4) == fixed
    assert all(torch.equal(model.state_dict()[name], value) for name, value in statistics.items()) == fixed
    assert all(module.training for module in model.modules())
