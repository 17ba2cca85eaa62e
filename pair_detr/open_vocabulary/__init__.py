"""Open vocabulary: classes are texts, and can be exchanged without training."""

from pair_detr.open_vocabulary.build import check_vocabulary, classifier_factory, load_vocabulary
from pair_detr.open_vocabulary.class_lists import ClassList, class_list, read_class_list
from pair_detr.open_vocabulary.classifier import TextClassifier
from pair_detr.open_vocabulary.text_encoders import TextEncoder, build_text_encoder, encode_classes
from pair_detr.open_vocabulary.vocabulary import UnnamedClassesError, Vocabulary

__all__ = [
    "ClassList",
    "TextClassifier",
    "TextEncoder",
    "UnnamedClassesError",
    "Vocabulary",
    "build_text_encoder",
    "check_vocabulary",
    "class_list",
    "classifier_factory",
    "encode_classes",
    "load_vocabulary",
    "read_class_list",
]
