"""Open vocabulary: classes are texts, and can be exchanged without training."""

from pair_detr.open_vocabulary.base_classes import base_classes
from pair_detr.open_vocabulary.class_lists import ClassList, class_list, read_class_list
from pair_detr.open_vocabulary.composition import compose
from pair_detr.open_vocabulary.from_config import check_vocabulary, load_vocabulary
from pair_detr.open_vocabulary.image_encoders import build_image_encoder
from pair_detr.open_vocabulary.text_encoders import TextEncoder, build_text_encoder, encode_classes
from pair_detr.open_vocabulary.vocabulary import UnnamedClassesError, Vocabulary, random_text_weights, require_output

__all__ = [
    "ClassList",
    "TextEncoder",
    "UnnamedClassesError",
    "Vocabulary",
    "base_classes",
    "build_image_encoder",
    "build_text_encoder",
    "check_vocabulary",
    "class_list",
    "compose",
    "encode_classes",
    "load_vocabulary",
    "random_text_weights",
    "read_class_list",
    "require_output",
]
