"""Archives that torch would read as they are: what is known in them is taken out and put into an archive again.

So torch and the checks see the same: of an entry that is there twice, each reader may take another.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from blurify.errors import FileError, UnsafeFileError

Entries = dict[str, bytes]
REFUSED = "it was refused and nothing in it was run"
# What torch compresses is text.
MOST_UNPACKED = 64 * 2**20


class Unsafe(Exception):
    """List the entries of an archive that could run code."""


def read_entries(path: Path, known: re.Pattern[str], ignored: re.Pattern[str]) -> Entries:
    """Return the known entries of an archive, by their names without the outermost folder.

    Raises:
        UnsafeFileError: there is something that is neither known nor to be ignored.
        FileError: the archive is damaged, or unpacks to more than is sensible.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, known, ignored)
    except FileError:
        raise
    except Exception as error:  # a damaged archive can fail in any way at all
        raise FileError(f"{path} is a truncated or damaged zip archive; save or copy it again.") from error


def _read(archive: zipfile.ZipFile, path: Path, known: re.Pattern[str], ignored: re.Pattern[str]) -> Entries:
    entries: Entries = {}
    unpacked = 0
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if name in entries:
            raise FileError(f"{path} is a damaged zip archive, which holds {name} twice; save it again.")
        if known.fullmatch(name):
            unpacked += info.file_size if info.compress_type != zipfile.ZIP_STORED else 0
            if unpacked > MOST_UNPACKED:
                raise FileError(f"{path} unpacks to more than {MOST_UNPACKED >> 20} MiB of text; save it again.")
            entries[name] = archive.read(info)
        elif not ignored.fullmatch(name):
            raise UnsafeFileError(f"{path} holds {info.filename!r}, which is no part of a program; {REFUSED}.")
    return entries


def packed(entries: Entries) -> io.BytesIO:
    """Return the entries as an archive that torch reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    buffer.seek(0)
    return buffer
