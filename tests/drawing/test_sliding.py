"""The strip and the animation of one image that slides."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import ImageChops

from blurify.drawing.canvas import AFTER, BEFORE, encode
from blurify.drawing.sliding import TILES, Slide, sliding_frames, sliding_strip
from blurify.errors import ArgumentError
from tests.drawing.conftest import check_layout, colored, texts


def said(*answers: int, classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(answers), classes) * 0.75


def slide(steps: int = 9, channels: int = 3, label: int = 2, **more: Any) -> Slide:
    right = said(*[2] * steps)
    return Slide(torch.rand(steps, channels, 6, 6), right, right, label, **more)


@pytest.mark.parametrize(("steps", "channels"), [(1, 3), (2, 1), (9, 1), (33, 3)])
def test_the_strip(steps: int, channels: int) -> None:
    figure = sliding_strip(slide(steps, channels), caption="How it was chosen. " * 9)
    check_layout(figure)
    assert len(figure.axes[0].get_images()) == min(steps, TILES)
    shown = [text for text, _ in texts(figure)]
    assert shown.count("2") >= 2 * min(steps, TILES)
    assert min(colored(figure, BEFORE), colored(figure, AFTER)) > 50
    assert encode(sliding_strip(slide(2)), "png") != encode(sliding_strip(slide(2)), "png")


def test_long_names_of_classes_stay_apart(names: list[str]) -> None:
    probabilities = torch.eye(9)
    check_layout(sliding_strip(Slide(torch.rand(9, 3, 6, 6), probabilities, probabilities.flip(0), 0, names)))


def test_wrong_answers_are_filled() -> None:
    right, wrong = (colored(sliding_strip(slide(label=label)), BEFORE) for label in (2, 0))
    assert wrong > right + 1000


def test_curves_are_of_the_label() -> None:
    curves = sliding_strip(Slide(torch.rand(3, 1, 4, 4), said(0, 1, 0), said(1, 1, 0), 1)).axes[1]
    assert [list(line.get_ydata()) for line in curves.lines] == [[0, 0.75, 0], [0.75, 0.75, 0]]
    assert curves.get_ylabel().replace("\n", " ") == "probability of the true class, 1"


def test_frames_follow_the_slide() -> None:
    frames = sliding_frames(Slide(torch.rand(3, 3, 4, 4), said(0, 1, 0), said(1, 1, 0), 1, ["a", "b", "c" * 40]))
    assert len({frame.size for frame in frames}) == 1
    assert all(ImageChops.difference(a, b).getbbox() for a, b in pairwise(frames))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": torch.rand(3, 2, 4, 4)}, r"windows must be \[shifts, 1 or 3, H, W\], got \[3, 2, 4, 4\]"),
        ({"windows": torch.rand(2, 3, 4, 4)}, r"before and after must be \[2, classes\], got \[3, 3\] and \[3, 3\]"),
        ({"after": said(0, 0, 0, classes=4)}, r"got \[3, 3\] and \[3, 4\]"),
        ({"label": 3}, "label must be from 0 to 2, got 3"),
        ({"label": -1}, "label must be from 0 to 2, got -1"),
        ({"names": ["a"]}, "1 names for 3 classes"),
    ],
)
def test_what_does_not_go_together_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"windows": torch.rand(3, 3, 4, 4), "before": said(0, 1, 2), "after": said(0, 1, 2), "label": 0}
    with pytest.raises(ArgumentError, match=message):
        Slide(**(given | change))
