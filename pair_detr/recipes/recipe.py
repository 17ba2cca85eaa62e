"""A recipe: a config for a training on own data, and the reasons of what is in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from pair_detr.config.validation import flatten
from pair_detr.config_files import load_config
from pair_detr.recipes.choices import Choice, Request, choose
from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware
from pair_detr.recipes.starting_point import find_start
from pair_detr.utils.messages import counted


@dataclass(frozen=True)
class Recipe:
    """A config, and why it is as it is.

    Attributes:
        cfg: of the training, all but its data and its output folder.
        choices: the entries that were chosen.
        summary: of data and machine, in a line.
    """

    cfg: CfgNode
    choices: tuple[Choice, ...]
    summary: str

    def describe(self) -> str:
        """The summary, and a line for each choice with its reason."""
        lines = [f"{choice.key} {choice.value}: {choice.reason}" for choice in self.choices]
        return "\n".join([self.summary, *(f"  {line}" for line in lines)])


def choose_recipe(data: DataSummary, machine: Hardware, request: Request, options: Sequence[str] = ()) -> Recipe:
    """A config for a training.

    Args:
        data: to train on.
        machine: to train on.
        request: what is not to be chosen.
        options: keys and values in turn, which count more than what is chosen.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: as :func:`pair_detr.recipes.starting_point.find_start`.
    """
    start = find_start(request.weights, data, machine)
    entries = flatten(load_config("", options))
    given = {key: entries[key] for key in options[::2]}
    chosen = choose(data, machine, start, request, given)
    cfg = start.cfg
    cfg.merge_from_list([part for choice in chosen for part in (choice.key, choice.value)])
    (weights, value), *needed = start.settings.items()
    choices = [Choice(weights, value or '""', start.reason)]
    choices += [Choice(key, value, "what these weights need") for key, value in needed]
    choices = [*(choice for choice in choices if choice.key not in given), *chosen]
    masks = ", and masks, which MODEL.MASK_ON True would learn" if data.have_masks and not cfg.MODEL.MASK_ON else ""
    classes = counted(data.classes, "class", "classes")
    summary = (
        f"{counted(data.images, 'image')} of {classes}, {data.objects:.1f} objects per image{masks}; {machine.name}:"
    )
    return Recipe(cfg, tuple(choices), summary)
