"""Any timm model that can emit feature maps, with weights from a file or from the hub."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torch.nn import functional as F

from pair_detr.tensor_files import TensorFileError, read_tensor_file
from pair_detr.utils.finiteness import describe_non_finite

# The channels that timm takes images to have.
_RGB = 3
# Arguments of timm that make it read files of its own choice.
_SOURCES = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
# Where files keep weights: timm prefers averages of them.
_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")


class TimmBackbone(Backbone):
    """Feature maps of a timm model, named "stage0", "stage1", ... by timm's index of the stage."""

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int],
        weights: str = "",
        frozen_norm: bool = False,
        freeze_at: int = 0,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            name: of the model in timm.
            out_indices: the last of them is the last stage to emit, after all stages before it; negative ones count
                from the last of the model.
            weights: file with a state dict of the whole timm model, or an address of one that Detectron2's PathManager
                knows, read without running code that it may hold; "" starts from random weights.
            frozen_norm: fix the statistics and the affine parameters of all batch norms.
            freeze_at: number of stages, from the image on, whose parameters are fixed.
            kwargs: further arguments of ``timm.create_model``, but for those that name weights.

        Raises:
            ValueError: timm does not know the model or its arguments, the model has no such stage or stages that cannot
                be frozen, or the weights cannot be read or are another model's.
            FileNotFoundError: the weights do not exist, or cannot be reached.
        """
        super().__init__()
        # Imported here: the other backbones work without timm.
        import timm
        from timm.layers import PatchEmbed
        from timm.utils.model import freeze_batch_norm_2d

        if name.split(".")[0] not in timm.list_models():
            raise ValueError(
                f"MODEL.TIMM.NAME is {name!r}, which timm does not know. timm.list_models() lists the names."
            )
        file = _fetch(weights) if weights else Path()
        if named := [key for key in _SOURCES if key in (kwargs or {})]:
            raise ValueError(
                f"MODEL.TIMM.KWARGS must not hold {named[0]}: weights are read from MODEL.TIMM.WEIGHTS alone, a local "
                "file. Remove it, and set that."
            )
        arguments = {"features_only": True, **(kwargs or {})}
        try:
            info = timm.create_model(name, **arguments).feature_info
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"MODEL.TIMM.KWARGS {kwargs or {}} do not suit MODEL.TIMM.NAME {name}: {error!r}. Correct or remove "
                "them, or choose a model that timm builds with features_only=True."
            ) from error
        # Not the length of channels(): of some models, timm emits only the last stages unless told otherwise.
        num_stages = len(info.info)
        if not out_indices or any(not -num_stages <= i < num_stages for i in out_indices):
            raise ValueError(
                f"MODEL.TIMM.OUT_INDICES is {list(out_indices)}, but {name} has stages 0 to {num_stages - 1}."
            )
        self._name = name
        self.indices = range(max(i % num_stages for i in out_indices) + 1)
        arguments["out_indices"] = tuple(self.indices)
        # timm gets tensors, and reads no file: before 1.0.26 it would unpickle whatever one holds.
        state = _read_state(file, weights) if weights else {}
        if weights:
            arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
        try:
            with _without_word_of_heads():
                self.model = timm.create_model(name, **arguments)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"MODEL.TIMM.WEIGHTS: {weights} does not fit MODEL.TIMM.NAME {name}: {error}") from error
        if weights:
            self._require_keys_of(weights, state)
            self._forget_state()
            if fault := describe_non_finite(self.model.state_dict()):
                raise ValueError(f"MODEL.TIMM.WEIGHTS: {weights} cannot be used: {fault}. Take other weights.")
        self._drop_later_stages()
        self._spec = {f"stage{i}": ShapeSpec(channels=info.channels(i), stride=info.reduction(i)) for i in self.indices}
        # Swin and others emit (B, H, W, C).
        self._channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        patches = [module.patch_size for module in self.model.modules() if isinstance(module, PatchEmbed)]
        self._patch_size = patches[0] if patches else (1, 1)
        self._stride = max(spec.stride for spec in self._spec.values())
        if frozen_norm:
            self.model = freeze_batch_norm_2d(self.model)
        self._freeze(freeze_at, freeze_batch_norm_2d)

    def _require_keys_of(self, weights: str, state: Mapping[str, Tensor]) -> None:
        """timm only logs keys that do not match: a file of another model would leave the backbone random."""
        # Some of timm's wrappers write "_" for "."; that of a ViT has the model inside.
        keys = {key.replace("_", ".") for key in state}
        names = (name.removeprefix("model.") for name, _ in self.model.named_parameters())
        if not any(name.replace("_", ".") in keys for name in names):
            raise ValueError(
                f"MODEL.TIMM.WEIGHTS: {weights} has none of the backbone's parameters. Give a state dict of the "
                "timm model that MODEL.TIMM.NAME names."
            )

    def _forget_state(self) -> None:
        """timm keeps what it was configured with, here the weights, as long as the model lives."""
        for module in self.model.modules():
            for name in ("pretrained_cfg", "default_cfg"):
                config = getattr(module, name, None)
                if isinstance(config, dict):
                    config.pop("state_dict", None)

    def _drop_later_stages(self) -> None:
        """Most timm models end with the last stage wanted, but EfficientNets keep parameters that no loss reaches."""
        container, _, index = self.model.feature_info.get_dicts()[self.indices[-1]]["module"].rpartition(".")
        stages = getattr(self.model, container, None)
        if isinstance(stages, nn.Sequential):
            del stages[int(index) + 1 :]

    def _freeze(self, freeze_at: int, freeze_norm: Callable[[nn.Module], nn.Module]) -> None:
        if not 0 <= freeze_at <= self.indices[-1] + 1:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but the backbone has {self.indices[-1] + 1} stages."
            )
        if freeze_at == 0:
            return
        # timm names the module that ends a stage; some of its wrappers write "_" for ".".
        end = self.model.feature_info.get_dicts()[freeze_at - 1]["module"].replace("_", ".")
        modules = list(self.model.named_modules())
        inside = [i for i, (name, _) in enumerate(modules) if f"{name.replace('_', '.')}.".startswith(f"{end}.")]
        if not inside:
            raise ValueError(
                "MODEL.BACKBONE.FREEZE_AT: the stages of this timm model cannot be told apart. Set it to 0."
            )
        for name, module in modules[: inside[-1] + 1]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = False
            if isinstance(module, nn.BatchNorm2d):
                self.model.set_submodule(name, freeze_norm(module))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> feature maps by name, (B, channels, H / stride, W / stride), finest first.

        Raises:
            ValueError: the model is made for images of another size.
        """
        height, width = image.shape[-2:]
        # timm refuses incomplete patches, which convolutions would pad; and several models fail on images that are
        # thinner than their stride.
        below, beside = (
            max(-side % patch, self._stride - side)
            for side, patch in zip((height, width), self._patch_size, strict=True)
        )
        if below or beside:
            image = F.pad(image, (0, beside, 0, below))
        try:
            features = self.model(image)
        except AssertionError as error:
            raise ValueError(
                f"MODEL.TIMM.NAME {self._name} does not take images of {height} x {width} pixels ({error}). For images "
                "of any size set MODEL.TIMM.KWARGS {dynamic_img_size: True}, if this model knows it; else "
                "{img_size: [height, width]}, with INPUT.MIN_SIZE_* and MAX_SIZE_* for images of that one size."
            ) from error
        return {
            f"stage{i}": features[i].permute(0, 3, 1, 2) if self._channels_last else features[i] for i in self.indices
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the feature maps."""
        return self._spec


@contextmanager
def _without_word_of_heads() -> Iterator[None]:
    """Keeps timm from warning that weights have a classifier, which a backbone has no use for."""
    logger = logging.getLogger("timm.models._builder")

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Unexpected keys")

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _fetch(weights: str) -> Path:
    try:
        file = Path(PathManager.get_local_path(weights))
    except Exception as error:  # each of the handlers of PathManager has exceptions of its own
        raise FileNotFoundError(
            f"MODEL.TIMM.WEIGHTS: {weights} cannot be fetched ({error}). Download the file on a machine with internet "
            "access and give its path here, or '' for random weights."
        ) from error
    if not file.is_file():
        raise FileNotFoundError(
            f"MODEL.TIMM.WEIGHTS: {weights} does not exist. Give a file, hub://OWNER/NAME/FILE.safetensors, or '' for "
            "random weights; the first lines of a config of this package say where its weights come from."
        )
    return file


def _read_state(file: Path, weights: str) -> dict[str, Tensor]:
    from timm.models import clean_state_dict

    try:
        content = read_tensor_file(file, remedy="Give the model's state dict alone.")
    except TensorFileError as error:
        raise ValueError(f"MODEL.TIMM.WEIGHTS: {error}") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _ENTRIES if isinstance(content.get(key), Mapping)), content)
        state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
        # Without any, timm would download some.
        if state:
            return clean_state_dict(state)
    raise ValueError(f"MODEL.TIMM.WEIGHTS: {weights} holds no state dict: save model.state_dict().")


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Builds the backbone that MODEL.TIMM describes; errors as of :class:`TimmBackbone`."""
    options = cfg.MODEL.TIMM
    if options.NORM not in ("FrozenBN", "BN"):
        raise ValueError(f"MODEL.TIMM.NORM is {options.NORM!r}; choose FrozenBN or BN.")
    kwargs = dict(options.KWARGS)
    if input_shape.channels != _RGB:
        kwargs.setdefault("in_chans", input_shape.channels)
    return TimmBackbone(
        options.NAME,
        options.OUT_INDICES,
        weights=options.WEIGHTS,
        frozen_norm=options.NORM == "FrozenBN",
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        kwargs=kwargs,
    )
