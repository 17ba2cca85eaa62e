"""The README.md of a model that others are to use: data, recipe, results and limits, as far as they are known."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from pair_detr.checkpoint.export import Exported
from pair_detr.config.variants import VARIANTS
from pair_detr.utils.messages import counted, join_some

_UNKNOWN = "not known"
_LISTED_CLASSES = 100


def write_card(
    exported: Exported,
    name: str,
    cfg: CfgNode | None = None,
    metadata: Mapping[str, Any] | None = None,
    results: Mapping[str, float] | None = None,
) -> str:
    """A model card in Markdown, with the header that hubs of models read.

    Args:
        exported: the weights, and what transformers reads next to them.
        name: of the model.
        cfg: of its training, if it is known.
        metadata: of its checkpoint: "training" and "iteration", as far as they are known.
        results: of the checkpoint's evaluation, in percent, by names such as "bbox/AP"; None if they are not known.
    """
    config = exported.files["config.json"]
    title = VARIANTS[exported.variant].published_name
    has_masks = config["architectures"][0].endswith("Segmentation")
    task = "image-segmentation" if has_masks else "object-detection"
    classes = [label for label in config["id2label"].values() if label != "N/A"]
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        f"tags: [{task}, {exported.variant}, detectron2, pair_detr]",
        "---",
        "",
        f"# {name}",
        "",
        f"{title} for {counted(len(classes), 'class', 'classes')}: {join_some(classes, _LISTED_CLASSES)}.",
        "",
        "```python",
        "from transformers import AutoImageProcessor, " + config["architectures"][0],
        "",
        'folder = "."  # or OWNER/NAME, where it is uploaded',
        "processor = AutoImageProcessor.from_pretrained(folder)",
        f"model = {config['architectures'][0]}.from_pretrained(folder)",
        "```",
        "",
        'With pair_detr: `Predictor("hub://OWNER/NAME")`, or the path of this folder.',
        "",
        "## Data",
        "",
        *_data(cfg, metadata or {}),
        "",
        "## Recipe",
        "",
        *_recipe(cfg, metadata or {}),
        "",
        "## Results",
        "",
        *_results(cfg, results),
        "",
        "## Limits",
        "",
        f"- It knows the {counted(len(classes), 'class', 'classes')} above, and takes no notice of anything else.",
        f"- It finds at most {config['num_queries']} objects in an image.",
        "- On images unlike those of its training, results may be far worse than those above, and were not measured.",
        "- No license is stated here: whoever publishes it adds that of the weights, which those of the data and of "
        "the weights that it started from may restrict.",
        "",
    ]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, Any]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]


def _data(cfg: CfgNode | None, metadata: Mapping[str, Any]) -> list[str]:
    count = metadata.get("training", {}).get("number of training images", _UNKNOWN)
    names = join_some(list(cfg.DATASETS.TRAIN)) if cfg is not None else _UNKNOWN
    return _table([("training sets", names or _UNKNOWN), ("training images", count)])


def _recipe(cfg: CfgNode | None, metadata: Mapping[str, Any]) -> list[str]:
    iteration = metadata.get("iteration")
    rows = [("iterations", _UNKNOWN if iteration is None else iteration + 1)]
    if cfg is not None:
        solver, start = cfg.SOLVER, cfg.MODEL.WEIGHTS
        rows += [
            ("trained as", VARIANTS[cfg.MODEL.DETR.VARIANT].__name__),
            # A path of somebody's machine tells others nothing.
            ("started from", (start if "://" in start else start.rpartition("/")[2]) or "random weights"),
            ("optimizer", f"{solver.OPTIMIZER}, learning rate {solver.BASE_LR:g}"),
            ("images per batch", solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS),
            ("shorter side in training", ", ".join(map(str, cfg.INPUT.MIN_SIZE_TRAIN))),
            ("seed", cfg.SEED if cfg.SEED >= 0 else "none"),
        ]
    return _table(rows)


def _results(cfg: CfgNode | None, results: Mapping[str, float] | None) -> list[str]:
    if not results:
        return ["Not known."]
    names = join_some(list(cfg.DATASETS.TEST)) if cfg is not None else ""
    where = f" on {names}" if names else ""
    return [
        f"In percent{where}, by COCO's definition:",
        "",
        *_table([(key, f"{value:.1f}") for key, value in results.items()]),
    ]
