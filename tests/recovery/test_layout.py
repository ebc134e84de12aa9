"""Pictures are laid out as CPUs run convs fastest, where the networks take that."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import blurify
from blurify.measure.shifts import crop
from blurify.recovery import searching
from blurify.recovery.distilling import shift
from blurify.recovery.fits import FitSettings
from blurify.recovery.fitting import Refit
from blurify.recovery.layout import layout
from blurify.recovery.lockstep import held_bytes
from blurify.recovery.recover import twins
from blurify.recovery.searching import strongest


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
    assert layout(torch.randn(2, 3, *size), [conv(3, 4, 3)]) == wanted


def test_sequences_stay_as_they_are() -> None:
    assert layout(torch.randn(2, 3, 9), [nn.Conv1d(3, 4, 3)]) == torch.contiguous_format


def test_a_network_that_cannot_take_it_is_not_asked_to() -> None:
    assert layout(torch.randn(2, 3, 16, 16), [nn.Conv2d(3, 4, 3), Viewing()]) == torch.contiguous_format


def test_asking_changes_no_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    layout(torch.randn(2, 3, 4, 4), [norm])
    assert int(norm.num_batches_tracked) == 0
    assert norm.training


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format], ids=str)
def test_windows_lie_as_their_pictures_do(order: torch.memory_format) -> None:
    pictures = torch.randn(2, 3, 6, 6)
    offsets = torch.tensor([[0, 1], [2, 0]])
    windows = crop(pictures.contiguous(memory_format=order), offsets, 4)
    assert windows.is_contiguous(memory_format=order)
    assert torch.equal(windows, crop(pictures, offsets, 4))
    moved = shift(pictures.contiguous(memory_format=order), 0.4, torch.Generator())
    assert moved.is_contiguous(memory_format=order)


def test_a_search_measures_on_what_runs_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten(), nn.Linear(8 * 49, 4)).eval()
    converted, pictures = blurify.antialias(model, 3), torch.randn(8, 3, 20, 20)
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0]) > 1 and given[0].is_contiguous()))
    monkeypatch.setattr(searching, "recover", lambda *args, **options: pytest.fail("enough."))
    with pytest.raises(pytest.fail.Exception, match="enough"):
        strongest(model, converted, pictures, size=16, min_agreement=90, batch_size=4)
    assert seen
    assert not any(seen)


def test_a_network_that_looks_at_its_maps_as_rows_is_recovered() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2, 2), Viewing()).eval()
    smooth = blurify.antialias(model, 3)
    found = blurify.recover(model, smooth, torch.randn(16, 3, 32, 32), batch_size=8)
    assert found.errors["lstsq"] < found.errors["carried"]


def test_a_batch_holds_its_own_pictures_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(4, 2, 1)).eval()
    pictures = torch.randn(20, 3, 16, 16)
    teacher, student = twins(model, blurify.antialias(model, 3), pictures)
    refit = Refit(teacher.eval(), student.eval(), pictures, FitSettings(batch_size=4))
    held = [held_bytes(progress) for progresses in refit.fitting for progress in progresses]
    assert held == [pictures[:4].nbytes] * 8
