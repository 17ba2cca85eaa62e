"""Converts weights of other code bases, and back: ``python -m pair_detr.tools.convert_weights``."""

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from pair_detr.checkpoint import (
    AUTHOR,
    METADATA,
    PREFIX,
    SOURCES,
    Checkpoint,
    ConversionError,
    Exported,
    config_mismatches,
    convert,
    describe,
    export_official,
    export_transformers,
    is_native,
    read_checkpoint,
    required_config,
)
from pair_detr.checkpoint.exportable import unsupported_settings, unsupported_tensors
from pair_detr.checkpoint.model_card import write_card
from pair_detr.checkpoint.self_description import CONFIG_TEXT
from pair_detr.checkpoint.weights import fetch_weights
from pair_detr.config.ranges import ARCHITECTURE
from pair_detr.config.validation import check_values
from pair_detr.config_files import load_config, parse_config
from pair_detr.tools.common import parse, run, tool_logger, tool_parser
from pair_detr.utils.atomic import atomic_replace
from pair_detr.utils.finiteness import describe_non_finite
from pair_detr.utils.messages import join_some
from pair_detr.utils.outputs import require_writable
from pair_detr.utils.text_files import read_text

logger = tool_logger("convert_weights")

# What a model of transformers consists of; a folder with anything else is not replaced.
_FOLDER_FILES = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}


def convert_file(
    checkpoint: Checkpoint, input_path: Path, source: str, num_classes: int | None, keep_91: bool, cfg: CfgNode | None
) -> dict[str, Any]:
    """The checkpoint for Detectron2 that foreign weights, or those of this package in another entry, become.

    Args:
        cfg: a config that the weights have to fit; its DC5 and its number of heads become part of the metadata.

    Raises:
        ConversionError: see :func:`pair_detr.checkpoint.convert`, or the weights do not fit ``cfg``; or they are this
            package's, where it looks for them.
    """
    if is_native(checkpoint.state):
        if checkpoint.is_plain:
            raise ConversionError(
                f"{input_path} holds this package's weights already. Use them as they are, or --reverse."
            )
        metadata = checkpoint.hints.get("metadata", {})
        logger.info("%s: this package's weights, %s.", input_path, checkpoint.describe())
        return {"model": checkpoint.state, "__author__": AUTHOR, METADATA: metadata}
    converted = convert(checkpoint, source=source, num_classes=num_classes, keep_91=keep_91)
    if cfg is not None:
        config = converted.metadata["config"]
        if found := config_mismatches(config, cfg):
            raise ConversionError(
                f"{input_path} ({converted.metadata['layout']}) does not fit --config-file:\n" + "\n".join(found)
            )
        config["MODEL.RESNETS.RES5_DILATION"] = cfg.MODEL.RESNETS.RES5_DILATION
        config["MODEL.DETR.NUM_HEADS"] = cfg.MODEL.DETR.NUM_HEADS
    logger.info("%s", describe(str(input_path), converted))
    return converted.checkpoint()


def reverse(
    checkpoint: Checkpoint,
    target: str,
    cfg: CfgNode | None,
    class_names: list[str] | None,
    keep_classes: bool,
) -> Exported:
    """Weights of this package for ``target``, "official" or "transformers".

    Args:
        cfg: the config of the model, or the one that the file holds; None takes what else is in its metadata.

    Raises:
        ConversionError: the other code base cannot have such a model, or not enough is known of it.
    """
    metadata = checkpoint.hints.get("metadata", {})
    known = metadata.get("config", {})
    if cfg is not None:
        known = required_config(cfg)
    known = known | _image_settings(cfg)
    own = {key.removeprefix(PREFIX): tensor.shape for key, tensor in checkpoint.state.items()}
    if parts := [*unsupported_tensors(own), *unsupported_settings(known, target)]:
        raise ConversionError(f"{target} cannot hold the model: {'; '.join(parts)}.")
    class_names = class_names or metadata.get("class_names")
    options: dict[str, Any] = {"class_names": class_names, "keep_classes": keep_classes}
    if target == "official":
        return export_official(checkpoint.state, **options)
    if lacking := [key for key in ("MODEL.DETR.NUM_HEADS", "MODEL.RESNETS.RES5_DILATION") if key not in known]:
        raise ConversionError(
            f"The file does not tell {' and '.join(lacking)}. Give the config of the model by --config-file."
        )
    num_heads, dilation = known["MODEL.DETR.NUM_HEADS"], known["MODEL.RESNETS.RES5_DILATION"] > 1
    return export_transformers(checkpoint.state, num_heads=num_heads, dilation=dilation, images=known, **options)


