"""Text weights of classes that are composed of words, from the text weights of the words."""

from collections.abc import Mapping, Sequence

import torch

from pair_detr.open_vocabulary.vocabulary import Vocabulary


def compose(vocabulary: Vocabulary, classes: Mapping[str, Sequence[str]]) -> Vocabulary:
    """Classes that are sums of words: "red circle" of the directions of "red" and of "circle".

    With it, a model that was trained on some combinations of words can be asked for others. A class's row is the
    normalized sum of the rows of its words, which have length 1; the order of the words does not matter, and a word
    that is given twice counts twice. What a text encoder says of the whole phrase is in general another direction.

    >>> compose(words, {"red circle": ["red", "circle"], "blue circle": ["blue", "circle"]}).save("circles.npy")

    Args:
        vocabulary: of the words, and perhaps of more.
        classes: name of each class -> its words; case, underscores and hyphens of words do not matter.

    Returns:
        the classes in the order of ``classes``. Its metadata are those of ``vocabulary`` and "words" of each class.

    Raises:
        ValueError: there is no class, one has no words, or a word is not in ``vocabulary``; or the words of a class
            cancel each other out.
    """
    if not classes:
        raise ValueError("There are no classes to compose: give each class the list of its words.")
    for name, own in classes.items():
        if isinstance(own, str) or not own:
            raise ValueError(f'The class "{name}" is to be composed of {own!r}: give the list of its words.')
    words = list(dict.fromkeys(word for own in classes.values() for word in own))
    rows = dict(zip(words, vocabulary.select(words).weights, strict=True))
    weights = torch.stack([torch.stack([rows[word] for word in own]).sum(0) for own in classes.values()])
    metadata = {key: value for key, value in vocabulary.metadata.items() if key != "synonyms"}
    metadata["words"] = {name: list(own) for name, own in classes.items()}
    return Vocabulary(tuple(classes), weights, metadata, f"A composition of {vocabulary.source}")
