"""Every faster way gives what the plain one gives, borders, dtypes and gradients too, and is left where it must be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blurify import functional
from blurify.kernels import fast, maxima, plain
from blurify.layers import BlurPool2d, DenseMaxPool2d, SameBlurPool2d

PADS = ["reflect", "replicate", "zero", "circular"]


def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the plain functions that are called from now on."""
    called: list[str] = []
    for name in ("blur", "dense_max"):
        function = getattr(plain, name)
        monkeypatch.setattr(plain, name, lambda *a, function=function, name=name: called.append(name) or function(*a))
    return called


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 40)),
    channels=st.sampled_from([1, 3, 600]),
    filt_size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad_type=st.sampled_from(PADS),
    pad_off=st.integers(0, 2),
    last=st.booleans(),
)
def test_blur(
    size: tuple[int, int],
    channels: int,
    filt_size: tuple[int, int],
    stride: tuple[int, int],
    pad_type: str,
    pad_off: int,
    last: bool,
) -> None:
    torch.manual_seed(0)
    layer = BlurPool2d(None, pad_type, filt_size, stride, pad_off)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    left = [(t - 1) // 2 + pad_off for t in filt_size]
    right = [t // 2 + pad_off for t in filt_size]
    expected = plain.blur(x, layer.filt, list(stride), left, right, pad_type)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pad_type", [*PADS, "zero-renorm"])
@pytest.mark.parametrize("name", ["halfband", "lanczos", [1, 2, 3, 4, 3, 3, 2, 1], [3, 0, 0, 0, 0, 0, 1]])
@pytest.mark.parametrize("shape", [(1, 3, 96, 80), (2, 5, 40, 41), (1, 2, 3, 90), (2, 700, 20, 33)])
def test_long_filters(shape: tuple[int, ...], name: Any, pad_type: str) -> None:
    for last in (False, True):
        layer, x = BlurPool2d(None, pad_type, stride=(2, 3), filter=name), torch.randn(shape)
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        taps = layer.filt.shape[2:]
        left, right = [(t - 1) // 2 for t in taps], [t // 2 for t in taps]
        expected = plain.blur(x.double(), layer.filt.double(), [2, 3], left, right, pad_type)
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)
        # Gradients go through it, too.
        x = x.requires_grad_()
        (fast_grad,) = torch.autograd.grad(layer(x).square().sum(), x)
        plain_sum = plain.blur(x, layer.filt, [2, 3], left, right, pad_type).square().sum()
        torch.testing.assert_close(fast_grad, torch.autograd.grad(plain_sum, x)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pad_type", PADS)
@pytest.mark.parametrize(("shape", "rank"), [((8, 256, 28, 28), 2), ((2, 64, 14, 14), 1), ((2, 2048, 7, 7), 1)])
def test_blur_in_float32(shape: tuple[int, ...], rank: int, pad_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = taken(monkeypatch)
    layer, x = BlurPool2d(None, pad_type), torch.randn(shape)
    layer(x)
    called.clear()
    actual = layer(x)
    assert called == []
    expected = plain.blur(x.double(), layer.filt, [2, 2], [1, 1], [2, 2], pad_type)
    assert float((actual - expected).abs().max() / expected.abs().max()) <= 1e-6


def test_same_blur_crops_and_pads_as_plain() -> None:
    for size in range(1, 20):
        layer, x = SameBlurPool2d(5, 2), torch.randn(2, 8, size, size + 3)
        # Half precision is never fast.
        torch.testing.assert_close(layer(x).half(), layer(x.half()), rtol=2e-2, atol=5e-3)


def test_a_filter_that_is_no_product_is_used_as_it_is() -> None:
    filt = torch.rand(1, 1, 3, 3)
    for side in (14, 40):
        x = torch.randn(4, 512, side, side)
        expected = plain.blur(x, filt, [2, 2], [1, 1], [1, 1], "reflect")
        torch.testing.assert_close(functional.blur_pool(x, filt, [2, 2], 0, "reflect"), expected, rtol=1e-5, atol=1e-5)


def test_a_filter_that_was_written_to_is_seen() -> None:
    layer, x = BlurPool2d(None), torch.randn(4, 512, 14, 14)
    before = layer(x)
    layer.filt.mul_(2)
    torch.testing.assert_close(layer(x), 2 * before)
    twin = copy.deepcopy(layer)
    layer.filt.zero_()
    torch.testing.assert_close(twin(x), 2 * before)
    assert layer(x).abs().max() == 0


def test_matrices_live_as_long_as_the_filter_and_are_not_many() -> None:
    layer = BlurPool2d(None)
    known = len(fast._made)
    for side in range(2, 16):
        for width in range(2, 16):
            layer(torch.randn(1, 2, side, width))
    assert len(fast._made[id(layer.filt)][2]) <= fast.MOST_CASES
    del layer
    assert len(fast._made) == known


@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (2, 600, 6, 50), (2, 3, 30, 30), (4, 80, 20, 20)])
def test_gradients_of_a_blur(shape: tuple[int, ...]) -> None:
    layer = BlurPool2d(None)
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn_like(layer(x))
    (actual,) = torch.autograd.grad((layer(x) * weight).sum(), x)
    expected_output = plain.blur(x, layer.filt, [2, 2], [1, 1], [2, 2], "reflect")
    torch.testing.assert_close(layer(x.detach()), expected_output.detach(), rtol=1e-5, atol=1e-5)
    (expected,) = torch.autograd.grad((expected_output * weight).sum(), x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 600, 6, 50), (4, 80, 20, 20)])
