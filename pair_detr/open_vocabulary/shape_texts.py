"""Text weights of the open-vocabulary shapes: composed of words, or as a control unrelated to them."""

from pair_detr.data.datasets.shape_classes import WORDS, Holdout
from pair_detr.open_vocabulary.composition import compose
from pair_detr.open_vocabulary.vocabulary import Vocabulary, random_text_weights

# Published CLIP text weights have no row for most of the words. These names of LVIS stand in for them: things of that
# shape, color or texture.
STAND_INS = {
    "circle": "ball",
    "rectangle": "box",
    "triangle": "triangle_(musical_instrument)",
    "red": "strawberry",
    "green": "broccoli",
    "blue": "blueberry",
    "striped": "zebra",
}


def random_word_texts(holdout: Holdout, seed: int = 0) -> Vocabulary:
    """A random direction for each word, and each class composed of its words; a word has the same in all holdouts."""
    return _compose(holdout, random_text_weights(WORDS, seed=seed))


def unrelated_texts(holdout: Holdout, seed: int = 0) -> Vocabulary:
    """A random direction for each class: of what its words mean in other classes, nothing can be learned.

    They are neither those of other holdouts nor, with the same seed, those of the words.
    """
    names = holdout.class_names
    return random_text_weights((*WORDS, *names), seed=seed).select(names)


def texts_from_words(holdout: Holdout, vocabulary: Vocabulary) -> Vocabulary:
    """Each class composed of rows of other text weights: of its words or, where these are missing, of stand-ins.

    Raises:
        ValueError: a word is missing and so is its entry of :data:`STAND_INS`; the message names them.
    """
    names = [word if vocabulary.find([word])[0] is not None else STAND_INS[word] for word in WORDS]
    rows = vocabulary.select(names)
    metadata = {**rows.metadata, "rows": dict(zip(WORDS, names, strict=True))}
    return _compose(holdout, Vocabulary(WORDS, rows.weights, metadata, vocabulary.source))


def _compose(holdout: Holdout, words: Vocabulary) -> Vocabulary:
    return compose(words, {own.name: own.words for own in holdout.classes})
