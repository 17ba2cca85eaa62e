"""Weights of one model as the start of another: what fits is taken, a few things are adapted, all else is an error."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate
from torch import Tensor

from pair_detr.checkpoint.formats.native import PREFIX
from pair_detr.modeling import Detector
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.messages import counted, join_some

# Parts without which any detector may start: they depend on the data, or are trained after it, or are new to it.
_OPTIONAL = frozenset({"class_head", "mask_head", "decoder.box_bias", "decoder.text_attention"})
# Parts with a row for each class, or one for each number of a text.
_OF_CLASSES = ("class_head", *(f"query_builder.{name}" for name in ("dense_head", "denoising", "text_conditioning")))
# What to set for a part to fit.
_CONFIG = {
    "backbone": "MODEL.BACKBONE.NAME, MODEL.RESNETS.DEPTH, INPUT.FORMAT",
    "input_proj": "MODEL.DETR.HIDDEN_DIM, MODEL.BACKBONE.NAME",
    "encoder": "MODEL.DETR.ENC_LAYERS, MODEL.DETR.HIDDEN_DIM, MODEL.DETR.FFN_DIM",
    "mask_head": "MODEL.BACKBONE.NAME, MODEL.DETR.HIDDEN_DIM, MODEL.DETR.NUM_HEADS",
    "decoder": "MODEL.DETR.VARIANT, MODEL.DETR.DEC_LAYERS, MODEL.DETR.HIDDEN_DIM, MODEL.DETR.FFN_DIM",
}

_CLASSIFIERS = ("class_head", "query_builder.dense_head.class_head")
_ROWS_OF_CLASSES = {f"{PREFIX}{head}.{name}" for head in _CLASSIFIERS for name in ("weight", "bias")}
_ALL_BY_NAME = "rows of the classes of the same name taken"
_BY_POSITION = "taken by position, as no class has the same name"


class MisfitError(ValueError):
    """The weights are of a model that this one cannot start from."""


@dataclass
class WarmStart:
    """The outcome of :func:`adapt_state_dict`.

    Attributes:
        state: what to load; keys of the model that are missing keep their values.
        uninitialized: keys of the model whose values are not, or not wholly, those of the same key.
        rows: all that was not taken as it is: key, shape in the weights, shape in the model, what was done.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    uninitialized: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def table(self) -> str:
        """The rows, in Markdown."""
        return tabulate(self.rows, ["key", "weights", "model", ""], tablefmt="github", disable_numparse=True)


def adapt_state_dict(
    weights: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    weights_classes: Sequence[str] | None = None,
    model_classes: Sequence[str] | None = None,
    *,
    detector: type = Detector,
    renewed: Collection[str] = (),
) -> WarmStart:
    """Fits the weights of a detector, or of a backbone alone, to a model that may differ from theirs.

    - Classes: the rows of classes of the same name, up to case, underscores and hyphens, are taken. Where the names
      are not known, or none is common, the classifier is taken if it has as many rows, else it keeps its random start.
    - Queries: the first ones are taken; what the model has beyond them keeps its random start.
    - Pair DETR from Conditional DETR: the top-left decoder starts as the decoder, its head from the box head.
    - Models with masks from those without: the mask head keeps its random start; and so does what selects queries,
      trains more of them, or biases attention.
    - The reverse of these, and a backbone alone: what the model does not have, or the weights do not have, is left
      out.

    Args:
        weights: state dict, as ``model``.
        weights_classes: names of the classes of the weights, if known, as ``model_classes``.
        detector: class of the model's; it and those that it inherits from know which parts are their own, and what
            these may start as.
        renewed: parts of the model that mean something else than those of the weights, and keep their start.

    Raises:
        MisfitError: any other difference; the message names the keys and the config entries to look at.
    """
    result = WarmStart()
    optional = _OPTIONAL | extra_parts_of(detector)
    aliases: dict[str, str] = {}
    for cls in reversed(detector.__mro__):
        aliases |= vars(cls).get("warm_start_aliases", {})
    parts_of_weights = {_part(key) for key in weights}
    parts_of_model = {_part(key) for key in model}
    only_backbone = parts_of_weights == {"backbone"}
    copied: dict[str, list[str]] = defaultdict(list)
    misfits: dict[str, list[str]] = defaultdict(list)
    for key, target in model.items():
        part = _part(key)
        if part in renewed:
            result.uninitialized.append(key)
            copied[f"{part}: new start"].append(key)
            continue
        source = _source(key, parts_of_weights, aliases)
        if part not in parts_of_weights and source == key:
            if not only_backbone and optional.isdisjoint((part, part.partition(".")[0])):
                misfits[part].append(f"{key} is missing")
            else:
                result.uninitialized.append(key)
                copied[f"{part}: random start"].append(key)
            continue
        if source not in weights:
            if part in _OF_CLASSES:
                result.uninitialized.append(key)
                result.rows.append((key, "-", _shape(target), "random start"))
            else:
                misfits[part].append(f"{key} is missing")
            continue
        tensor, action = _fit(key, weights[source], target, weights_classes, model_classes)
        if tensor is None and part not in _OF_CLASSES:
            misfits[part].append(f"{key} is {_shape(weights[source])}, not {_shape(target)}")
            continue
        if tensor is not None:
            result.state[key] = tensor
        if source != key or action not in ("", _ALL_BY_NAME):
            result.uninitialized.append(key)
        if action:
            what = action if source == key else f"{action}, from {source}"
            result.rows.append((key, _shape(weights[source]), _shape(target), what))
        elif source != key:
            copied[f"{part}: started as {_part(source)}"].append(key)
    for key in weights.keys() - model.keys():
        part = _part(key)
        if part not in parts_of_model or part in _OF_CLASSES:
            copied[f"{part}: left out"].append(key)
        else:
            misfits[part].append(f"{key} is left over")
    if misfits:
        raise MisfitError(_explain(misfits))
    for what, keys in sorted(copied.items()):
        part, _, action = what.partition(": ")
        result.rows.append(
            (f"{PREFIX}{part}.*" if len(keys) > 1 else keys[0], "", "", f"{action} ({counted(len(keys), 'key')})")
        )
    return result


