"""Open vocabulary: classes are texts, and can be exchanged without training."""

from pair_detr.losses.federated import ClassSelection, build_class_selection
from pair_detr.losses.image_labels import IMAGE_LABEL_LOSSES, ImageLabelCriterion, build_image_label_criterion
from pair_detr.modeling.text_classifier import TextClassifier, classifier_factory
from pair_detr.open_vocabulary.class_lists import ClassList, class_list, read_class_list
from pair_detr.open_vocabulary.from_config import check_vocabulary, load_vocabulary
from pair_detr.open_vocabulary.random_text_weights import random_texts
from pair_detr.open_vocabulary.text_encoders import TextEncoder, build_text_encoder, encode_classes
from pair_detr.open_vocabulary.vocabulary import UnnamedClassesError, Vocabulary, require_output

__all__ = [
    "IMAGE_LABEL_LOSSES",
    "ClassList",
    "ClassSelection",
    "ImageLabelCriterion",
    "TextClassifier",
    "TextEncoder",
    "UnnamedClassesError",
    "Vocabulary",
    "build_class_selection",
    "build_image_label_criterion",
    "build_text_encoder",
    "check_vocabulary",
    "class_list",
    "classifier_factory",
    "encode_classes",
    "load_vocabulary",
    "random_texts",
    "read_class_list",
    "require_output",
]
