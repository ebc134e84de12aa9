"""Images in tar archives, as webdataset has them: `key.jpg`, and `key.cls` with the number of its class."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blurify.errors import FileError, one_line


@dataclass(frozen=True)
class Member:
    """A file in a tar archive: where its bytes are. Nothing is unpacked."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def open(self) -> BinaryIO:
        """Return the file's content."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


def find_members(archives: Sequence[Path], suffixes: frozenset[str]) -> tuple[list[Member], list[Member | None]]:
    """Return the images of the archives in order, and what holds the class of each.

    Raises:
        FileError: an archive cannot be read.
    """
    pictures: list[Member] = []
    classes: dict[tuple[Path, str], Member] = {}
    for archive in archives:
        for member in members_of(archive):
            key, dot, suffix = member.name.rpartition(".")
            if f"{dot}{suffix}".lower() in suffixes:
                pictures.append(member)
            elif suffix == "cls":
                classes[archive, key] = member
    return pictures, [classes.get((picture.archive, picture.name.rpartition(".")[0])) for picture in pictures]


def members_of(archive: Path) -> list[Member]:
    """Return the files of one archive; links and devices are none."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return [Member(archive, m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    except (OSError, tarfile.TarError) as error:
        fact = one_line(error)
        raise FileError(
            f"{archive} cannot be read as a tar archive: {fact}; give one that is not compressed."
        ) from error


def class_of(picture: Member, holder: Member | None) -> int:
    """Return the number that stands in the file next to the image.

    Raises:
        FileError: there is none, or it is no number.
    """
    text = b"" if holder is None else holder.open().read(64).strip()
    if not text.isdigit():
        raise FileError(f"{picture} has no class: a file of its name with the suffix .cls must hold its number.")
    return int(text)
