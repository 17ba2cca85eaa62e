"""The mask head against a plain implementation, at any size and for any backbone."""

import pytest
import torch
from detectron2.config import CfgNode
from model_helpers import VARIANTS, as_batch, build, make_batch, tiny_cfg
from segmentation_helpers import build_sharp, mask_cfg, naive_attention, naive_masks
from torch import Tensor

from pair_detr.layers import point_encoding
from pair_detr.modeling.mask_head import MaskHead
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import FeatureMaps, MaskQueries, Memory

# Padded in both directions; no size is a multiple of a stride.
SIZES = [(61, 90), (97, 43), (50, 50)]


@torch.no_grad()
def ask(model: DetectionTransformer, sizes: list[tuple[int, int]]) -> MaskQueries:
    """The queries of a batch of random images, for a mask head in fp64: rounding would drown in sharp attention."""
    torch.manual_seed(1)
    asked = model.eval().detector(model.preprocess(make_batch(sizes, [0] * len(sizes)))).mask_queries
    model.detector.mask_head.double()
    return doubled(asked)


def doubled(asked: MaskQueries) -> MaskQueries:
    """In fp64."""
    memory, maps = asked.memory, asked.memory.maps
    maps = FeatureMaps(maps.projected.double(), [x.double() for x in maps.finer])
    memory = Memory(memory.tokens.double(), memory.position.double(), memory.key_mask, maps)
    return MaskQueries(asked.states.double(), memory, asked.reference)


@torch.no_grad()
def all_masks(model: DetectionTransformer, asked: MaskQueries) -> Tensor:
    """(B, Q, H, W) by the head itself."""
    images, queries = asked.states.shape[:2]
    chosen = torch.arange(queries).repeat(images)
    return model.detector.mask_head(asked, chosen, [queries] * images).unflatten(0, (images, queries))


@pytest.mark.parametrize("resnet", [False, True], ids=["convnet", "resnet"])
def test_head_equals_one_that_copies_features_for_every_query(resnet: bool) -> None:
    model = build_sharp(mask_cfg("detr", resnet))
    head, asked = model.detector.mask_head, ask(model, SIZES)
    expected = naive_masks(head, asked)
    assert expected.shape[-2:] == (asked.memory.maps.finer[-1].shape[-2:])
    assert expected.std(1).mean() > 1e-6, "all queries would have the same mask"
    torch.testing.assert_close(all_masks(model, asked), expected, atol=1e-8, rtol=0)
    # Some queries of some images.
    query, image = torch.tensor([5, 0, 0, 3]), torch.tensor([0, 0, 2, 2])
    found = head(asked, query, [2, 0, 2])
    torch.testing.assert_close(found, expected[image, query], atol=1e-8, rtol=0)


