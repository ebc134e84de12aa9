"""Law 1 (size) and law 2 (identity) for generated pools and convs: any kernel, stride, padding, dilation, size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from blurify import antialias
from blurify.layers import AVG_BLUR_POOLS, BLUR_POOLS, DENSE_MAX_POOLS

POOLS = {1: (nn.MaxPool1d, nn.AvgPool1d), 2: (nn.MaxPool2d, nn.AvgPool2d), 3: (nn.MaxPool3d, nn.AvgPool3d)}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
quick = settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@st.composite
def windows(draw: st.DrawFn, dilated: bool = True) -> dict[str, Any]:
    axes = draw(st.integers(1, 3))
    largest = {1: 40, 2: 20, 3: 9}[axes]

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    kernel_size = per_axis(1, 5)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel_size)
    dilation = per_axis(1, 2) if dilated else (1,) * axes
    size = per_axis(1, largest)
    for n, k, p, d in zip(size, kernel_size, padding, dilation, strict=True):
        assume(n + 2 * p >= d * (k - 1) + 1)
    stride = per_axis(1, 4)
    assume(max(stride) > 1)
    return {"axes": axes, "k": kernel_size, "s": stride, "p": padding, "d": dilation, "size": size}


@quick
@given(windows(), st.booleans(), st.integers(1, 7))
def test_max_pool(w: dict[str, Any], ceil_mode: bool, filt_size: int) -> None:
    x = torch.randn(2, 3, *w["size"])
    expected = POOLS[w["axes"]][0](w["k"], w["s"], w["p"], w["d"], ceil_mode=ceil_mode)(x)
    dense = DENSE_MAX_POOLS[w["axes"]](w["k"], w["s"], w["p"], w["d"], ceil_mode)(x)
    # A dilated window on a map smaller than its dilation may see nothing, in the original as well.
    if all(n >= d for n, d in zip(w["size"], w["d"], strict=True)):
        assert dense.isfinite().all()
    assert torch.equal(BLUR_POOLS[w["axes"]](None, "reflect", 1, w["s"])(dense), expected)
    assert BLUR_POOLS[w["axes"]](None, "reflect", filt_size, w["s"])(dense).shape == expected.shape


@quick
@given(windows(dilated=False), st.booleans(), st.booleans(), st.integers(1, 7), st.sampled_from([None, 1, 5]))
def test_avg_pool(
    w: dict[str, Any], ceil_mode: bool, count_include_pad: bool, filt_size: int, divisor: int | None
) -> None:
    # PyTorch's 3-D average refuses a window larger than the unpadded map.
    assume(w["axes"] < 3 or all(n >= k for n, k in zip(w["size"], w["k"], strict=True)))
    x = torch.randn(2, 3, *w["size"], dtype=torch.float64)
    options = {} if w["axes"] == 1 else {"divisor_override": divisor}
    pool = POOLS[w["axes"]][1](w["k"], w["s"], w["p"], ceil_mode, count_include_pad, **options)
    layer = AVG_BLUR_POOLS[w["axes"]](
        w["k"], w["s"], w["p"], ceil_mode, count_include_pad, options.get("divisor_override"), filt_size=1
    )
    expected = pool(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert layer.with_filt_size(filt_size)(x).shape == expected.shape


CONV_FORMS = given(windows(), st.integers(1, 7), st.sampled_from(["zeros", "replicate", "circular"]))


@pytest.mark.parametrize("included_stem", [False, True])
@settings(quick, max_examples=15)
@CONV_FORMS
def test_conv(included_stem: bool, w: dict[str, Any], filt_size: int, padding_mode: str) -> None:
    check_conv(included_stem, w, filt_size, padding_mode)


@pytest.mark.slow
@pytest.mark.parametrize("included_stem", [False, True])
@settings(quick, max_examples=75)
@CONV_FORMS
def test_many_convs(included_stem: bool, w: dict[str, Any], filt_size: int, padding_mode: str) -> None:
    check_conv(included_stem, w, filt_size, padding_mode)


def check_conv(included_stem: bool, w: dict[str, Any], filt_size: int, padding_mode: str) -> None:
    if padding_mode == "circular":
        assume(all(p <= n for p, n in zip(w["p"], w["size"], strict=True)))
    conv = CONVS[w["axes"]](2, 4, w["k"], w["s"], w["p"], w["d"], padding_mode=padding_mode, groups=2).double()
    model = nn.Sequential(nn.Identity() if included_stem else nn.Softmax(1), conv, nn.ReLU())
    x = torch.randn(2, 2, *w["size"], dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(antialias(model, 1, stem=True, patch_embed=True)(x), expected, rtol=1e-10, atol=1e-10)
    assert antialias(model, filt_size, stem=True, patch_embed=True)(x).shape == expected.shape


def test_an_average_is_never_replaced_by_a_weaker_blur() -> None:
    """Law 1: a window wider than the filter is averaged densely before the blur."""
    x = torch.randn(1, 1, 32, 32)
    wide = AVG_BLUR_POOLS[2](5, 2, filt_size=3)(x)
    averaged = F.avg_pool2d(x, 5, 1)
    torch.testing.assert_close(wide, BLUR_POOLS[2](None, "reflect", 3, 2)(averaged))


def test_two_tap_blur_is_the_average_of_two() -> None:
    x = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(AVG_BLUR_POOLS[2](2, filt_size=2)(x), F.avg_pool2d(x, 2))
