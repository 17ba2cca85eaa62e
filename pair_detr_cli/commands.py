"""All subcommands of ``pair-detr``, in the order and in the groups that its help lists them in."""

from typing import NamedTuple

PROGRAM = "pair-detr"


class Command(NamedTuple):
    """A subcommand.

    Args:
        name: how it is called.
        module: whose ``main`` takes its arguments; imported when it is called.
        summary: a line for the list of all.
    """

    name: str
    module: str
    summary: str


_TOOLS = "pair_detr.tools."
GROUPS: dict[str, tuple[Command, ...]] = {
    "Models": (
        Command("train", _TOOLS + "train", "train a detector, on a folder or by a config"),
        Command("eval", _TOOLS + "evaluate", "evaluate weights on the datasets of a config"),
        Command("predict", _TOOLS + "demo", "detect objects in images, folders, videos and webcams"),
        Command("app", _TOOLS + "app", "try a model on a page in the browser"),
        Command("quickstart", _TOOLS + "quickstart", "train on generated shapes, on a CPU in minutes"),
    ),
    "Data": (
        Command("check", _TOOLS + "check_dataset", "count the classes of datasets, and list what is wrong"),
        Command("view", _TOOLS + "visualize_data", "draw datasets, as annotated or as augmented"),
        Command("make-shapes", _TOOLS + "make_shapes", "make the dataset of generated shapes"),
    ),
    "Deployment": (
        Command("export", _TOOLS + "export", "export a model to ONNX, OpenVINO or torch.export"),
        Command("eval-exported", _TOOLS + "evaluate_exported", "evaluate an exported model"),
        Command("convert", _TOOLS + "convert_weights", "convert weights from and to other code bases"),
        Command("benchmark", _TOOLS + "benchmark", "time inference and training"),
        Command("benchmark-masks", _TOOLS + "benchmark_masks", "measure the memory of the mask head"),
    ),
    "Analysis": (
        Command("report", _TOOLS + "report", "show what a detector gets right and wrong, in a page"),
        Command("plot", _TOOLS + "plot_training", "draw losses and AP of trainings"),
        Command("view-attention", _TOOLS + "visualize_attention", "draw what the attention looks at"),
        Command("explain-matching", _TOOLS + "explain_matching", "show which query is matched with which object"),
    ),
    "Open vocabulary": (
        Command("text-weights", _TOOLS + "text_weights", "make text weights from class names"),
        Command("withhold-boxes", _TOOLS + "withhold_boxes", "turn the boxes of some classes into image labels"),
        Command("make-ov-coco", _TOOLS + "make_ov_coco", "make the annotation files of OV-COCO"),
        Command("make-open-shapes", _TOOLS + "make_open_shapes", "make generated shapes with novel classes"),
    ),
    "Installation and development": (
        Command("doctor", "pair_detr_cli.doctor", "say what is installed, and how to get what is missing"),
        Command("install-detectron2", "pair_detr_cli.install_detectron2", "install Detectron2 where there is none"),
        Command("pretrain-shapes", _TOOLS + "pretrain_shapes", "pretrain the backbone of the quick start"),
        Command("config-reference", _TOOLS + "config_reference", "write the reference of all config keys"),
    ),
}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}
