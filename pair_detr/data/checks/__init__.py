"""Checks of data sets: what is in them, and what is wrong with it."""

from pair_detr.data.checks.report import ClassCount, DatasetReport, check_dataset, image_labels_of, inspect_dicts

__all__ = ["ClassCount", "DatasetReport", "check_dataset", "image_labels_of", "inspect_dicts"]
