"""Config keys: defaults, allowed values, and what a config file inherits."""

from pair_detr.config.defaults import add_pair_detr_config

__all__ = ["add_pair_detr_config"]
