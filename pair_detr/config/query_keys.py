"""The keys of what lets a detector converge in fewer iterations; all of it is off by default.

With it off, Conditional DETR and DETR are as published. docs/convergence.md says what each does, and what was measured.
"""

from detectron2.config import CfgNode as CN


def add_query_keys(cfg: CN) -> None:
    """Adds the keys to ``cfg`` in place."""
    # A dense head: class and box of every token of the encoder, learned by matching each object with several tokens
    # inside its box. In training it makes features worth attending to (as the heads of Co-DETR, arXiv 2211.12860); it
    # is what queries are selected by. For sigmoids ("focal", "mal") alone.
    cfg.MODEL.DETR.DENSE = CN()
    cfg.MODEL.DETR.DENSE.ENABLED = False
    # Tokens that an object has at most, and weight of the losses. Own.
    cfg.MODEL.DETR.DENSE.TOKENS_PER_OBJECT = 4
    cfg.MODEL.DETR.DENSE.WEIGHT = 1.0
    # Width and height of the boxes that it starts from, in parts of the image's. About those of the objects. Own.
    cfg.MODEL.DETR.DENSE.BOX_SIZE = 0.5
    # What queries look from: "none" is a learned point for each; "points" takes the centers of the boxes that the dense
    # head is surest of, "boxes" these boxes, of which the decoder predicts the differences. Contents stay learned
    # (mixed query selection, DINO, arXiv 2203.03605, section 3.4). For variants with reference points.
    cfg.MODEL.DETR.QUERY_SELECTION = "none"
    # Groups of queries in training: each learns from all objects and attends to itself alone; inference has the first
    # (Group DETR, arXiv 2207.13085, which takes 11). The losses are means over the groups.
    cfg.MODEL.DETR.QUERY_GROUPS = 1
    # Denoising queries in training: noisy copies of the objects, to be repaired (DN-DETR, arXiv 2203.01305). Needs
    # QUERY_SELECTION.
    cfg.MODEL.DETR.DENOISING = CN()
    # Copies of each object, 5 in DN-DETR; 0 is none. Each group attends to itself alone.
    cfg.MODEL.DETR.DENOISING.GROUPS = 0
    cfg.MODEL.DETR.DENOISING.WEIGHT = 1.0
    # Probability of a random label; and how far the corners of a box move at most, in halves of its sides (DN-DETR's).
    cfg.MODEL.DETR.DENOISING.LABEL_NOISE = 0.2
    cfg.MODEL.DETR.DENOISING.BOX_NOISE = 0.4
    # Add copies that moved by more, up to twice as much, and are to be no object (DINO, section 3.3).
    cfg.MODEL.DETR.DENOISING.NEGATIVES = False
    # Which box a layer's box is a change of: "none" is the query's own for all layers; "layers" that of the layer
    # before it, from which it also looks, as in DAB-DETR (arXiv 2201.12329); "look_forward_twice" the same, and its
    # loss trains that layer as well (DINO, section 3.5). Needs QUERY_SELECTION boxes.
    cfg.MODEL.DETR.BOX_REFINEMENT = "none"
    # Predict boxes relative to the query's: offsets in units of its size, and factors of it (Plain DETR, arXiv
    # 2308.01904, section 4.3). Needs QUERY_SELECTION boxes.
    cfg.MODEL.DETR.RELATIVE_BOXES = False
    # Bias the cross-attention by the distances of a cell from both corners of the query's box, top-left and
    # bottom-right (Plain DETR, section 4.1). Needs QUERY_SELECTION boxes; a variant with reference points.
    cfg.MODEL.DETR.BOX_BIAS = False
    # Start the decoder's cross-attention around the reference points rather than at random. Own; variants with
    # reference points.
    cfg.MODEL.DETR.LOCAL_ATTENTION = False
    # Start the last matrix of each residual branch of encoder and decoders at zero, so that the branches come in one by
    # one as they learn (as torchvision's zero_init_residual for ResNets).
    cfg.MODEL.DETR.ZERO_INIT_RESIDUAL = False