def test_gradients_equal_those_of_one_that_copies_features() -> None:
    head = MaskHead(32, 4, [8, 4])

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape).requires_grad_()

    states, tokens, projected = leaf(2, 3, 32), leaf(2, 4 * 5, 32), leaf(2, 32, 4, 5)
    finer = [leaf(2, 8, 7, 9), leaf(2, 4, 13, 18)]
    key_mask = torch.ones(2, 1, 1, 20, dtype=torch.bool)
    key_mask[1, ..., 12:] = False
    asked = MaskQueries(states, Memory(tokens, torch.zeros(1, 20, 32), key_mask, FeatureMaps(projected, finer)))
    inputs = [states, tokens, projected, *finer, *head.parameters()]
    weight = torch.randn(2, 3, 13, 18)
    found = head(asked, torch.tensor([0, 1, 2, 0, 1, 2]), [3, 3]).unflatten(0, (2, 3))
    expected = torch.autograd.grad((naive_masks(head, asked) * weight).sum(), inputs)
    for a, b in zip(torch.autograd.grad((found * weight).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_attention_is_a_softmax_over_heads_and_valid_cells() -> None:
    model = build_sharp(mask_cfg("detr"))
    asked = ask(model, SIZES)
    memory, head = asked.memory, model.detector.mask_head
    weights = head.attention(asked.states.flatten(0, 1), memory.tokens, memory.key_mask, [7, 7, 7])
    torch.testing.assert_close(weights.view(3, 7, 4, *memory.maps.projected.shape[-2:]), naive_attention(head, asked))
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(21, dtype=torch.float64))
    in_padding = weights.unflatten(0, (3, 7)).masked_select(~memory.key_mask)
    assert len(in_padding)
    assert (in_padding == 0).all()


def test_attention_does_not_depend_on_padding() -> None:
    """With a padding mask, the cells outside the image change nothing, whatever they hold."""
    attention = build_sharp(mask_cfg("detr")).detector.mask_head.attention
    queries, keys = torch.randn(3, 32), torch.randn(1, 12, 32)
    alone = attention(queries, keys, None, [3])
    mask = torch.tensor([True] * 12 + [False] * 5)[None, None, None]
    padded = attention(queries, torch.cat((keys, 100 * torch.randn(1, 5, 32)), 1), mask, [3])
    torch.testing.assert_close(padded[..., :12], alone)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_of_an_image_do_not_depend_on_others_of_the_batch(variant: str) -> None:
    model = build_sharp(mask_cfg(variant)).eval()
    batch = make_batch([(57, 75)] * 3, [0] * 3)
    with torch.no_grad():
        together = all_masks(model, model.detector(model.preprocess(batch)).mask_queries)
        alone = [all_masks(model, model.detector(model.preprocess([item])).mask_queries) for item in batch]
    assert together.std(0).mean() > 0.01
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(33, 47), (64, 96), (127, 31)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_masks_of_a_resnet_have_the_size_of_res2(size: tuple[int, int], dilation: int) -> None:
    cfg = mask_cfg("detr", resnet=True)
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    model = build(cfg)
    detector = model.detector
    assert [detector.in_feature, *detector.finer_features] == ["res5", "res4", "res3", "res2"]
    masks = all_masks(model, ask(model, [size]))
    assert masks.shape == (1, 7, (size[0] + 3) // 4, (size[1] + 3) // 4)
    assert masks.isfinite().all()


def timm_cfg(name: str, **kwargs: object) -> CfgNode:
    cfg = mask_cfg("detr")
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_timm_backbone", 0
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.KWARGS.update(kwargs)
    return cfg


@pytest.mark.parametrize(
    ("cfg", "stages", "stride"),
    [
        (mask_cfg("detr"), ["last", "stage2"], 4),
        (timm_cfg("mobilenetv2_050"), ["stage4", "stage3", "stage2", "stage1"], 4),
        (
            timm_cfg("vit_tiny_patch16_224", dynamic_img_size=True, depth=5),
            ["stage4", "stage3", "stage2", "stage1"],
            16,
        ),
    ],
    ids=["convnet", "mobilenet", "vit"],
)
def test_other_backbones(cfg: CfgNode, stages: list[str], stride: int) -> None:
    model = build_sharp(cfg)
    assert [model.detector.in_feature, *model.detector.finer_features] == stages
    asked = ask(model, [(61, 90)])
    masks = all_masks(model, asked)
    assert masks.shape[-2:] == (-(-61 // stride), -(-90 // stride))
    torch.testing.assert_close(masks, naive_masks(model.detector.mask_head, asked), atol=1e-8, rtol=0)


def test_without_masks_the_detector_takes_the_last_stage_alone() -> None:
    model = build(tiny_cfg("detr"))
    assert list(model.detector.backbone(torch.rand(1, 3, 32, 32))) == ["stage2", "last"]
    assert (model.detector.in_feature, model.detector.finer_features) == ("last", [])
    assert model.detector.mask_head is None
    assert model.eval().detector(as_batch(torch.rand(1, 3, 32, 32))).mask_queries is None


def test_pair_detr_asks_with_the_decoder_that_the_config_names() -> None:
    asked = {}
    for decoder in ("center", "top_left"):
        model = build_sharp(mask_cfg("pair_detr", MASK__QUERY_DECODER=decoder))
        asked[decoder] = ask(model, [(40, 40)])
        own = model.detector.decoder if decoder == "center" else model.detector.top_left_decoder
        outputs = []
        own.register_forward_hook(lambda *args, outputs=outputs: outputs.append(args[-1]))
        again = ask(model, [(40, 40)])
        torch.testing.assert_close(again.states, outputs[0][0][-1].double(), atol=0, rtol=0)
        assert torch.equal(again.reference, outputs[0][1])
    assert (asked["center"].states - asked["top_left"].states).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"MASK\.QUERY_DECODER is 'corner'; it must be one of center, top_left"):
        build(mask_cfg("pair_detr", MASK__QUERY_DECODER="corner"))


@pytest.mark.parametrize("variant", ["conditional_detr", "pair_detr"])
def test_spatial_queries_and_keys_are_located(variant: str) -> None:
    model = build_sharp(mask_cfg(variant, MASK__SPATIAL_QUERY=True))
    asked = ask(model, SIZES)
    memory = asked.memory
    with_position = MaskQueries(
        asked.states + point_encoding(asked.reference, 32),
        Memory(memory.tokens + memory.position, memory.position, memory.key_mask, memory.maps),
    )
    expected = naive_masks(model.detector.mask_head, with_position)
    torch.testing.assert_close(all_masks(model, asked), expected, atol=1e-8, rtol=0)


def test_config_errors() -> None:
    with pytest.raises(ValueError, match=r"SPATIAL_QUERY is True, but the queries of MODEL\.DETR\.VARIANT detr"):
        build(mask_cfg("detr", MASK__SPATIAL_QUERY=True))
    with pytest.raises(ValueError, match=r"FREEZE_DETECTOR is True, but MODEL\.MASK_ON is False"):
        build(tiny_cfg("detr", MASK__FREEZE_DETECTOR=True))
    with pytest.raises(ValueError, match=r"HIDDEN_DIM is 8; with MODEL\.MASK_ON and 3 feature maps"):
        MaskHead(8, 2, [4, 4, 4])
    with pytest.raises(ValueError, match=r"LOSS\.DICE is -1"):
        build(mask_cfg("detr", LOSS__DICE=-1.0))
