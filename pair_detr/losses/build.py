"""How the logits of a config's model become scores."""

from detectron2.config import CfgNode

from pair_detr.losses.classification import ClassScoring, MatchabilityAware, SigmoidFocal, Softmax
from pair_detr.losses.objectness import ObjectnessScoring


def build_class_scoring(cfg: CfgNode, default: str, has_texts: bool = False) -> ClassScoring:
    """Builds what MODEL.DETR.LOSS.CLASSIFICATION names.

    Args:
        cfg: config.
        default: what "auto" stands for.
        has_texts: whether the classifier compares with texts; MODEL.CLIP is about no other.
    """
    loss = cfg.MODEL.DETR.LOSS
    name = default if loss.CLASSIFICATION == "auto" else loss.CLASSIFICATION
    if name == "softmax":
        return Softmax(loss.NO_OBJECT_WEIGHT)
    options = {"prior_prob": loss.PRIOR_PROB, "one_class_per_query": cfg.TEST.ONE_CLASS_PER_QUERY}
    if name == "mal":
        scoring: SigmoidFocal = MatchabilityAware(
            loss.FOCAL_ALPHA, loss.FOCAL_GAMMA, iou_gamma=loss.IOU_GAMMA, **options
        )
    else:
        scoring = SigmoidFocal(loss.FOCAL_ALPHA, loss.FOCAL_GAMMA, **options)
    if has_texts and cfg.MODEL.CLIP.OBJECTNESS:
        return ObjectnessScoring(scoring, cfg.TEST.OBJECTNESS_POWER)
    return scoring
