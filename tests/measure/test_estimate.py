"""Means over images and their intervals."""

from __future__ import annotations

import pytest
import torch

from blurify.errors import ArgumentError
from blurify.measure.estimate import Estimate, estimate


def test_a_share_with_its_interval() -> None:
    # 80 of 100: the normal approximation's interval is 80 +- 1.96 * 4 = 72.2 to 87.8.
    result = estimate(torch.tensor([1.0] * 80 + [0.0] * 20))
    assert result.percent == pytest.approx(80)
    assert result.low == pytest.approx(72.2, abs=1.5)
    assert result.high == pytest.approx(87.8, abs=1.5)
    assert result.pictures == 100


def test_the_interval_narrows_with_the_root_of_the_pictures() -> None:
    few, many = (estimate(torch.tensor([1.0, 0.0]).repeat(n)) for n in (50, 800))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)


def test_equal_scores_have_no_width() -> None:
    assert estimate(torch.ones(7)) == Estimate(100.0, 100.0, 100.0, 7)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    before = torch.tensor([1.0, 0.0]).repeat(100)
    after = before.clone()
    after[1:20:2] = 1.0
    change = estimate(after - before)
    assert change.percent == pytest.approx(5)
    assert change.high - change.low < estimate(before).high - estimate(before).low


def test_same_seed_same_interval_and_the_global_state_is_untouched() -> None:
    scores = torch.rand(50)
    state = torch.get_rng_state()
    assert estimate(scores, seed=3) == estimate(scores, seed=3)
    assert estimate(scores, seed=3) != estimate(scores, seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_reads_as_a_share_and_as_a_change() -> None:
    assert str(Estimate(91.25, 89.5, 93.0, 10)) == "91.2 % (89.5 to 93.0)"
    assert Estimate(-1.5, -2.0, -1.0, 10).as_change() == "-1.5 points (-2.0 to -1.0)"


@pytest.mark.parametrize("scores", [torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)], ids=str)
def test_refuses_what_is_not_one_number_a_picture(scores: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match="one number an image, got a tensor of shape"):
        estimate(scores)


def test_refuses_no_resamples() -> None:
    with pytest.raises(ArgumentError, match="at least 1, got 0"):
        estimate(torch.ones(3), resamples=0)
