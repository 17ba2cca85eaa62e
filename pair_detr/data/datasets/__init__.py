"""Datasets by format: from files to Detectron2's records."""
