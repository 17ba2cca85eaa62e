"""The text of files, whichever program, language and locale wrote them."""

import codecs
import io
from pathlib import Path

from pair_detr.utils.file_stamps import record_read
from pair_detr.utils.path_manager import open_binary

# By their first bytes; UTF-32's begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "ZIP"}
_WHITE_SPACE = "\t\n\r\f\v"
_NEWLINE = b"\n"


def require_regular_file(file: str | Path) -> None:
    """Makes sure that opening a file returns at once, as it does not with a pipe that nobody writes to.

    Args:
        file: path, where links are followed; one of nothing is left to the reader to complain about.

    Raises:
        OSError: it is something else than a file; IsADirectoryError if it is a folder.
    """
    path = Path(file)
    if path.is_dir():
        raise IsADirectoryError(f"{file} is a folder, not a file")
    if path.exists() and not path.is_file():
        raise OSError(f"{file} is a pipe or a device, not a file")


def read_text(file: str | Path) -> str:
    r"""The text of a file in UTF-8, with or without a byte order mark, whatever the locale; line ends are ``\n``.

    UTF-16 and UTF-32 are told by their byte order mark; UTF-16 without one where every second byte says so.

    Args:
        file: path, or an address that Detectron2's PathManager knows.

    Raises:
        OSError: it cannot be read.
        ValueError: it is in another encoding, or no text; the message names the file and the first such byte.
    """
    text = decode_text(read_bytes(file), file)
    return io.StringIO(text, newline=None).read() if "\r" in text else text


def read_bytes(file: str | Path) -> bytes:
    """The content of a file, or of an address that Detectron2's PathManager knows; an OSError if it can't be read."""
    require_regular_file(file)
    record_read(file)
    with open_binary(str(file)) as stream:
        return stream.read()


def decode_text(data: bytes, file: str | Path, encoding: str | None = None, remedy: str = "Save it as UTF-8") -> str:
    """The text that bytes stand for.

    Args:
        data: content of a file.
        file: its name, for messages.
        encoding: of Python's; by default what :func:`read_text` finds.
        remedy: for bytes that are no text in that encoding.

    Raises:
        ValueError: they are not; the message names the file and the first such byte.
    """
    encoding = encoding or marked_encoding(data) or _encoding_without_mark(data)
    try:
        text = data.decode(encoding)
        position = text.find("\0")
        if position < 0:
            return text
        position, remedy = len(text[:position].encode(encoding)), "Replace the file, which seems to be damaged"
    except UnicodeError as error:
        position = getattr(error, "start", 0)
    fault = f"byte 0x{data[position]:02x} at position {position}, in line {data.count(_NEWLINE, 0, position) + 1}"
    if archive := next((name for start, name in _ARCHIVES.items() if data.startswith(start)), None):
        fault, remedy = f"it is a {archive} archive", "Unpack it"
    raise ValueError(f"{file} is not text in {encoding.removesuffix('-sig')}: {fault}. {remedy}.")


def marked_encoding(data: bytes) -> str | None:
    """The encoding of which bytes begin with the byte order mark; None without one."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def _encoding_without_mark(data: bytes) -> str:
    if b"\0" not in data:
        return "utf-8"
    nuls = {"utf-16-le": data[1::2].count(0), "utf-16-be": data[::2].count(0)}
    encoding = max(nuls, key=nuls.get)
    if 4 * nuls[encoding] < len(data):
        # Less than half of its characters would be ASCII, and any pair of bytes is some character of Chinese.
        return "utf-8"
    try:
        is_text = all(character >= " " or character in _WHITE_SPACE for character in set(data.decode(encoding)))
    except UnicodeDecodeError:
        is_text = False
    return encoding if is_text else "utf-8"
