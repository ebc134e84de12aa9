"""A report as one HTML file: its style and its plots are inside, and it asks for nothing from anywhere."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blurify import pages
from blurify._version import __version__
from blurify.errors import ArgumentError
from blurify.files.atomic import write_atomically

_KINDS = {b"\x89PNG": "image/png", b"GIF8": "image/gif", b"<?xml": "image/svg+xml", b"<svg": "image/svg+xml"}


@dataclass(frozen=True)
class Table:
    """A table with a title; the first cell of every row names it.

    >>> Table("Where it aliases", ("site", "before"), (("maxpool", "31.0 %"),)).title
    'Where it aliases'

    Raises:
        ArgumentError: a row has not as many cells as the header.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ArgumentError(
                    f"A row of the table {self.title!r} has {len(row)} cells and its header {len(self.header)}; "
                    "give every row as many."
                )


@dataclass(frozen=True)
class Picture:
    """A plot with a title and a caption, which is also what is read out to who cannot see it.

    `content` are the bytes of a PNG, SVG or GIF, as `blurify.drawing.canvas.encode` gives them.

    Raises:
        ArgumentError: the bytes are of no such plot.
    """

    title: str
    caption: str
    content: bytes

    def __post_init__(self) -> None:
        if self.uri is None:
            raise ArgumentError(f"The plot {self.title!r} is no PNG, SVG or GIF; it begins {self.content[:8]!r}.")

    @property
    def uri(self) -> str | None:
        """Return the plot as an address that holds it."""
        kind = next((kind for start, kind in _KINDS.items() if self.content.startswith(start)), None)
        return kind and f"data:{kind};base64,{b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Content:
    """Hold a report's content in its order: notes are sentences under the title."""

    title: str
    command: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    plan: str = ""


def render(content: Content) -> str:
    """Return the HTML of the page.

    >>> "&lt;b&gt;" in render(Content("<b>", "blurify measure"))
    True
    """
    return pages.render("report.html", content=content, version=__version__)


def write_report(path: Path, content: Content) -> None:
    """Write the report into one file, whole or not at all.

    >>> write_report(Path("out.html"), Content("Two networks", "blurify measure a.pt b.pt --images pictures"))

    Raises:
        FileError: the file cannot be written.
    """
    page = render(content).encode()

    def write(file: BinaryIO) -> None:
        file.write(page)

    write_atomically(path, write)
