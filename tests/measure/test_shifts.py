"""Windows cut from images."""

from __future__ import annotations

import pytest
import torch

from blurify.errors import ArgumentError
from blurify.measure.shifts import crop, draw_offsets, room


def test_every_picture_is_cut_at_its_own_offset() -> None:
    pictures = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    windows = crop(pictures, torch.tensor([[0, 2], [1, 0]]), 3)
    assert torch.equal(windows[0], pictures[0, :, 0:3, 2:5])
    assert torch.equal(windows[1], pictures[1, :, 1:4, 0:3])
    assert windows.dtype == torch.int64


def test_the_room_is_that_of_the_shorter_axis() -> None:
    assert room(torch.zeros(1, 1, 8, 11), 5) == 3


def test_offsets_reach_both_ends_on_both_axes() -> None:
    offsets = draw_offsets(400, 3, torch.Generator().manual_seed(0))
    assert [sorted(set(axis)) for axis in offsets.T.tolist()] == [[0, 1, 2, 3]] * 2
    # Drawn per axis: the two are not one number.
    assert not torch.equal(offsets[:, 0], offsets[:, 1])


@pytest.mark.parametrize("offset", [[-1, 0], [0, -1], [3, 0], [0, 4]], ids=str)
def test_refuses_a_window_that_leaves_the_picture(offset: list[int]) -> None:
    with pytest.raises(ArgumentError, match=r"offsets must be from 0 to \[2, 3\]"):
        crop(torch.zeros(1, 1, 4, 5), torch.tensor([offset]), 2)


def test_refuses_another_count_of_offsets() -> None:
    with pytest.raises(ArgumentError, match=r"offsets must be of shape \[2, 2\], got \(1, 2\)"):
        crop(torch.zeros(2, 1, 4, 4), torch.zeros(1, 2, dtype=torch.int64), 2)


@pytest.mark.parametrize("size", [0, 5])
def test_refuses_a_window_that_does_not_fit(size: int) -> None:
    with pytest.raises(ArgumentError, match=f"window of {size} pixels does not fit images of 4 x 6"):
        room(torch.zeros(1, 1, 4, 6), size)


def test_refuses_a_single_picture_without_its_batch() -> None:
    with pytest.raises(ArgumentError, match=r"of shape \[N, C, H, W\], got \(1, 4, 4\)"):
        room(torch.zeros(1, 4, 4), 2)
