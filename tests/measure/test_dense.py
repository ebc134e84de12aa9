"""Consistency of maps, on models whose answer is known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.dense import mean_iou, psnr, shifted_maps
from blurify.measure.shifts import draw_offsets


class Checkers(nn.Module):
    """Adds a pattern that is fixed to the window, not to the image."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])
        return x + 0.5 * ((rows + columns) % 2)


def test_a_model_that_moves_with_the_picture_agrees_wholly() -> None:
    pictures = torch.rand(6, 3, 12, 11)
    pairs = shifted_maps(nn.Identity(), pictures, size=8, batch_size=4)
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_offsets(6, 3, generator) for _ in range(2))
    for (own, other), at, there in zip(pairs, first, second, strict=True):
        assert own.shape == (3, *(8 - abs(a - b) for a, b in zip(at.tolist(), there.tolist(), strict=True)))
        assert torch.equal(own, other)
    assert mean_iou(pairs).tolist() == [1.0] * 6
    assert psnr(pairs).tolist() == [float("inf")] * 6


def test_what_is_fixed_to_the_window_does_not() -> None:
    pairs = shifted_maps(Checkers(), torch.rand(20, 1, 12, 12), size=8)
    decibels = psnr(pairs)
    # The pattern differs everywhere by half, or nowhere: 10 log10(1 / 0.25) is 6.02.
    alike = decibels.isinf() | (decibels > 100)
    torch.testing.assert_close(decibels[~alike], torch.full_like(decibels[~alike], 6.0206), rtol=1e-4, atol=0)
    assert 0 < int(alike.sum()) < 20


def test_intersection_over_union_by_hand() -> None:
    first = torch.tensor([[0, 0, 1, 1]])
    second = torch.tensor([[0, 1, 1, 1]])
    scores = [nn.functional.one_hot(mask, 3).permute(2, 0, 1).float() for mask in (first, second)]
    # Class 0: 1 of 2. Class 1: 2 of 3. Class 2 is in neither.
    assert mean_iou([(scores[0], scores[1])]).tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2])


def test_what_does_not_fit_is_refused() -> None:
    pictures = torch.rand(2, 3, 8, 8)
    with pytest.raises(ArgumentError, match="fills the images"):
        shifted_maps(nn.Identity(), pictures, size=8)
    with pytest.raises(ArgumentError, match=r"a map as large as its input; for \[2, 3, 6, 6\] it gave \[2, 3, 3, 3\]"):
        shifted_maps(nn.MaxPool2d(2), pictures, size=6)
    with pytest.raises(ArgumentError, match="data_range must be above 0"):
        psnr([(pictures[0], pictures[1])], data_range=0)