def test_less_than_the_maps_is_kept_for_the_gradients_of_a_blur(shape: tuple[int, ...]) -> None:
    x, kept = torch.randn(shape, requires_grad=True), [0]
    layer = BlurPool2d(None)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert sum(kept) < x.numel()


def test_gradcheck() -> None:
    layer = BlurPool2d(None, filt_size=3).double()
    for shape in ((1, 2, 5, 4), (1, 2, 17, 16)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(layer, (x,), fast_mode=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    ceil_mode=st.booleans(),
    data=st.data(),
)
def test_dense_max(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    stride: int,
    ceil_mode: bool,
    data: st.DataObject,
) -> None:
    torch.manual_seed(0)
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel_size]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    if any(n + 2 * p <= r for n, p, r in zip(size, padding, reach, strict=True)):
        return
    x = torch.randint(-3, 4, (2, 3, *size)).float()
    x[0, 0, 0, 0], x[1, 1, -1, -1] = float("inf"), -float("inf")
    for case in (x, x.contiguous(memory_format=torch.channels_last)):
        actual = functional.dense_max_pool(case, kernel_size, [stride] * 2, padding, dilation, ceil_mode)
        expected = functional.dense_max_pool(case.half(), kernel_size, [stride] * 2, padding, dilation, ceil_mode)
        assert torch.equal(actual, expected.float())
        assert actual.is_contiguous(memory_format=torch.channels_last) == expected.is_contiguous(
            memory_format=torch.channels_last
        )


def test_a_maximum_sees_what_is_no_number() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = float("nan")
    expected = F.max_pool2d(x, 3, 1, 1)
    assert torch.equal(DenseMaxPool2d(3, 2, 1)(x).isnan(), expected.isnan())


def test_a_maximum_does_not_write_to_its_input() -> None:
    for pool in (DenseMaxPool2d(3, 2, 1), DenseMaxPool2d(2, 2), DenseMaxPool2d((1, 2), 2), DenseMaxPool2d(1, 2)):
        x = torch.randn(1, 2, 6, 6)
        before = x.clone()
        pool(x).zero_()
        assert torch.equal(x, before)


def test_ties_are_settled_as_max_pool_settles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    called = taken(monkeypatch)
    x = torch.randint(0, 2, (2, 3, 8, 8)).float().requires_grad_()
    (actual,) = torch.autograd.grad(DenseMaxPool2d(3, 2, 1)(x).sum(), x)
    (expected,) = torch.autograd.grad(F.max_pool2d(x, 3, 1, 1).sum(), x)
    assert torch.equal(actual, expected)
    assert called == ["dense_max"]


def compiled(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    return torch.compile(function, fullgraph=True, backend="aot_eager")(x)


LOOKED_ON: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "compiled": compiled,
    "exported": lambda f, x: torch.export.export(f, (x,)).module()(x),
    "half": lambda f, x: f(x.half()),
    "bfloat16": lambda f, x: f(x.bfloat16()),
    "meta": lambda f, x: f(x.to("meta")),
    "vmap": lambda f, x: torch.vmap(f)(x[None]),
    "forward gradient": lambda f, x: torch.func.jvp(f, (x,), (x,)),
}


@pytest.mark.filterwarnings("ignore:.*jit.script.*deprecated:FutureWarning")  # torch's own, of forward gradients
@pytest.mark.parametrize("how", LOOKED_ON)
@pytest.mark.parametrize("layer", [BlurPool2d(None), DenseMaxPool2d(3, 2, 1)], ids=["blur", "max"])
def test_plain_is_used_where_something_looks_on(
    how: str, layer: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "remembered", None)
    monkeypatch.setattr(maxima, "shifted_max", None)
    LOOKED_ON[how](layer, torch.randn(2, 8, 14, 14))


def test_autocast_and_counting_see_the_plain_formulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "remembered", None)
    layer, x = BlurPool2d(None), torch.randn(2, 8, 14, 14)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 2 * 8 * 7 * 7 * 16


def test_inference_mode() -> None:
    layer, x = BlurPool2d(None), torch.randn(2, 600, 14, 14)
    expected = plain.blur(x, layer.filt, [2, 2], [1, 1], [2, 2], "reflect")
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(BlurPool2d(None)(x), expected, rtol=1e-5, atol=1e-5)
    # What was made in inference mode serves training too.
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
