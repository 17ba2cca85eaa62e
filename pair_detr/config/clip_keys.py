"""The keys of what a frozen image encoder of CLIP adds to a detector, docs/open_vocabulary.md."""

from detectron2.config import CfgNode as CN


def add_region_keys(cfg: CN) -> None:
    """Adds the keys to ``cfg`` in place."""
    # Region scores: what MODEL.BACKBONE.NAME build_clip_backbone, whose attention pool reads its last map in each box,
    # says of the class of the box. In inference alone, as in F-VLM (arXiv 2209.15639, section 3.4); needs TEXT_WEIGHTS
    # of the same CLIP.
    cfg.MODEL.CLIP.REGION = CN()
    # Whether the detector's scores are fused with them.
    cfg.MODEL.CLIP.REGION.ENABLED = False
    # The score is detector ** (1 - w) * region ** w, where w is ALPHA for base classes and BETA for novel ones; 0 is
    # the detector alone (the values of F-VLM's code).
    cfg.MODEL.CLIP.REGION.ALPHA = 0.35
    cfg.MODEL.CLIP.REGION.BETA = 0.65
    # By which the cosines of region and texts are divided before the softmax over the classes (F-VLM's).
    cfg.MODEL.CLIP.REGION.TEMPERATURE = 0.01
    # Names of the classes that are learned from boxes; all others are novel. () takes those of the first training set,
    # without the novel_classes of its metadata (or of the test set's); a training writes them here. Own.
    cfg.MODEL.CLIP.REGION.BASE_CLASSES = ()
