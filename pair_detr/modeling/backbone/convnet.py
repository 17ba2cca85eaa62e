"""A backbone that a CPU trains from scratch in minutes."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn


class ConvNet(Backbone):
    """Stages of two 3x3 convolutions with batch norm and ReLU; the first convolution of a stage has stride 2.

    It emits all stages, as "stage2", ... and "last"; like ResNets none finer than stride 4.
    """

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        """
        Args:
            in_channels: of the image.
            channels: of each stage.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for out_channels in channels:
            for stride in (2, 1):
                layers += [
                    nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(inplace=True),
                ]
                in_channels = out_channels
        self.layers = nn.Sequential(*layers)
        first = min(2, len(channels))
        names = [f"stage{i}" for i in range(first, len(channels))] + ["last"]
        self._spec = {name: ShapeSpec(channels=channels[i - 1], stride=2**i) for i, name in enumerate(names, first)}
        # The number of layers after which each feature map is complete.
        self._ends = {len(layers) // len(channels) * i: name for i, name in enumerate(names, first)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> feature maps by name, "last" the one of the last stage."""
        features = {}
        for i, layer in enumerate(self.layers, 1):
            image = layer(image)
            if i in self._ends:
                features[self._ends[i]] = image
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the feature maps."""
        return self._spec


@BACKBONE_REGISTRY.register()
def build_convnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ConvNet:
    """Builds the backbone that MODEL.CONVNET describes."""
    return ConvNet(input_shape.channels, cfg.MODEL.CONVNET.CHANNELS)