def _image_settings(cfg: CfgNode | None) -> dict[str, Any]:
    """Config entries of the images to test with; none without a config."""
    keys = ("FIXED_SIZE", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
    return {} if cfg is None else {f"INPUT.{key}": cfg.INPUT[key] for key in keys}


def own_config(checkpoint: Checkpoint, path: Path) -> CfgNode | None:
    """The config that a checkpoint of this package holds; None if it holds none."""
    text = checkpoint.hints.get("metadata", {}).get(CONFIG_TEXT)
    return parse_config(text, f"The config in {path}") if isinstance(text, str) else None


def read_results(metadata: Mapping[str, Any], folder: Path) -> dict[str, float] | None:
    """AP of a checkpoint, in percent, from the metrics.json of its training next to it; None if it has none."""
    file, iteration = folder / "metrics.json", metadata.get("iteration")
    if not file.is_file() or iteration is None:
        return None
    # The one after the last iteration has the number of the next.
    for line in reversed(read_text(file).splitlines()):
        row = json.loads(line)
        if "bbox/AP" in row and row.get("iteration") in (iteration, iteration + 1):
            kept = {key: row[key] for key in row if re.fullmatch(r"(bbox|segm)/AP(50|75)?", key)}
            return {key: value for key, value in kept.items() if value is not None and math.isfinite(value)}
    return None


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses to replace what is not to be replaced.

    Raises:
        FileExistsError: there is something, and ``overwrite`` is false or it is a folder with other files.
    """
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists. Choose another path, or replace it with --overwrite.")
    if output.is_dir() and (others := {path.name for path in output.iterdir()} - _FOLDER_FILES):
        raise FileExistsError(f"{output} is a folder with {join_some(sorted(others), 3)} in it. Choose another path.")


def _fill_folder(exported: Exported, folder: Path, card: str) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    # Without it transformers does not read the file.
    save_file(exported.state, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in exported.files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = _parse(arguments)
    check_output(args.output, args.overwrite)
    if args.output.resolve() == args.input.resolve():
        raise FileExistsError(f"{args.output} is the input. Choose another path for the output.")
    require_writable(args.output.parent, "OUTPUT")
    cfg = load_config(args.config_file) if args.config_file else None
    if cfg is not None:
        check_values(cfg, *ARCHITECTURE)
    checkpoint = read_checkpoint(args.input, args.allow_pickle, args.entry)
    if fault := describe_non_finite(checkpoint.state):
        raise ConversionError(f"{args.input} is not converted: {fault}. Take an earlier checkpoint, or other weights.")
    if args.reverse is None:
        content = convert_file(checkpoint, args.input, args.source, args.num_classes, args.keep_91, cfg)
        with atomic_replace(args.output) as path:
            torch.save(content, path)
        logger.info("Wrote %s.", args.output)
        return
    class_names = None
    if args.class_names:
        class_names = [line.strip() for line in read_text(args.class_names).splitlines() if line.strip()]
    cfg = cfg or own_config(checkpoint, args.input)
    exported = reverse(checkpoint, args.reverse, cfg, class_names, args.keep_classes)
    with atomic_replace(args.output) as path:
        if args.reverse == "official":
            torch.save({"model": exported.state}, path)
        else:
            metadata = checkpoint.hints.get("metadata", {})
            results = read_results(metadata, args.input.parent)
            _fill_folder(exported, path, write_card(exported, args.output.name, cfg, metadata, results))
    logger.info(
        "Wrote %s: %s for %d classes, %d tensors.",
        args.output,
        exported.variant,
        exported.num_classes,
        len(exported.state),
    )
    if args.reverse == "transformers":
        logger.info("Complete its README.md. To publish it: hf upload OWNER/NAME %s", args.output)


def _local_path(weights: str) -> Path:
    return Path(fetch_weights(weights) if "://" in weights else weights)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(
        "Converts weights of other code bases into checkpoints for Detectron2 and this package, and back.",
        "convert_weights detr-r50.pth detr_r50.pth",
        "convert_weights --reverse transformers output/model_final.pth my-detector",
    )
    parser.add_argument(
        "input",
        type=_local_path,
        metavar="INPUT",
        help="file of weights, folder of transformers, or name (hub://, zoo://)",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="file to write; a folder for transformers")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument(
        "--source", default="auto", choices=("auto", *SOURCES), help="code base of INPUT; auto recognizes it"
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="fail unless OUTPUT is for N classes")
    parser.add_argument(
        "--keep-91", action="store_true", help="keep classifiers over COCO's 91 raw ids (panoptic: 250)"
    )
    parser.add_argument("--entry", default="", help="entry of INPUT with the weights, if there are several")
    parser.add_argument("--allow-pickle", action="store_true", help="also read objects; only from whom you trust")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config of the model: must fit, and tells what tensors do not (heads, DC5)",
    )
    parser.add_argument(
        "--reverse", choices=("official", "transformers"), help="convert this package's weights for that code base"
    )
    parser.add_argument(
        "--keep-classes",
        action="store_true",
        help="with --reverse, do not spread COCO's 80 (133) classes over 91 (250) raw ids",
    )
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="with --reverse, names of the classes, one a line"
    )
    return parse(parser, arguments)


if __name__ == "__main__":
    run(main)
