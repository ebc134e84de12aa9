"""Pictures are laid out as CPUs run convs fastest, where the networks take that."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import blurify
from blurify.recovery.fits import Settings
from blurify.recovery.fitting import Refit
from blurify.recovery.layout import laid_out
from blurify.recovery.lockstep import held_bytes
from blurify.recovery.recovering import twins


class Viewing(nn.Module):
    """Looks at its maps as rows, as only maps in the usual order can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4 * 7 * 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(x.size(0), -1))


@pytest.mark.parametrize(
    ("conv", "size", "wanted"),
    [(nn.Conv2d, (5, 6), torch.channels_last), (nn.Conv3d, (4, 5, 6), torch.channels_last_3d)],
    ids=["2d", "3d"],
)
def test_channels_come_last_where_they_may(conv: type, size: tuple[int, ...], wanted: torch.memory_format) -> None:
    pictures = torch.randn(2, 3, *size)
    laid = laid_out(pictures, [conv(3, 4, 3)])
    assert laid.is_contiguous(memory_format=wanted)
    assert torch.equal(laid, pictures)
    assert pictures.is_contiguous()


def test_sequences_stay_as_they_are() -> None:
    pictures = torch.randn(2, 3, 9)
    assert laid_out(pictures, [nn.Conv1d(3, 4, 3)]) is pictures


def test_a_network_that_cannot_take_it_is_not_asked_to() -> None:
    pictures = torch.randn(2, 3, 16, 16)
    assert laid_out(pictures, [nn.Conv2d(3, 4, 3), Viewing()]) is pictures


def test_a_network_that_looks_at_its_maps_as_rows_is_recovered() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2, 2), Viewing()).eval()
    smooth = blurify.antialias(model, 3)
    found = blurify.recover(model, smooth, torch.randn(16, 3, 32, 32), batch_size=8)
    assert found.errors["lstsq"] < found.errors["carried"]


def test_a_batch_holds_its_own_pictures_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(4, 2, 1)).eval()
    pictures = torch.randn(20, 3, 16, 16)
    teacher, student = twins(model, blurify.antialias(model, 3), pictures)
    refit = Refit(teacher.eval(), student.eval(), pictures, Settings(batch_size=4))
    held = [held_bytes(progress) for progresses in refit.fitting for progress in progresses]
    assert held == [pictures[:4].nbytes] * 8
