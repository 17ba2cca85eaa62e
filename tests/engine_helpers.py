"""A dataset and a model so small that training them takes milliseconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from PIL import Image

from pair_detr.config_files import load_config
from pair_detr.data import register_from_config

IMAGE_SIZE = 32
NUM_IMAGES = 8


def write_dataset(folder: Path, name: str) -> dict[str, str]:
    """Writes noise images with a box or two each; returns the entry for DATASETS.REGISTER."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(NUM_IMAGES):
        file_name = f"{image_id}.png"
        pixels = rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / file_name)
        images.append({"id": image_id, "file_name": file_name, "width": IMAGE_SIZE, "height": IMAGE_SIZE})
        for _ in range(1 + image_id % 2):
            x, y, w, h = (int(v) for v in rng.integers([0, 0, 6, 6], [16, 16, 16, 16]))
            box = {"bbox": [x, y, w, h], "area": w * h, "category_id": 1 + image_id % 2, "iscrowd": 0}
            annotations.append({"id": 1 + len(annotations), "image_id": image_id, **box})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    json_file = folder / "annotations.json"
    json_file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return {"NAME": name, "FORMAT": "coco", "JSON": str(json_file), "IMAGES": str(folder)}


def tiny_options(dataset: dict[str, str], output: Path, **changes: Any) -> list[str]:
    """Config options for the command line; ``changes`` are given as ``SOLVER__MAX_ITER=3``.

    One command line counts in iterations or in epochs: with ``SOLVER__EPOCHS__MAX`` there are none of the former.
    """
    options: dict[str, Any] = {
        "OUTPUT_DIR": str(output),
        "SEED": 1,
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": "build_convnet_backbone",
        "MODEL.CONVNET.CHANNELS": [4, 8],
        "MODEL.DETR.HIDDEN_DIM": 16,
        "MODEL.DETR.NUM_HEADS": 2,
        "MODEL.DETR.ENC_LAYERS": 1,
        "MODEL.DETR.DEC_LAYERS": 2,
        "MODEL.DETR.FFN_DIM": 16,
        "MODEL.DETR.NUM_QUERIES": 5,
        "MODEL.DETR.DROPOUT": 0.1,
        "DATASETS.REGISTER": [dataset],
        "DATASETS.TRAIN": (dataset["NAME"],),
        "DATASETS.TEST": (),
        "TEST.PICTURES": 0,
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (IMAGE_SIZE,),
        "INPUT.MAX_SIZE_TRAIN": IMAGE_SIZE,
        "INPUT.MIN_SIZE_TEST": IMAGE_SIZE,
        "INPUT.MAX_SIZE_TEST": IMAGE_SIZE,
        "INPUT.RESIZE_CROP.ENABLED": False,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.BASE_LR": 1e-3,
        "SOLVER.CHECKPOINT_PERIOD": 1000,
    }
    if not changes.get("SOLVER__EPOCHS__MAX"):
        options |= {"SOLVER.MAX_ITER": 6, "SOLVER.STEPS": ()}
    options |= {key.replace("__", "."): value for key, value in changes.items()}
    return [text for key, value in options.items() for text in (key, str(value))]


def default_config() -> CfgNode:
    return load_config("")


def tiny_config(dataset: dict[str, str], output: Path, **changes: Any) -> CfgNode:
    """The config of :func:`tiny_options`, with its dataset registered."""
    cfg = load_config("", tiny_options(dataset, output, **changes))
    register_from_config(cfg)
    return cfg
