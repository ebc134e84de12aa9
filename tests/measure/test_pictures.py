"""The before-and-after picture."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, BlurifyError
from blurify.measure.pictures import draw_sliding, require_matplotlib


class Brightness(nn.Module):
    """The probability of class 1 rises with the window's first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        lit = x[:, 0, 0, 0]
        return torch.stack([-lit, lit], dim=1)


def read(png: bytes) -> Tensor:
    from matplotlib.image import imread

    return torch.from_numpy(imread(io.BytesIO(png), format="png"))


def colored(pixels: Tensor, color: str) -> int:
    rgb = torch.tensor([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int(((pixels[..., :3] - rgb).abs() < 0.02).all(-1).sum())


def test_has_the_size_it_says_and_both_curves() -> None:
    pixels = read(draw_sliding(Brightness(), Brightness(), torch.rand(1, 8, 8), 1, size=4, caption="chosen by a rule"))
    assert pixels.shape[:2] == (539, 990)
    assert colored(pixels, "#D55E00") > 100
    assert colored(pixels, "#0072B2") > 100


def test_wrong_answers_are_filled() -> None:
    picture = torch.ones(1, 8, 8)
    right, wrong = (
        colored(read(draw_sliding(Brightness(), Brightness(), picture, label, size=4)), "#D55E00") for label in (1, 0)
    )
    assert wrong > right + 1000


def test_the_same_numbers_give_the_same_file_in_any_channels() -> None:
    picture = torch.rand(3, 8, 8)
    assert draw_sliding(Brightness(), Brightness(), picture, 1, size=5) == draw_sliding(
        Brightness(), Brightness(), picture, 1, size=5
    )


def test_refuses_a_picture_with_no_room_to_slide() -> None:
    with pytest.raises(ArgumentError, match="window of 8 pixels fills the picture"):
        draw_sliding(Brightness(), Brightness(), torch.rand(1, 8, 8), 1, size=8)


@pytest.mark.parametrize("label", [-1, 2])
def test_refuses_a_class_that_the_models_lack(label: int) -> None:
    with pytest.raises(ArgumentError, match=f"label must be from 0 to 1, got {label}"):
        draw_sliding(Brightness(), Brightness(), torch.rand(1, 8, 8), label, size=4)


def test_says_what_to_install_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BlurifyError, match=r"pip install 'blurify\[pictures\]'"):
        require_matplotlib()
    with pytest.raises(BlurifyError, match=r"pip install 'blurify\[pictures\]'"):
        draw_sliding(Brightness(), Brightness(), torch.rand(1, 8, 8), 1, size=4)


@pytest.mark.parametrize("draws", [False, True])
def test_matplotlib_is_imported_only_to_draw(draws: bool) -> None:
    code = "import sys, blurify.demo, blurify.measure.pictures as p; "
    code += "p.require_matplotlib(); " if draws else ""
    code += "print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(draws)
