"""Recipes for own data: a config that follows from the data, the machine and the weights to start from."""

from pair_detr.recipes.choices import Choice, Request
from pair_detr.recipes.recipe import Recipe, choose_recipe

__all__ = ["Choice", "Recipe", "Request", "choose_recipe"]