def extra_parts_of(detector: type) -> frozenset[str]:
    """The parts that a detector, and those that it inherits from, have in addition to those of the published model."""
    return frozenset().union(*(vars(cls).get("extra_parts", ()) for cls in detector.__mro__))


def _part(key: str) -> str:
    first, *others = key.removeprefix(PREFIX).split(".")
    # The config chooses these one by one.
    if "text_attention" in others:
        return f"{first}.text_attention"
    return f"{first}.{others[0]}" if first == "query_builder" or others[:1] == ["box_bias"] else first


def _source(key: str, parts: set[str], aliases: Mapping[str, str]) -> str:
    """The key of the weights that a key of the model starts from."""
    # Of decoders, also the parts that are not in all of them.
    part, name = _part(key), key.removeprefix(PREFIX).partition(".")[0]
    alias = aliases.get(name)
    if part in parts or alias is None or part.replace(name, alias, 1) not in parts:
        return key
    return key.replace(f"{PREFIX}{name}.", f"{PREFIX}{alias}.", 1)


def _fit(
    key: str,
    tensor: Tensor,
    target: Tensor,
    weights_classes: Sequence[str] | None,
    model_classes: Sequence[str] | None,
) -> tuple[Tensor | None, str]:
    """What to load into ``target``, None for nothing; and what was done to it, "" for nothing."""
    part = _part(key)
    differ = weights_classes and model_classes and list(weights_classes) != list(model_classes)
    # Other kinds of classifiers have no rows of classes.
    if differ and key in _ROWS_OF_CLASSES and tensor.dim() and target.dim():
        return _rows_by_name(tensor, target, weights_classes, model_classes)
    if tensor.shape == target.shape:
        return tensor, ""
    if tensor.shape[1:] != target.shape[1:]:
        return None, "random start"
    if part in ("query_embed", "query_builder.more_queries"):
        taken = min(len(tensor), len(target))
        fitted = target.clone()
        fitted[:taken] = tensor[:taken]
        return fitted, f"first {taken} taken" + (", random start of the others" if taken < len(target) else "")
    if part.endswith("_head") and (tensor.shape[:1], target.shape[:1]) == ((4,), (2,)):
        # The offsets of x and y to the reference point.
        return tensor[:2], "first 2 taken"
    return None, "random start"


def _rows_by_name(
    tensor: Tensor, target: Tensor, weights_classes: Sequence[str], model_classes: Sequence[str]
) -> tuple[Tensor | None, str]:
    # A row after those of the classes stands for no object.
    extra = len(target) - len(model_classes)
    if tensor.shape[1:] != target.shape[1:] or len(tensor) - len(weights_classes) != extra or extra not in (0, 1):
        return None, "random start"
    if all(len(set(map(normalize_name, names))) == len(names) for names in (weights_classes, model_classes)):
        weights_classes, model_classes = (list(map(normalize_name, x)) for x in (weights_classes, model_classes))
    index = {key: row for row, key in enumerate(_numbered(weights_classes))}
    pairs = [(row, index[key]) for row, key in enumerate(_numbered(model_classes)) if key in index]
    common = len(pairs)
    if common == 0 and tensor.shape == target.shape:
        return tensor, _BY_POSITION
    if extra:
        pairs.append((len(target) - 1, len(tensor) - 1))
    fitted = target.clone()
    if pairs:
        rows, sources = zip(*pairs, strict=True)
        fitted[list(rows)] = tensor[list(sources)]
    if common == len(model_classes):
        return fitted, _ALL_BY_NAME
    return fitted, f"rows of {common} classes of the same name taken, random start of the others"


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with the number of times that it occurred before: names may repeat."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def require_agreement(model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Checks that weights give a single value to parameters that a model uses under several names.

    Those are told by their memory: ``model`` is the state dict of the model itself, not a copy.

    Raises:
        MisfitError: two values would be written to one parameter, of which one would be lost.
    """
    names: dict[int, str] = {}
    for key, target in model.items():
        # Tensors without elements have no memory to share.
        first = names.setdefault(target.data_ptr(), key) if target.numel() else key
        if first != key and first in weights and key in weights and not _are_same(weights[first], weights[key]):
            raise MisfitError(
                f"The model shares {first} and {key}, which differ in the weights. They are of a model with a decoder "
                "each: set MODEL.DETR.PAIR.SHARED_DECODER False."
            )


def _are_same(a: Tensor, b: Tensor) -> bool:
    # NaN does not equal itself.
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"


def _explain(misfits: Mapping[str, Sequence[str]]) -> str:
    lines = [
        f"{part}: {join_some(found, 3)} (see {_CONFIG.get(part, 'MODEL.DETR.VARIANT, MODEL.DETR.HIDDEN_DIM')})"
        for part, found in misfits.items()
    ]
    return "\n".join(["The weights are of another model:", *lines, "Use the config that they were trained with."])
