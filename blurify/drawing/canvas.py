"""Shared parts of all plots: colours, sizes, labels, and files."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from blurify.errors import ArgumentError, BlurifyError
from blurify.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Picture = Figure | Sequence[Image.Image]

# Okabe and Ito's palette, told apart under every common colour blindness and in grey.
BEFORE, AFTER = "#D55E00", "#0072B2"
INK, FAINT, GRID = "#222222", "#666666", "#dddddd"
# Light is nothing, dark is much, also in grey.
HEAT = "YlGnBu"
DPI = 110
# Letters of small text to an inch.
_PER_INCH = 15
STILL, MOVING = ("png", "svg"), ("gif",)
# Milliseconds of one frame, and of the first and the last, between which an animation jumps.
FRAME, PAUSE = 120, 700
# Of an animation: few, so that it stays small.
COLORS = 96


def require_matplotlib() -> None:
    """Refuse, before any slow work, where a plot could not be drawn.

    >>> require_matplotlib()

    Raises:
        BlurifyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise BlurifyError(
            "Drawing a plot needs matplotlib, which is not installed; get it with: pip install 'blurify[pictures]'"
        ) from error


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure on white, in inches."""
    require_matplotlib()
    # Not pyplot, which would choose a backend for the whole process; a figure alone draws with Agg.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def heading(figure: Figure, title: str, caption: str = "") -> None:
    """Set a title at the top left, and small text under it, in as many lines as the width asks for."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.1 / height, plain(title), size=13, color=INK, va="top")
    lines = [line for text in caption.splitlines() for line in textwrap.wrap(text, int(width * _PER_INCH))]
    figure.text(0.1 / width, 1 - 0.42 / height, plain("\n".join(lines)), size=8.5, color=FAINT, va="top")


def plain(text: str) -> str:
    """Text that matplotlib shows as it is, whatever dollar signs are in it."""
    return text.replace("$", r"\$")


def folded_name(name: str, width: int, lines: int = 3) -> str:
    """Return a long name on several lines, broken after dots, underscores and spaces where it can be.

    >>> print(folded_name("layer2.0.downsample.0", 12))
    layer2.0.
    downsample.0
    """
    pieces = re.findall(r"[^._ ]*[._ ]*", name)
    rows = [""]
    for piece in (part[i : i + width] for part in pieces for i in range(0, len(part), width)):
        if rows[-1] and len((rows[-1] + piece).rstrip()) > width:
            rows.append("")
        rows[-1] += piece
    if len(rows) > lines:
        # What a name ends in tells sites apart.
        kept = rows[1 - lines :]
        rows = [rows[0], f"…{kept[0]}", *kept[1:]]
    return plain("\n".join(row.rstrip() for row in rows))


def quiet(axes: Axes, *, grid: str = "y") -> None:
    """Take the frame away but for the axes, and draw faint lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, lw=0.8)  # type: ignore[arg-type]


def check_suffix(path: Path, kinds: Sequence[str]) -> None:
    """Refuse, before any slow work, a file whose name does not say a kind that the plot can be written as.

    >>> check_suffix(Path("shifts.png"), STILL)
    """
    if path.suffix.lower().lstrip(".") not in kinds:
        raise ArgumentError(
            f"{path} does not say how the plot is to be written; give it a name in .{' or .'.join(kinds)}."
        )


def encode(picture: Picture, kind: str) -> bytes:
    """Return the bytes of a figure as `png` or `svg`, or of frames as `gif`. The same values give the same bytes.

    >>> encode(new_figure(1, 1), "png")[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    if isinstance(picture, Sequence):
        _write_gif(picture, buffer)
    else:
        import matplotlib

        # No date and no version; the salt makes the names inside an SVG the same every time.
        metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        with matplotlib.rc_context({"svg.hashsalt": "blurify"}):
            picture.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _write_gif(frames: Sequence[Image.Image], buffer: BinaryIO) -> None:
    if not frames:
        raise ArgumentError("An animation needs frames; there are none.")
    # One palette for all, or colours would flicker; of three frames side by side.
    few = [frames[0], frames[len(frames) // 2], frames[-1]]
    sheet = Image.new("RGB", (3 * few[0].width, few[0].height))
    for place, frame in enumerate(few):
        sheet.paste(frame, (place * frame.width, 0))
    palette = sheet.quantize(COLORS, dither=Image.Dither.NONE)
    first, *rest = (frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [FRAME] * len(frames)
    durations[0] = durations[-1] = PAUSE
    first.save(buffer, "gif", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


def save(picture: Picture, path: Path) -> None:
    """Write a plot as its file's suffix says, whole or not at all: PNG or SVG, frames as GIF.

    >>> save(new_figure(1, 1), Path("empty.svg"))

    Raises:
        ArgumentError: the suffix names no form of this plot.
        FileError: the file cannot be written.
    """
    check_suffix(path, MOVING if isinstance(picture, Sequence) else STILL)
    content = encode(picture, path.suffix.lower().lstrip("."))

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)
