"""One image sliding under two networks: what both call it and how sure they are, as a strip and as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, INK, folded_name, heading, new_figure, plain
from blurify.drawing.curves import draw_curves
from blurify.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILES = 9
_SIDES = (BEFORE, "before"), (AFTER, "after")


@dataclass(frozen=True)
class Slide:
    """Hold the crops and predictions at every step of a slide.

    `windows` are `[shifts, C, H, W]` of 1 or 3 channels, 0 (black) to 1; `before` and `after` the probabilities
    `[shifts, classes]`; `label` the class whose probability is drawn, and `names` those of the classes, if there are
    any. `truth` says that the label is known to be true, and not only the first answer.

    Raises:
        ArgumentError: the shapes do not go together, or there is no such class.
    """

    windows: Tensor
    before: Tensor
    after: Tensor
    label: int
    names: Sequence[str] = ()
    truth: bool = True

    def __post_init__(self) -> None:
        steps = len(self.windows)
        if self.windows.dim() != 4 or self.windows.shape[1] not in (1, 3) or steps == 0:
            raise ArgumentError(f"windows must be [shifts, 1 or 3, H, W], got {[*self.windows.shape]}.")
        if self.before.dim() != 2 or self.before.shape != self.after.shape or len(self.before) != steps:
            raise ArgumentError(
                f"before and after must be [{steps}, classes], got {[*self.before.shape]} and {[*self.after.shape]}."
            )
        if not 0 <= self.label < self.before.shape[1]:
            raise ArgumentError(f"label must be from 0 to {self.before.shape[1] - 1}, got {self.label}.")
        if self.names and len(self.names) != self.before.shape[1]:
            raise ArgumentError(f"there are {len(self.names)} names for {self.before.shape[1]} classes.")

    def name(self, number: int) -> str:
        """Return the name of a class."""
        return self.names[number] if self.names else str(number)

    @property
    def what(self) -> str:
        """Return the label of the curves."""
        return f"probability of {'the true class' if self.truth else 'the first answer'}, {self.name(self.label)}"

    def pixels(self, step: int) -> Any:
        """Return a window as matplotlib takes it."""
        return self.windows[step].float().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def sliding_strip(slide: Slide, *, caption: str = "") -> Figure:
    """Draw windows of the slide, each model's top-1 class there, and below the probability of the label.

    >>> slide = Slide(torch.rand(9, 1, 8, 8), torch.rand(9, 3), torch.rand(9, 3), label=2)
    >>> sliding_strip(slide).get_size_inches().tolist()
    [9.0, 4.9]

    Of a long slide some windows are shown, evenly spread. An answer other than the label is in a filled box.

    Raises:
        BlurifyError: matplotlib is not installed.
    """
    figure = new_figure(9.0, 4.9)
    heading(figure, "One image, slid pixel by pixel, before and after blurify", caption)
    strip, curves = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.15, 1.0]})
    draw_curves(curves, slide.before[:, slide.label], slide.after[:, slide.label])
    curves.set_ylabel(folded_name(slide.what, 24), size=8.5, color=INK)
    curves.set_xlabel("diagonal shift, in pixels", size=9)
    curves.legend(framealpha=0.9, edgecolor="none", fontsize=9, loc="best")
    _draw_strip(strip, slide)
    figure.subplots_adjust(left=0.12, right=0.985, top=0.83, bottom=0.1, hspace=0.06)
    return figure


def _draw_strip(axes: Axes, slide: Slide) -> None:
    last = len(slide.windows) - 1
    count = min(TILES, last + 1)
    steps = [round(tile * last / max(1, count - 1)) for tile in range(count)]
    half = 0.46 * max(1, last) / max(1, count - 1)
    for step in steps:
        # One unit of x is one pixel of shift, so that tiles, answers and curves line up.
        axes.imshow(slide.pixels(step), extent=(step - half, step + half, 0, 1), aspect="auto")
        # The window's own edge, or the image would seem to stand still.
        edge = [step - half, step + half, step + half, step - half, step - half]
        axes.plot(edge, [0, 0, 1, 1, 0], color="#999999", lw=0.8)
        for row, ((color, _), said) in enumerate(zip(_SIDES, (slide.before, slide.after), strict=True)):
            _draw_answer(axes, step, -0.27 - 0.44 * row, int(said[step].argmax()), slide, color)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelbottom=False)
    axes.set_yticks([0.5, -0.27, -0.71], ["picture", "before", "after"], size=10)
    for text, (color, _) in zip(axes.get_yticklabels()[1:], _SIDES, strict=True):
        text.set_color(color)
    axes.set_xlim(-half - 0.1, last + half + 0.1)
    axes.set_ylim(-0.98, 1.03)


def _draw_answer(axes: Axes, x: float, y: float, answer: int, slide: Slide, color: str) -> None:
    # Wrong is shape and fill, not colour alone.
    wrong = answer != slide.label
    box = {"boxstyle": "round,pad=0.25", "facecolor": color, "edgecolor": color} if wrong else None
    text = folded_name(slide.name(answer), 13, lines=2)
    size = 11 if len(text) <= 3 else 6.8
    weight = "bold" if wrong else "normal"
    axes.text(
        x, y, text, ha="center", va="center", size=size, color="white" if wrong else color, weight=weight, bbox=box
    )


def sliding_frames(slide: Slide) -> list[Image.Image]:
    """Return one frame a step: the window, both answers with their probabilities, and where on the curves that is.

    >>> slide = Slide(torch.rand(3, 1, 8, 8), torch.rand(3, 3), torch.rand(3, 3), label=2)
    >>> [frame.size for frame in sliding_frames(slide)]
    [(616, 264), (616, 264), (616, 264)]

    `save` writes them as an animated GIF.

    Raises:
        BlurifyError: matplotlib is not installed.
    """
    figure = new_figure(5.6, 2.4)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    photo = figure.add_axes((0.02, 0.05, 0.386, 0.9))
    photo.set_axis_off()
    shown = photo.imshow(slide.pixels(0))
    curves = figure.add_axes((0.5, 0.16, 0.48, 0.36))
    draw_curves(curves, slide.before[:, slide.label], slide.after[:, slide.label])
    curves.tick_params(labelsize=7)
    curves.set_title(folded_name(slide.what, 52, lines=1), size=7, color=FAINT, loc="left", pad=3)
    cursor = curves.axvline(0, color=INK, lw=1.2)
    texts = [figure.text(0.43, 0.88 - 0.17 * row, "", size=9, color=color) for row, (color, _) in enumerate(_SIDES)]
    frames = []
    for step in range(len(slide.windows)):
        shown.set_data(slide.pixels(step))
        cursor.set_xdata([step, step])
        for text, (_, side), said in zip(texts, _SIDES, (slide.before, slide.after), strict=True):
            _say(text, side, slide, said[step])
        canvas.draw()
        pixels = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))
        frames.append(pixels.convert("RGB"))
    return frames


def _say(text: Any, side: str, slide: Slide, said: Tensor) -> None:
    answer = int(said.argmax())
    name = slide.name(answer)
    text.set_text(plain(f"{side}: {name if len(name) <= 24 else name[:23] + '…'}  {100 * float(said[answer]):.0f} %"))
    text.set_fontweight("bold" if answer != slide.label else "normal")
