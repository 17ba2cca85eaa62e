"""What programs write for their users: each file bears a mark, and only files that bear it are replaced unasked."""

import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.checksums import compute_sha256
from pair_detr.utils.json_files import read_json, write_json

MARK = "Made by pair_detr"

# Where the checksums are of files in the same folder that have no place for a mark.
RECORD = ".made_by_pair_detr.json"

# The mark is near the start or the end of a file, of any kind.
_SEARCHED_BYTES = 4096
# Enough to notice that the disk is full.
_PROBE_BYTES = 65536
_PNG_SIGNATURE_AND_HEADER = 33


def require_outputs(
    files: Iterable[Path], option: str = "--output", *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> None:
    """Makes sure, before the work, that files can be written and that none of the user's is replaced.

    Args:
        files: to write.
        option: of the command line that names them, for messages.
        overwrite: replace files of the user as well.
        inputs: files that the program reads, which it must not replace in any case.

    Raises:
        FileExistsError: a file exists without being one of :func:`is_made_here`, or is one of the inputs.
        OSError: a file cannot be written: its folder cannot be made, or the disk is full.
    """
    files = list(files)
    for folder in dict.fromkeys(file.parent for file in files):
        require_writable(folder, option)
    read = {file.resolve() for file in inputs}
    for file in files:
        if file.resolve() in read:
            raise FileExistsError(f"{option}: {file} is one of the inputs; choose another name or folder.")
        if file.exists() and not file.is_file():
            raise FileExistsError(f"{option}: {file} is a folder or a device; choose another name.")
    foreign = [] if overwrite else [file for file in files if file.exists() and not is_made_here(file)]
    if foreign:
        others = f" (nor were {len(foreign) - 1} others of the files to write)" if foreign[1:] else ""
        raise FileExistsError(
            f"{option}: {foreign[0]} exists, and was not made by this program{others}. Choose another name or folder, "
            "or replace it with --overwrite."
        )


def require_writable(folder: Path, option: str = "--output") -> None:
    """Raises an OSError, which names ``option``, if a folder can be neither written to nor made."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is a file")
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError as error:
        raise type(error)(
            f"{option}: nothing can be written to {folder} ({error.strerror or error}). Choose another folder, or make "
            "room there."
        ) from error


@contextmanager
def writing(file: str | Path) -> Iterator[Path]:
    """As :func:`pair_detr.utils.atomic.atomic_write`, and marks what the block has written.

    Args:
        file: PNG, JPEG, SVG, MP4 or NPZ, by its suffix; one of another kind has to hold :data:`MARK` by itself, or to
            be given to :func:`record_outputs`.
    """
    with atomic_write(file) as temporary:
        yield temporary
        if mark := _MARKS.get(temporary.suffix.lower()):
            mark(temporary)


def write_marked_json(content: Mapping[str, Any], file: str | Path) -> None:
    """Writes a JSON file, of which "info" - as in COCO's format - starts with the mark."""
    info = content.get("info")
    marked = {"made_by": MARK, **(info if isinstance(info, Mapping) else {})}
    write_json({"info": marked, **{key: value for key, value in content.items() if key != "info"}}, file)


def record_outputs(files: Iterable[Path]) -> None:
    """Lets :func:`is_made_here` tell files that have no place for a mark, by their checksums in a file next to them."""
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    for folder, written in by_folder.items():
        record = folder / RECORD
        known = {name: digest for name, digest in _recorded(record).items() if (folder / name).is_file()}
        known |= {file.name: compute_sha256(file) for file in written}
        write_marked_json({"sha256": known}, record)


def is_made_here(file: Path) -> bool:
    """Whether a file is one that this program has written, and nobody has changed.

    Text weights (.npy) are told by their checksum, which is in a JSON file next to them; others by
    :func:`record_outputs`, if not by their mark.
    """
    if file.suffix == ".npy":
        with suppress(OSError, ValueError, TypeError, KeyError):
            return read_json(file.with_suffix(".json"))["sha256"] == compute_sha256(file)
        return False
    if digest := _recorded(file.with_name(RECORD)).get(file.name):
        return digest == compute_sha256(file)
    with file.open("rb") as stream:
        start = stream.read(_SEARCHED_BYTES)
        stream.seek(max(0, file.stat().st_size - _SEARCHED_BYTES))
        end = stream.read()
    return MARK.encode() in start or MARK.encode() in end


def _recorded(record: Path) -> Mapping[str, str]:
    """The checksums in a record by name; none if there is no such file."""
    with suppress(OSError):
        return _read_record(record, record.stat().st_mtime_ns)
    return {}


@lru_cache(maxsize=4)
def _read_record(record: Path, _: int) -> Mapping[str, str]:
    with suppress(OSError, ValueError, TypeError, KeyError):
        return dict(read_json(record)["sha256"])
    return {}


def _mark_png(file: Path) -> None:
    content = file.read_bytes()
    chunk = b"tEXtComment\0" + MARK.encode()
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    file.write_bytes(content[:_PNG_SIGNATURE_AND_HEADER] + chunk + content[_PNG_SIGNATURE_AND_HEADER:])


def _mark_jpeg(file: Path) -> None:
    content = file.read_bytes()
    # JFIF's own segment comes first, if there is one.
    start = 4 + struct.unpack(">H", content[4:6])[0] if content[2:4] == b"\xff\xe0" else 2
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(MARK)) + MARK.encode()
    file.write_bytes(content[:start] + comment + content[start:])


def _mark_svg(file: Path) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"<!-- {MARK} -->\n")


def _mark_mp4(file: Path) -> None:
    with file.open("ab") as stream:
        # A box of the kind that players pass over.
        stream.write(struct.pack(">I4s", 8 + len(MARK), b"free") + MARK.encode())


def _mark_npz(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = MARK.encode()


_MARKS: dict[str, Callable[[Path], None]] = {
    ".png": _mark_png,
    ".jpg": _mark_jpeg,
    ".jpeg": _mark_jpeg,
    ".svg": _mark_svg,
    ".mp4": _mark_mp4,
    ".npz": _mark_npz,
}
