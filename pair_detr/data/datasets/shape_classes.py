"""Classes that are composed of words - a shape, a color, a texture - and which of them are withheld from training."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("red", "green", "blue")
# Plain has no word in a class's name.
PLAIN = "plain"
STRIPED = "striped"
TEXTURES = (PLAIN, STRIPED)
WORDS = (*SHAPES, *COLORS, STRIPED)


@dataclass(frozen=True)
class ShapeClass:
    """One of :data:`SHAPES` in one of :data:`COLORS` with one of :data:`TEXTURES`."""

    shape: str
    color: str
    texture: str

    @property
    def words(self) -> tuple[str, ...]:
        """Those of its name, in their order."""
        return (*(() if self.texture == PLAIN else (self.texture,)), self.color, self.shape)

    @property
    def name(self) -> str:
        """Such as "red circle" or "striped red circle"."""
        return " ".join(self.words)


@dataclass(frozen=True)
class Holdout:
    """A grid of classes: every shape in every color with every texture. Some of them are novel: nobody gave them boxes.

    Attributes:
        name: part of the names of datasets, folders and weights.
        novel: word combinations; a class is novel if its name has all words of one of them.
    """

    name: str
    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    novel: tuple[frozenset[str], ...]
    textures: tuple[str, ...] = TEXTURES

    @cached_property
    def classes(self) -> tuple[ShapeClass, ...]:
        """All of them; labels of the datasets are positions in it."""
        return tuple(ShapeClass(*parts) for parts in product(self.shapes, self.colors, self.textures))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of :attr:`classes`, in their order."""
        return tuple(own.name for own in self.classes)

    @cached_property
    def novel_classes(self) -> tuple[ShapeClass, ...]:
        """Those without boxes in training, in the order of :attr:`classes`."""
        return tuple(own for own in self.classes if any(words <= set(own.words) for words in self.novel))

    @cached_property
    def base_classes(self) -> tuple[ShapeClass, ...]:
        """Those with boxes in training, in the order of :attr:`classes`."""
        return tuple(own for own in self.classes if own not in self.novel_classes)

    @property
    def has_novel_color(self) -> bool:
        """Whether there is a color that no class with boxes has."""
        return {own.color for own in self.base_classes} < set(self.colors)


# What is novel: a shape, a color, or combinations of words each of which is known from other classes.
HOLDOUTS = {
    holdout.name: holdout
    for holdout in (
        Holdout("shape", SHAPES, ("red", "green"), (frozenset({"circle"}),)),
        Holdout("color", ("rectangle", "triangle"), COLORS, (frozenset({"blue"}),)),
        Holdout("composition", SHAPES, COLORS, (frozenset({"blue", "circle"}), frozenset({"red", "triangle"}))),
    )
}
