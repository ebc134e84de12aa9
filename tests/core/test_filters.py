from __future__ import annotations

from itertools import pairwise

import pytest

from blurify.filters import binomial_taps

PUBLISHED = {
    1: [1],
    2: [1, 1],
    3: [1, 2, 1],
    4: [1, 3, 3, 1],
    5: [1, 4, 6, 4, 1],
    6: [1, 5, 10, 10, 5, 1],
    7: [1, 6, 15, 20, 15, 6, 1],
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size: int) -> None:
    weights = PUBLISHED[size]
    assert binomial_taps(size) == tuple(w / sum(weights) for w in weights)


@pytest.mark.parametrize("size", [8, 13, 40])
def test_any_larger_size_is_a_box_of_two_convolved_with_itself(size: int) -> None:
    taps = binomial_taps(size)
    shorter = (0.0, *binomial_taps(size - 1), 0.0)
    assert taps == pytest.approx([(a + b) / 2 for a, b in pairwise(shorter)], rel=1e-15)
    assert sum(taps) == pytest.approx(1, rel=1e-15)
