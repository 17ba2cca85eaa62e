"""From a trained model to a folder that :mod:`pair_detr.runtime` runs."""

from pair_detr.deployment.export import ExportOptions, export_model

__all__ = ["ExportOptions", "export_model"]
