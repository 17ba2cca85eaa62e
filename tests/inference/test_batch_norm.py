"""Which batch norms become part of a convolution, and which must not."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from model_helpers import randomize_constants
from torch import Tensor, nn

from pair_detr.inference.batch_norm import fold_batch_norms, is_batch_norm


class Tangle(Backbone):
    """Convolutions and norms in every relation; only the first two norms can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.norm2 = FrozenBatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 4, 1)
        self.after_sum = nn.BatchNorm2d(4)
        self.conv4 = nn.Conv2d(4, 4, 1)
        self.after_relu = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.after_twice = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm1(self.conv1(x))
        x = self.norm2(self.conv2(x)).relu_()
        x = self.after_sum(self.conv3(x) + x)
        x = self.after_relu(self.conv4(x).relu_())
        return {"last": self.after_twice(self.twice(self.twice(x)))}


class Kept(Backbone):
    """The output of the convolution is needed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {"last": x + self.norm(x)}


class Standardized(nn.Conv2d):
    """Weight standardization (arXiv 1903.10520): a scale of the weights has no effect."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class OfConv(Kept):
    """One convolution, one norm."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"last": self.norm(self.conv(x))}


def random(backbone: Backbone) -> Backbone:
    torch.manual_seed(0)
    for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]:
        if "norm" in name or "after" in name:
            tensor.data = 0.5 + torch.rand_like(tensor.float())
    return backbone.eval()


def left(backbone: Backbone) -> list[str]:
    return [name for name, module in backbone.named_modules() if is_batch_norm(module)]


def test_only_what_directly_follows_a_convolution_is_folded() -> None:
    backbone = random(Tangle())
    folded = fold_batch_norms(backbone, channels=3)
    assert left(folded) == ["after_sum", "after_relu", "after_twice"]
    assert len(left(backbone)) == 5
    image = torch.randn(2, 3, 20, 30)
    torch.testing.assert_close(folded(image)["last"], backbone(image)["last"], atol=1e-4, rtol=1e-4)
    # By hand: what comes out is scaled and shifted, channel by channel.
    norm, conv = backbone.norm1, backbone.conv1
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(folded.conv1.weight, conv.weight * scale[:, None, None, None])
    torch.testing.assert_close(folded.conv1.bias, norm.bias - norm.running_mean * scale)


@pytest.mark.parametrize("backbone", [Kept(), OfConv(Standardized(3, 4, 3))], ids=["kept", "standardized"])
def test_features_that_would_change_keep_their_norms(backbone: Backbone) -> None:
    random(backbone)
    assert fold_batch_norms(backbone, channels=3) is backbone
    assert left(backbone) == ["norm"]


def test_gray_images_and_half_precision() -> None:
    backbone = random(OfConv(nn.Conv2d(1, 4, 3)))
    assert left(fold_batch_norms(backbone, channels=1)) == []
    assert left(fold_batch_norms(backbone.half(), channels=1)) == []


def test_random_numbers_of_the_process_stay() -> None:
    backbone = random(Tangle())
    randomize_constants(backbone)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fold_batch_norms(backbone, channels=3)
    assert torch.equal(torch.rand(1), expected)


def test_backbones_of_one_size_stay() -> None:
    class Fixed(OfConv):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            if x.shape[-1] != 224:
                raise ValueError("images must have 224 pixels")
            return super().forward(x)

    backbone = random(Fixed(nn.Conv2d(3, 4, 3)))
    assert fold_batch_norms(backbone, channels=3) is backbone
