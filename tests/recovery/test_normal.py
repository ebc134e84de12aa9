"""The normal equations against least squares done plainly."""

from __future__ import annotations

import pytest
import torch

from blurify.recovery.normal import Fit, NormalEquations


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 300, 5, generator=generator, dtype=torch.float64) + 1
    noise = torch.randn(2, 300, 3, generator=generator, dtype=torch.float64)
    return x, x @ torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) + 4 + noise


def equations(x: torch.Tensor, t: torch.Tensor, intercept: bool = True) -> NormalEquations:
    made = NormalEquations(intercept)
    for part_x, part_t in zip(x.split(100, 1), t.split(100, 1), strict=True):
        made.add(part_x, part_t)
    return made


def test_without_a_ridge_it_is_least_squares(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = rows
    fit = equations(x, t).solve(torch.zeros(2, 3, 5, dtype=torch.float64), 0.0)
    ones = torch.cat([x, torch.ones_like(x[..., :1])], 2)
    wanted = torch.linalg.lstsq(ones, t).solution
    torch.testing.assert_close(fit.weight, wanted[:, :5].mT)
    torch.testing.assert_close(fit.offset, wanted[:, 5])


def test_without_an_intercept_nothing_is_added(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = rows
    fit = equations(x, t, intercept=False).solve(torch.zeros(2, 3, 5, dtype=torch.float64), 0.0)
    torch.testing.assert_close(fit.weight, torch.linalg.lstsq(x, t).solution.mT)
    assert not fit.offset.any()


def test_a_strong_ridge_keeps_the_weights(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    start = torch.randn(2, 3, 5, dtype=torch.float64)
    fit = equations(*rows).solve(start, 1e9)
    torch.testing.assert_close(fit.weight, start, atol=1e-6, rtol=0)


def test_the_error_is_that_of_the_rows(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, t = rows
    fit = Fit(torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64))
    left = (x @ fit.weight.mT + fit.offset[:, None] - t).square().sum()
    wanted = left / (t - t.mean(1, keepdim=True)).square().sum()
    assert equations(x, t).error(fit) == pytest.approx(float(wanted), rel=1e-9)


def test_a_constant_input_is_no_division_by_zero() -> None:
    x, t = torch.ones(1, 20, 4), torch.randn(1, 20, 2)
    fit = equations(x, t).solve(torch.zeros(1, 2, 4, dtype=torch.float64), 1e-3)
    torch.testing.assert_close(fit.weight, torch.zeros(1, 2, 4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(fit.offset, t.double().mean(1))
