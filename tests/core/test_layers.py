from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import antialiased_cnns
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify.errors import ArgumentError, ArgumentTypeError, BlurifyError
from blurify.layers import (
    AvgBlurPool2d,
    BlurPool1d,
    BlurPool2d,
    BlurPool3d,
    DenseMaxPool2d,
    LpBlurPool2d,
    MaxBlurPool1d,
    MaxBlurPool2d,
    MaxBlurPool3d,
    SameBlurPool2d,
)

LAYERS = {
    "blur": lambda: BlurPool2d(8),
    "blur 1 tap": lambda: BlurPool2d(filt_size=1),
    "blur per axis": lambda: BlurPool2d(filt_size=(1, 5), stride=(1, 2)),
    "max": lambda: MaxBlurPool2d(3, 2, 1),
    "avg": lambda: AvgBlurPool2d(2),
    "lp": lambda: LpBlurPool2d(2, 3, 2),
    "largest magnitude": lambda: LpBlurPool2d(float("inf"), 3, 2),
    "wide avg": lambda: AvgBlurPool2d(7, 2, 1),
}
OWN_SIZES = {"ceil max": lambda: MaxBlurPool2d(3, 2, 1, ceil_mode=True), "same": lambda: SameBlurPool2d(3)}


@pytest.mark.parametrize("filt_size", range(1, 8))
@pytest.mark.parametrize("pad_type", ["refl", "repl", "zero"])
@pytest.mark.parametrize(("stride", "pad_off"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_equals_the_published_layer(filt_size: int, pad_type: str, stride: int, pad_off: int) -> None:
    x = torch.randn(2, 6, 13, 18)
    ours = BlurPool2d(6, pad_type, filt_size, stride, pad_off)(x)
    theirs = antialiased_cnns.BlurPool(6, pad_type, filt_size, stride, pad_off)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_circular_padding_commutes_with_circular_shifts() -> None:
    x = torch.randn(1, 3, 16, 16)
    layer = BlurPool2d(3, "circular", 4, 1)
    torch.testing.assert_close(layer(x.roll((3, 5), (2, 3))), layer(x).roll((3, 5), (2, 3)))


def test_one_tap_is_plain_subsampling() -> None:
    x = torch.randn(2, 4, 9, 10)
    assert torch.equal(BlurPool2d(4, filt_size=1)(x), x[:, :, ::2, ::2])
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(BlurPool2d(4, filt_size=1, pad_off=1)(x), padded[:, :, ::2, ::2])


@pytest.mark.parametrize("pad_type", ["reflect", "replicate", "zero", "circular"])
def test_a_tiny_map_falls_back_to_replicate_on_its_small_axis(pad_type: str) -> None:
    x = torch.randn(1, 2, 1, 9)
    y = BlurPool2d(2, pad_type, 5, 2)(x)
    assert y.shape == (1, 2, 1, 5)
    if pad_type == "reflect":
        # Replicated along the small axis, the row is as it was; along the other axis it is reflected.
        torch.testing.assert_close(y[0, :, 0], BlurPool1d(2, "reflect", 5, 2)(x[:, :, 0])[0])


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("filt_size", [2, 3, 4, 7, 9])
def test_every_small_size(size: int, filt_size: int) -> None:
    for pad_type in ("reflect", "replicate", "zero", "circular"):
        y = BlurPool2d(1, pad_type, filt_size, 2)(torch.ones(1, 1, size, size + 3))
        assert y.shape == (1, 1, (size + 1) // 2, (size + 4) // 2)
        if pad_type != "zero":
            torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("pad_type", ["reflect", "replicate", "zero", "circular"])
def test_every_dtype_and_rank(dtype: torch.dtype, rank: int, pad_type: str) -> None:
    layer = (MaxBlurPool1d, MaxBlurPool2d, MaxBlurPool3d)[rank - 1](3, 2, 1, pad_type=pad_type)
    x = torch.randn((2, 3) + (9,) * rank, dtype=torch.float64)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 5e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(y.double(), layer(x), rtol=tolerance, atol=tolerance)
    assert torch.equal(layer.to(dtype)(x.to(dtype)), y)


def test_per_axis_filter_and_stride() -> None:
    x = torch.randn(1, 3, 10, 10)
    y = BlurPool2d(3, filt_size=(1, 4), stride=(1, 2))(x)
    rows = BlurPool1d(3, filt_size=4, stride=2)(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (1, 10)).transpose(1, 2)
    torch.testing.assert_close(y, rows)


@pytest.mark.parametrize("name", [*LAYERS, *OWN_SIZES])
def test_channels_last_is_kept(name: str) -> None:
    layer = (LAYERS | OWN_SIZES)[name]()
    x = torch.randn(2, 8, 16, 17)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous()
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("name", [*LAYERS, *OWN_SIZES])
def test_meta_device_and_back(name: str) -> None:
    layer = (LAYERS | OWN_SIZES)[name]()
    x = torch.randn(1, 8, 15, 16)
    expected = layer(x)
    layer.to("meta")
    assert layer(x.to("meta")).shape == expected.shape
    assert torch.equal(layer.to_empty(device="cpu")(x), expected)


@pytest.mark.parametrize("name", [*LAYERS, *OWN_SIZES])
def test_copies_scripts_and_has_no_state(name: str) -> None:
    layer = (LAYERS | OWN_SIZES)[name]()
    x = torch.randn(1, 8, 15, 16)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(layer)
    torch.testing.assert_close(scripted(x), expected)
    assert not layer.state_dict()
    assert not list(layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_sizes(name: str, strict: bool) -> None:
    layer = LAYERS[name]()
    batch, height, width = (torch.export.Dim(n, min=m, max=512) for n, m in (("b", 1), ("h", 12), ("w", 12)))
    x = torch.randn(2, 8, 17, 24)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch, 2: height, 3: width},), strict=strict)
    for shape in ((3, 8, 31, 22), (1, 8, 12, 13)):
        y = torch.randn(shape)
        torch.testing.assert_close(program.module()(y), layer(y))


@pytest.mark.parametrize("name", ["blur", "max", "avg"])
def test_compiles_in_one_graph(name: str) -> None:
    layer = LAYERS[name]()
    x = torch.randn(1, 8, 15, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_autocast() -> None:
    x = torch.randn(1, 8, 15, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = MaxBlurPool2d(3, 2, 1)(x)
    torch.testing.assert_close(y.float(), MaxBlurPool2d(3, 2, 1)(x), rtol=5e-2, atol=5e-2)


def test_gradients() -> None:
    for layer in (MaxBlurPool2d(3, 2, 1), AvgBlurPool2d(2), AvgBlurPool2d(5, 2, 1), SameBlurPool2d(3)):
        x = torch.randn(1, 2, 7, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer.double(), (x,))


def test_one_sample_without_batch() -> None:
    x = torch.randn(8, 15, 16)
    for layer in [make() for make in (LAYERS | OWN_SIZES).values()]:
        assert torch.equal(layer(x), layer(x.unsqueeze(0)).squeeze(0))


def test_max_blur_pool_is_the_dense_maximum_blurred() -> None:
    x = torch.randn(1, 3, 14, 14)
    expected = BlurPool2d(3)(F.max_pool2d(x, 3, 1, 1))
    assert torch.equal(MaxBlurPool2d(3, 2, 1)(x), expected)
    assert torch.equal(DenseMaxPool2d(3, 2, 1)(x), F.max_pool2d(x, 3, 1, 1))


def blur(**arguments: Any) -> BlurPool2d:
    return BlurPool2d(3, **arguments)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"pad_type": "mirror"}, ValueError, "pad_type 'mirror' is unknown; use one of refl, reflect, repl, replicate"),
        ({"pad_type": 3}, TypeError, "pad_type must be a string, got 3"),
        ({"filt_size": 0}, ValueError, "filt_size must be at least 1, got 0"),
        ({"filt_size": 2.0}, TypeError, "filt_size must be an integer, got 2.0 of type float"),
        ({"filt_size": True}, TypeError, "filt_size must be an integer, got True of type bool"),
        ({"filt_size": (3, 3, 3)}, ValueError, "filt_size must be one integer or 2, one per spatial axis"),
        ({"stride": -1}, ValueError, "stride must be at least 1, got -1"),
        ({"stride": "2"}, TypeError, "stride must be an integer, got '2' of type str"),
        ({"pad_off": -1}, ValueError, "pad_off must be at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words.replace("(", r"\(")) as caught:
        blur(**arguments)
    assert isinstance(caught.value, BlurifyError)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 4, 8, 8), "made for 3 channels and got 4"),
        (torch.zeros(1, 1, 3, 8, 8), r"takes a batch of 4 dimensions .* got a tensor of shape \(1, 1, 3, 8, 8\)"),
        (torch.zeros(8, 8), "takes a batch of 4 dimensions"),
    ],
)
def test_bad_inputs(x: Tensor, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        blur()(x)


def test_bad_channels() -> None:
    with pytest.raises(ArgumentError, match="channels must be at least 1"):
        BlurPool3d(0)
    with pytest.raises(ArgumentTypeError, match="ceil_mode must be True or False"):
        MaxBlurPool2d(2, ceil_mode=1)  # type: ignore[arg-type]


def test_prints_what_it_was_asked_for() -> None:
    assert repr(BlurPool2d(3, filt_size=5)) == "BlurPool2d(3, filt_size=(5, 5), stride=(2, 2), pad_type='reflect')"
    assert isinstance(BlurPool2d(3), nn.Module)


@pytest.mark.parametrize("norm_type", [2, 4, 0.5, float("inf"), -float("inf")])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_power_average_pools(norm_type: float, ceil_mode: bool) -> None:
    """One tap is the pool itself at every size, and more taps keep the size."""
    for kernel_size, stride in ((2, None), (3, 2), ((2, 3), (3, 1)), (5, (2, 3))):
        pool = torch.nn.LPPool2d(norm_type, kernel_size, stride, ceil_mode)
        for height, width in ((7, 8), (9, 12), (10, 13), (11, 15)):
            x = torch.rand(2, 3, height, width)
            layer = LpBlurPool2d(norm_type, kernel_size, stride, ceil_mode, filt_size=1)
            torch.testing.assert_close(layer(x), pool(x), rtol=1e-5, atol=1e-5)
            assert LpBlurPool2d(norm_type, kernel_size, stride, ceil_mode)(x).shape == pool(x).shape


@pytest.mark.parametrize(("filt_size", "pad_type", "pads"), [(3, "zero", 0), (4, "zero", 1), (3, "reflect", 1)])
def test_even_zeros_are_the_padding_of_the_conv(filt_size: int, pad_type: str, pads: int) -> None:
    layer = BlurPool2d(None, pad_type, filt_size)
    exported = torch.export.export(layer, (torch.zeros(2, 8, 16, 16),))
    names = [str(node.target) for node in exported.graph.nodes]
    assert sum("pad" in name for name in names) == pads
    assert sum("conv2d" in name for name in names) == 1
