"""Reading XML files of annotations."""

import codecs
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from pair_detr.utils.text_files import decode_text, marked_encoding, read_bytes

_DECLARATION = re.compile(rb"""\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']""")
# Programs write more characters than these standards have, under their names. As browsers do, read what includes them.
_INCLUDING = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "cp950", "shift_jis": "cp932", "euc_kr": "cp949"}


def read_xml(file: str | Path) -> ET.Element:
    """The root of a file in the encoding that it declares, of all that Python knows; UTF-8 or UTF-16 without one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not XML, is not in the encoding that it declares, or declares entities, by which a small file
            can take all memory; the message names it.
    """
    data = read_bytes(file)
    # Python's parser knows no encoding of several bytes per character but UTF-8 and UTF-16. It ignores the declaration
    # of what is decoded already.
    text = decode_text(data, file, _declared_encoding(data, file), "Save it as UTF-8 and declare that")
    if "<!ENTITY" in text:
        raise ValueError(f"{file} declares entities (<!ENTITY ...>), which are not read: remove them and its DOCTYPE.")
    try:
        return ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"{file} is not valid XML ({error}); correct or replace the file.") from error


def _declared_encoding(data: bytes, file: str | Path) -> str | None:
    """What the first line says, where it is to be believed."""
    declaration = _DECLARATION.match(data)
    if declaration is None or marked_encoding(data):
        return None
    # Browsers know some encodings as x-gbk, x-sjis.
    name = declaration[1].decode().lower().removeprefix("x-")
    try:
        bytes(4).decode(name)
    except (LookupError, UnicodeError) as error:
        raise ValueError(
            f'{file} declares the encoding "{name}", which is not known: save it as UTF-8 and declare that.'
        ) from error
    name = codecs.lookup(name).name
    # .NET declares the encoding of its strings. What can be read here shows that the file is in another.
    return None if name.startswith(("utf-16", "utf-32")) else _INCLUDING.get(name, name)
