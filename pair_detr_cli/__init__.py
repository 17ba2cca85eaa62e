"""The command ``pair-detr``: the tools of pair_detr, and what installs it.

It stands beside the package and imports nothing of it at first, as that imports PyTorch: help comes at once, and
``pair-detr doctor`` runs where PyTorch or Detectron2 is missing or broken. The standard library only.
"""
