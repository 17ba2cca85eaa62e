"""Exported models that are made by hand, in no time."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

from pair_detr.images.resizing import Resizing
from pair_detr.runtime import ModelDescription
from pair_detr.runtime.description import GRAPH_FILES, TEXTS_FILE

NAMES = ["square", "disk", "triangle"]
TEXTS = np.eye(3, 4, dtype=np.float32)


def write_model(folder: Path, texts: bool = False, **changes: Any) -> ModelDescription:
    """Writes a graph that finds two objects in each image.

    The first, of class 1 or, with texts, the one with the most in the second column, fills the left half of the image;
    its score is the mean of the red channel, over 255. The second has the label -1: it is none.
    """
    folder.mkdir(parents=True)
    description = ModelDescription(
        **{
            "format": "onnx",
            "precision": "fp32",
            "variant": "conditional_detr",
            "image_format": "RGB",
            "resizing": Resizing(20, 40),
            "class_names": NAMES,
            "category_ids": [3, 5, 9],
            "outputs": ["boxes", "scores", "labels"],
            "smallest_side": 8,
            "size_divisor": 1,
            "text_dim": 4 if texts else 0,
            "fixed_classes": not texts,
            "version": "0",
            **changes,
        }
    )
    description.write(folder)
    constants = {
        "swap": np.array([1, 0]),
        "one": np.array([1]),
        "half": np.array([0.5, 1], np.float32),
        "zero": np.array([0, 0], np.float32),
        "red": np.array([0]),
        "axes": np.array([1, 2, 3]),
        "bytes": np.array(255, np.float32),
        "no": np.array(-1),
        "first": np.array(1),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["sizes"], ["pixels"], to=TensorProto.FLOAT),
        node("Gather", ["pixels", "swap"], ["corner"], axis=1),
        node("Mul", ["corner", "half"], ["right"]),
        node("Mul", ["corner", "zero"], ["left"]),
        node("Concat", ["left", "right"], ["box"], axis=1),
        node("Unsqueeze", ["box", "one"], ["column"]),
        node("Concat", ["column", "column"], ["boxes"], axis=1),
        node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        node("Gather", ["floats", "red"], ["reds"], axis=1),
        node("ReduceSum", ["reds", "axes"], ["sums"], keepdims=0),
        node("ReduceProd", ["pixels"], ["areas"], axes=[1], keepdims=0),
        node("Div", ["sums", "areas"], ["means"]),
        node("Div", ["means", "bytes"], ["score"]),
        node("Unsqueeze", ["score", "one"], ["score_column"]),
        node("Concat", ["score_column", "score_column"], ["scores"], axis=1),
        node("Cast", ["score_column"], ["zeros"], to=TensorProto.INT64),
        node("Sub", ["zeros", "zeros"], ["nothing"]),
        node("Add", ["nothing", "label"], ["found"]),
        node("Add", ["nothing", "no"], ["absent"]),
        node("Concat", ["found", "absent"], ["labels"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, "height", "width"]),
        helper.make_tensor_value_info("sizes", TensorProto.INT64, ["batch", 2]),
    ]
    if texts:
        np.save(folder / TEXTS_FILE, TEXTS)
        inputs.append(helper.make_tensor_value_info("texts", TensorProto.FLOAT, ["classes", 4]))
        nodes = [
            node("Gather", ["texts", "first"], ["wanted"], axis=1),
            node("ArgMax", ["wanted"], ["label"], axis=0, keepdims=0),
            *nodes,
        ]
    else:
        constants["label"] = np.array(1)
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 2, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch", 2]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "by_hand", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, folder / GRAPH_FILES["onnx"])
    return description
