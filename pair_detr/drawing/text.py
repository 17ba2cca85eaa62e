"""Names of classes, files and runs, which hold anything, as Matplotlib can draw them."""

import logging
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from detectron2.utils.logger import log_first_n
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from pair_detr.utils.messages import join_some, one_line

# Characters of a name in a picture.
_LENGTH = 40
_DEFAULT_FAMILY = "sans-serif"
# Has a glyph for every character, but draws the name of its block.
_PLACEHOLDERS = "Last Resort"
_UNKNOWN = "?"
_NAMED = 10


def drawable(texts: Iterable[str], length: int = _LENGTH) -> list[str]:
    """:func:`printable` texts for Matplotlib, which shows each as it is: without mathematics between dollars."""
    return [text.replace("$", r"\$") for text in printable(texts, length)]


def printable(texts: Iterable[str], length: int = _LENGTH) -> list[str]:
    """Texts in a line that installed fonts can draw.

    Args:
        texts: any.
        length: longer ones lose their middle.

    Returns:
        as many texts. Characters that no installed font has are question marks, which is logged once.
    """
    lines = [one_line(text) for text in texts]
    if unknown := _characters(lines) - _fonts_of(frozenset(_characters(lines))).keys():
        message = (
            f"No installed font has the characters {join_some(sorted(unknown), _NAMED)}: pictures show a question mark "
            "for each. Install a font that has them, such as Noto Sans CJK."
        )
        log_first_n(logging.WARNING, message, key="message", name=__name__)
    known = ("".join(_UNKNOWN if character in unknown else character for character in line) for line in lines)
    return [_shorten(line, length) for line in known]


def font_file(text: str) -> str:
    """The file of the installed font that has most characters of a text."""
    fonts = Counter(_fonts_of(frozenset(_characters([text]))).values())
    family = max(fonts, key=fonts.__getitem__, default=_DEFAULT_FAMILY)
    return font_manager.findfont(font_manager.FontProperties(family=[family]))


def set_fonts(figure: Figure) -> None:
    """Lets the texts of a figure that is about to be drawn take characters from whatever font has them."""
    for text in figure.findobj(Text):
        characters = _characters([text.get_text()])
        fonts = _fonts_of(frozenset(characters))
        if families := sorted({fonts[c] for c in characters if fonts.get(c, _DEFAULT_FAMILY) != _DEFAULT_FAMILY}):
            text.set_fontfamily([_DEFAULT_FAMILY, *families])


def _shorten(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - tail - 1]}…{text[len(text) - tail :]}"


def _characters(texts: Iterable[str]) -> set[str]:
    return set().union(*texts) - {" ", "\n"}


@lru_cache
def _fonts_of(characters: frozenset[str]) -> dict[str, str]:
    """The family to draw each character in, without those that no font has."""
    found = dict.fromkeys(characters & _charset(_DEFAULT_FAMILY), _DEFAULT_FAMILY)
    for family in dict.fromkeys(font.name for font in font_manager.fontManager.ttflist):
        missing = characters - found.keys()
        if not missing:
            break
        if not family.startswith(_PLACEHOLDERS):
            found |= dict.fromkeys(missing & _charset(family), family)
    return found


@lru_cache(maxsize=1024)
def _charset(family: str) -> frozenset[str]:
    try:
        # In a list, as Matplotlib would take a name alone for a pattern.
        file = font_manager.findfont(font_manager.FontProperties(family=[family]))
        return frozenset(map(chr, font_manager.get_font(file).get_charmap()))
    except (OSError, RuntimeError):
        # Fonts of bitmaps, as those of colored emoji.
        return frozenset()
