"""How to see what an image shows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from torch import Tensor

from blurify.drawing.canvas import encode

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox


def pixels(figure: Figure) -> Tensor:
    """The image as a PNG shows it, `[H, W, 3]` uint8."""
    image = Image.open(io.BytesIO(encode(figure, "png"))).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)


def colored(figure: Figure, color: str) -> int:
    """How many pixels have nearly the given colour."""
    rgb = torch.tensor([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int(((pixels(figure).int() - rgb).abs() < 5).all(-1).sum())


def texts(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """Every text that is shown, and where."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    unseen = {id(text) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in _beyond(axis)}
    for text in figure.findobj(Text):
        seen = text.get_visible() and (text.axes is None or text.axes.get_visible()) and id(text) not in unseen
        if seen and text.get_text().strip():
            yield text.get_text(), text.get_window_extent()


def _beyond(axis: Axis) -> Iterator[Text]:
    """The labels of ticks that lie outside of what is shown."""
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if not low <= tick.get_loc() <= high:
            yield from (tick.label1, tick.label2)


def check_layout(figure: Figure) -> None:
    """No text lies over another, and none leaves the image."""
    shown = [(text, box) for text, box in texts(figure) if box.width > 0]
    page = figure.bbox
    for number, (text, box) in enumerate(shown):
        assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, text
        assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1, text
        for other, place in shown[number + 1 :]:
            apart = box.x1 <= place.x0 + 1 or place.x1 <= box.x0 + 1 or box.y1 <= place.y0 + 1 or place.y1 <= box.y0 + 1
            assert apart, f"{text!r} over {other!r}"


# Sites and classes as networks have them, and as they should not be called.
NAMES = [
    "maxpool",
    "layer2.0.conv2",
    "layer3.0.downsample.0",
    "backbone.body.features.transition3.pool.norm_with_long_name",
    "Mixed_6a.branch7x7x3_4.conv",
    "$x$",
    "<b>_{</b>",
    "withoutanyplacetobreakitanditgoesonandonandon",
    "output",
]


@pytest.fixture
def names() -> list[str]:
    """Long and odd names."""
    return NAMES
