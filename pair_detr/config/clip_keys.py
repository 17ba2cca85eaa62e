"""The keys of classes as texts, and of what a frozen image encoder of CLIP adds: see docs/open_vocabulary.md."""

from detectron2.config import CfgNode as CN


def add_clip_keys(cfg: CN) -> None:
    """Adds the keys to ``cfg`` in place."""
    # Open vocabulary, for every variant: a query's class is the text that its projected state is closest to.
    cfg.MODEL.CLIP = CN()
    # Embeddings of the class names, a .npy file (C x D) as `python -m pair_detr.tools.text_weights` makes them or as
    # Detic publishes them. The model's classes are its rows, and MODEL.DETR.NUM_CLASSES plays no part. A trained model
    # takes other classes by another file, of the same text encoder. "" is a linear classifier.
    cfg.MODEL.CLIP.TEXT_WEIGHTS = ""
    # Names of the rows where no .json file beside TEXT_WEIGHTS tells them: "coco", "lvis", "voc", a registered data
    # set, a file, or "cat,dog,traffic cone". "" takes those of the dataset of the config that has as many classes.
    cfg.MODEL.CLIP.VOCABULARY = ""
    # Factor of the cosines in the logits (Detic's NORM_TEMP), an inverse temperature.
    cfg.MODEL.CLIP.LOGIT_SCALE = 50.0
    # What queries know of the vocabulary before they are classified: nothing ("none"); or the text of the class that
    # the token of a selected query is closest to, projected, as a part of what they start as ("content", after
    # Grounding DINO, arXiv 2303.05499, section 3.2) or of their positional queries ("position", own); or all texts, by
    # an attention of their own in each decoder layer ("cross_attention", its section 3.3). Queries that are not
    # selected have a mean of all texts. Their effect is the question of docs/studies/text_queries.md.
    cfg.MODEL.CLIP.QUERIES = "none"
    # Score a class by two factors: that there is an object of any class, and that it is of the class. The first learns
    # from all queries, the second from those with an object alone, so that objects without boxes are not learned as
    # negatives of their texts. It is what selects queries, too. For sigmoids ("focal", "mal"). Own.
    cfg.MODEL.CLIP.OBJECTNESS = False
    # Objects that nobody annotated: a query that is an object with at least this probability, less than half of whose
    # box is covered by annotated ones, is not learned as background (nor as an object, which OV-DQUO, arXiv 2405.17913,
    # makes of its wildcards). 1 is none. Needs OBJECTNESS. Own.
    cfg.MODEL.CLIP.WILDCARD_SCORE = 1.0
    # Text encoder for names that are not among TEXT_WEIGHTS (pair_detr.Predictor): the one that these were made with,
    # "clip:<model>" or "open_clip:<model>"; a local file with its weights; and the prompts to average over. With
    # MODEL.BACKBONE.NAME "build_clip_backbone" the model's image encoder, a ResNet as "clip:RN50", is the backbone, and
    # is frozen.
    cfg.MODEL.CLIP.ENCODER = "clip:ViT-B/32"
    cfg.MODEL.CLIP.CHECKPOINT = ""
    cfg.MODEL.CLIP.PROMPTS = ["a {}"]
    _add_region_keys(cfg)


def _add_region_keys(cfg: CN) -> None:
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
