"""The zip that `torch.save` writes: every record stored as it is, named once, and nothing before, between or behind.

Python's reader and torch's must see the same records, so what two readers could take differently is refused. What is
stored takes no more memory than the file takes on disk: there is no bomb in what is not compressed.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NoReturn

from blurify.errors import FileError, quoted

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = 56
# Of the name and of what comes after it, in a record's own header.
_LENGTHS, _LENGTHS_AT = struct.Struct("<2H"), 26


def records_of(path: Path) -> dict[str, int]:
    """Return the records of an archive and the bytes in each, or a refusal.

    >>> records_of(Path("weights.pt"))["weights/data/0"]
    4096

    Raises:
        FileError: it is no archive as `torch.save` writes it.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            whole = _ends_plainly(file, archive.start_dir, len(entries))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise FileError(f"{path} is a truncated or damaged zip archive; save or copy it again.") from error
    if not whole:
        _refuse(path, "its list of records is not where two readers would both look")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            _refuse(path, f"its record {quoted(entry.filename)} is compressed or encrypted, as torch.save never does")
        if entry.filename.startswith("/") or ".." in entry.filename.replace("\\", "/").split("/"):
            _refuse(path, f"its record {quoted(entry.filename)} is named like a file outside of it")
    # torch's reader tells names apart by more than their case only when asked to.
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        _refuse(path, "it has two records of the same name")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        _refuse(path, "its records say that they are larger than the whole file")
    return {entry.filename: entry.file_size for entry in entries}


def content_of(path: Path, name: str) -> bytes:
    """Return the bytes of a stored record, as torch reads them: without regard to its checksum, which may be left out.

    >>> content_of(Path("weights.pt"), "weights/data.pkl")[:1]
    b'\\x80'
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entry = archive.getinfo(name)
        file.seek(entry.header_offset + _LENGTHS_AT)
        file.seek(sum(_LENGTHS.unpack(file.read(_LENGTHS.size))), 1)
        return file.read(entry.file_size)


def root_of(names: Iterable[str]) -> str:
    """Return the folder that an archive's records are in, which the first of them decides for torch.

    >>> root_of(["weights/data.pkl", "weights/data/0"])
    'weights'
    """
    return next(iter(names)).partition("/")[0]


def _ends_plainly(file: BinaryIO, start: int, count: int) -> bool:
    """Return whether the list of records ends where the file's last bytes say, with nothing in between."""
    end = file.seek(0, 2) - _END.size
    file.seek(end)
    mark, _, _, _, total, size, offset, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\5\6" or comment:
        return False
    file.seek(end - _LOCATOR.size)
    locator = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if locator[0] == b"PK\6\7":
        return bool(locator[2] == end - _LOCATOR.size - _END64)
    return bool(start == offset and offset + size == end and total == count)


def _refuse(path: Path, fact: str) -> NoReturn:
    raise FileError(f"{path} is damaged or made to do damage: {fact}; download it again.")
