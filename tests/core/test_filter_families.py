"""Families of filters: their mathematics, the layers that have them, and the plans that ask for them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blurify
from blurify import Plan, antialias, plan, verify
from blurify.errors import ArgumentError, ArgumentTypeError, NoEffectWarning, PlanError
from blurify.filters import FAMILIES, Filter, as_filter
from blurify.layers import (
    AvgBlurPool2d,
    BlurPool1d,
    BlurPool2d,
    BlurPool3d,
    LpBlurPool2d,
    MaxBlurPool2d,
    SameBlurPool2d,
)
from tests.conftest import relative_error

SHARP = ("halfband", "lanczos", "kaiser")
EVERY = ("binomial", "halfband", "lanczos", "kaiser", "gaussian", "1,-4,10,-4,1")


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("name", EVERY)
def test_taps_sum_to_one_and_odd_ones_are_symmetric(name: str, stride: int) -> None:
    taps = as_filter(name).taps(stride)
    assert sum(taps) == pytest.approx(1, abs=1e-14)
    assert taps == pytest.approx(taps[::-1], abs=1e-15)
    assert len(taps) % 2 == 1 or name == "binomial"


@pytest.mark.parametrize(("size", "of_32"), [(3, [8, 16, 8]), (7, [-1, 0, 9, 16, 9, 0, -1])])
def test_maximally_flat_taps_are_the_published_ones(size: int, of_32: list[int]) -> None:
    assert [32 * tap for tap in Filter("halfband", size).taps()] == of_32
    eleven = [3, 0, -25, 0, 150, 256, 150, 0, -25, 0, 3]
    assert [512 * tap for tap in Filter("halfband", 11).taps()] == eleven


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("name", ["halfband", "lanczos", "kaiser"])
def test_nyquist_filters_are_zero_at_every_stride_th_position(name: str, stride: int) -> None:
    taps = Filter(name).taps(stride)
    middle = len(taps) // 2
    assert [tap for n, tap in enumerate(taps) if n != middle and (n - middle) % stride == 0 and tap] == []


@pytest.mark.parametrize("size", [3, 7, 11, 15])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_maximally_flat_filters_keep_polynomials(size: int, stride: int) -> None:
    taps, degree = Filter("halfband", size).taps(stride), (size + 1) // 2 - 1
    places = np.arange(len(taps)) - len(taps) // 2
    # Interpolated from every stride-th position, a polynomial is what it was: each phase has its moments.
    for phase in range(stride):
        of_phase = (places - phase) % stride == 0
        moments = [float(np.dot(np.array(taps)[of_phase], (places[of_phase] / stride) ** d)) for d in range(degree + 1)]
        assert moments == pytest.approx([1 / stride, *[0] * degree], abs=1e-9)


@pytest.mark.parametrize(("size", "stride"), [(5, 2), (11, 2), (11, 4), (31, 2)])
def test_kaiser_is_what_scipy_designs(size: int, stride: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    taps = Filter("kaiser", size).taps(stride)
    width = 2 * (2**0.5 - 1) / stride  # in units of half a cycle, both halves
    expected = signal.firwin(len(taps), 1 / stride, width=width)
    assert taps == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("frequency", [0.0, 0.1, 0.25, 0.5])
def test_responses_are_those_of_the_taps(name: str, frequency: float) -> None:
    taps = torch.tensor(as_filter(name).taps(), dtype=torch.float64)
    turns = torch.exp(-2j * torch.pi * frequency * torch.arange(len(taps), dtype=torch.float64))
    assert as_filter(name).response([frequency])[0] == pytest.approx(float((taps * turns).sum().abs()), abs=1e-12)


def test_quality() -> None:
    assert Filter("binomial", 1).quality(4).folded == pytest.approx(0.75)
    # Of cos^2 from a quarter to half a cycle: (pi/4 - 1/2) / (pi/2).
    assert Filter("binomial", 2).quality().folded == pytest.approx(0.5 - 1 / torch.pi, abs=1e-6)
    assert Filter("halfband").quality().attenuation == pytest.approx(6.0206, abs=1e-3)
    assert Filter("ideal").quality().loss == Filter("ideal").quality().folded == 0
    assert str(Filter("ideal").quality()).startswith("attenuation complete at the new Nyquist, pass-band loss 0.0 %")
    assert Filter("lanczos").quality().loss < Filter("halfband").quality().loss < Filter("binomial").quality().loss


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("name", [*EVERY, "ideal"])
def test_a_constant_stays_and_sizes_are_those_of_subsampling(name: str, stride: int) -> None:
    pad = "circular" if name == "ideal" else "reflect"
    for layer, shape in ((BlurPool1d, (23,)), (BlurPool2d, (17, 23)), (BlurPool3d, (5, 9, 12))):
        given = layer(None, filter=as_filter(name), stride=stride, pad_type=pad)(torch.ones(2, 3, *shape))
        assert given.shape[2:] == tuple(-(-size // stride) for size in shape)
        assert float((given - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("name", SHARP)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_a_filter_longer_than_the_map_is_replicated_there(name: str, size: int) -> None:
    x = torch.rand(1, 2, size, 40)
    layer = BlurPool2d(filter=name)
    taps = torch.tensor(Filter(name).taps())
    reach = len(taps) // 2
    mode = "reflect" if size > reach else "replicate"
    padded = F.pad(F.pad(x, (reach, reach, 0, 0), mode="reflect"), (0, 0, reach, reach), mode=mode)
    expected = F.conv2d(padded, (taps[:, None] * taps).expand(2, 1, -1, -1), stride=2, groups=2)
    assert relative_error(layer(x), expected) < 1e-5


@pytest.mark.parametrize("name", SHARP)
def test_an_average_stays_in_front_of_a_filter_with_negative_taps(name: str) -> None:
    x = torch.rand(1, 2, 16, 16)
    dense = F.avg_pool2d(x, 2, 1)
    assert relative_error(AvgBlurPool2d(2, filter=name)(x), BlurPool2d(filter=name)(dense)) < 1e-5
    assert torch.equal(AvgBlurPool2d(2, filter=Filter(name, 1))(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("norm_type", [2.0, 3.0])
def test_roots_of_powers_are_numbers(norm_type: float) -> None:
    x = torch.zeros(1, 1, 24, 24)
    x[..., 10:12, 10:12] = 1
    x.requires_grad_()
    given = LpBlurPool2d(norm_type, 2, filter="lanczos")(x)
    given.sum().backward()
    assert bool(given.isfinite().all())
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("size", [12, 15])
def test_an_ideal_filter_is_rectangular(size: int) -> None:
    x = torch.randn(1, 1, 1, size, dtype=torch.float64)
    layer = BlurPool2d(filter="ideal", stride=(1, 3), filt_size=None, pad_type="circular")
    spectrum = torch.fft.fft(x)
    kept = torch.fft.fftfreq(size).abs() * 6 < 1 - 1e-6
    expected = torch.fft.ifft(spectrum * kept).real[..., ::3]
    low = BlurPool2d(filter=(Filter("ideal", 1), Filter("ideal")), stride=(1, 3), pad_type="circular")
    assert relative_error(low(x), expected) < 1e-12
    assert relative_error(layer(x), expected) < 1e-12
    half = BlurPool2d(filter=Filter("ideal", strength=0.5), stride=(1, 3), pad_type="circular")
    assert relative_error(half(x), (expected + x[..., ::3]) / 2) < 1e-12


def test_an_ideal_filter_commutes_with_circular_shifts() -> None:
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    layer = BlurPool2d(filter="ideal", pad_type="circular")
    given, moved = layer(x), layer(x.roll(1, 3))
    # A shift of one is half a position of the result: applied twice, a whole one.
    turn = torch.exp(-2j * torch.pi * torch.fft.fftfreq(8, dtype=torch.float64) / 2)
    assert relative_error(torch.fft.ifft(torch.fft.fft(given) * turn).real, moved) < 1e-10


class Net(nn.Module):
    """Has a site of every family that blurs, an axis of stride 1 among them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.average = nn.AvgPool2d((1, 2))
        self.third = nn.Conv2d(8, 8, 3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.stem(x).relu())).relu()
        x = self.third(self.average(self.pool(x)))
        return x[..., ::2].mean((2, 3))


@pytest.mark.parametrize("form", ["graph", "auto"])
@pytest.mark.parametrize("name", [*EVERY, "ideal"])
def test_a_network_of_any_filter_is_proved_and_read_back(name: str, form: str) -> None:
    original, x = Net().eval(), torch.rand(2, 3, 61, 50)
    pad = "circular" if name == "ideal" else "reflect"
    converted = antialias(original, filter=name, pad_type=pad, form=form)
    assert verify(original, converted, x).ok
    made = converted.meta["blurify"]
    assert {d.filter for d in made.rewritten} == {as_filter(name).kind}
    assert Plan.from_json(made.to_json()) == made
    again = made.apply(original)
    assert torch.equal(again(x), converted(x))
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(converted))(x), converted(x))
    with pytest.warns(NoEffectWarning):
        antialias(converted, filter=name, pad_type=pad)


def test_filters_by_pattern() -> None:
    made = plan(Net(), {"pool": 3}, filter={"pool": "lanczos", "third": [1, 2, 1], "*": "halfband"})
    chosen = {d.site: (d.filter, max(d.filt_size)) for d in made.rewritten}
    assert chosen["pool"] == ("lanczos", 3)
    assert chosen["third"] == ("taps", 3)
    assert chosen["conv"] == ("halfband", 7)
    assert "halfband 7" in str(made)
    with pytest.raises(ArgumentError, match="filter pattern 'nowhere' matches no site"):
        plan(Net(), filter={"nowhere": "lanczos"})


def test_plans_of_before_say_binomial_and_those_of_binomials_are_as_before() -> None:
    text = plan(Net()).to_json()
    assert '"filter"' not in text
    assert '"taps"' not in text
    assert {d.filter for d in Plan.from_json(text).rewritten} == {"binomial"}


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    (
        {"filter": "lanczos", "filt_size": 4},
        ArgumentError,
        "The lanczos filter has sizes 3, 7, 11, 15 and so on; got 4",
    ),
    ({"filter": "halfband", "filt_size": 19}, ArgumentError, "has sizes 3, 7, 11 and 15; got 19"),
    ({"filter": "kaiser", "filt_size": 6}, ArgumentError, "The kaiser filter has odd sizes; got 6"),
    ({"filter": "box"}, ArgumentError, "filter 'box' is unknown; use one of binomial, halfband"),
    ({"filter": "1,x,1"}, ArgumentError, "is not taps, which are numbers such as 1,4,6,4,1"),
    ({"filter": [1, -1]}, ArgumentError, "must have a positive sum"),
    ({"filter": [1, -3]}, ArgumentError, "must have a positive sum"),
    ({"filter": [1, float("nan")]}, ArgumentError, "must be finite numbers, got nan"),
    ({"filter": [1, "2"]}, ArgumentTypeError, "Taps must be numbers, got '2'"),
    ({"filter": []}, ArgumentError, "has 1 to 1024 taps, got 0"),
    ({"filter": 3}, ArgumentTypeError, "filter must be a name such as 'lanczos'"),
    ({"filter": [1, 2, 1], "filt_size": 5}, ArgumentError, "filt_size 5 contradicts a filter given as 3 taps"),
    ({"filter": "ideal"}, ArgumentError, "The ideal filter takes a map to be periodic.*--pad-type circular"),
    ({"filter": "ideal", "pad_type": "circular", "filt_size": 4}, ArgumentError, "no size: leave it out; got 4"),
)


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_what_is_no_filter(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(Net(), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filter": "box"}, "filter 'box' is unknown"),
        ({"filter": "lanczos", "filt_size": [4, 4]}, "The lanczos filter has sizes 3, 7, 11"),
        ({"filter": "taps", "taps": [1, 2, 1]}, "filt_size 4 contradicts a filter given as 3 taps"),
        ({"filter": "taps"}, "has 1 to 1024 taps, got 0"),
        ({"filter": "taps", "taps": [1e400, 1]}, "must be finite|not JSON"),
        ({"filter": "ideal", "filt_size": [2, 2]}, "the ideal filter without circular padding"),
    ],
)
def test_plans_of_no_filter(change: dict[str, Any], message: str) -> None:
    import json

    content = json.loads(plan(Net()).to_json())
    site = next(d for d in content["decisions"] if d["site"] == "conv")
    site.update(change)
    with pytest.raises(PlanError, match=message):
        Plan.from_json(json.dumps(content))


def test_taps_are_divided_by_their_sum() -> None:
    assert Filter.of_taps(1, 4, 6, 4, 1).taps() == Filter("binomial", 5).taps()
    given = BlurPool2d(filter=[1, 4, 6, 4, 1])(x := torch.rand(1, 1, 9, 9))
    assert torch.equal(given, BlurPool2d(filt_size=5)(x))


def test_every_family_has_one_tap() -> None:
    x = torch.rand(1, 1, 9, 9)
    for name in FAMILIES:
        assert torch.equal(BlurPool2d(filter=Filter(name, 1))(x), x[..., ::2, ::2])
        assert Filter(name, 1).taps(3) == (1.0,)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("layer", [BlurPool2d(filter="lanczos"), SameBlurPool2d(3, filter="halfband")])
def test_layers_say_and_keep_their_filter(layer: Any) -> None:
    x = torch.rand(1, 2, 20, 20)
    assert f"filter={layer.kind!r}" in repr(layer)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    assert layer.with_filt_size(1).is_one_tap()
    assert layer.filters[0].kind == layer.kind
    assert relative_error(torch.jit.script(layer)(x), layer(x)) < 1e-6


@pytest.mark.parametrize("layer", [BlurPool2d(8), AvgBlurPool2d(2), LpBlurPool2d(2, 2), SameBlurPool2d(3)])
def test_layers_of_older_pickles_are_binomial(layer: nn.Module) -> None:
    x = torch.rand(1, 8, 20, 20)
    news = {"strength", "kind", "own", "averages", "rate", "boundary"}
    older = type(layer).__new__(type(layer))
    older.__setstate__({key: value for key, value in vars(layer).items() if key not in news})
    assert torch.equal(older(x), layer(x))
    assert repr(older) == repr(layer)


@pytest.mark.parametrize("name", ["lanczos", "ideal"])
def test_programs_of_open_sizes_give_the_same(name: str) -> None:
    pad = "circular" if name == "ideal" else "reflect"
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    converted = antialias(model, filter=name, pad_type=pad)
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(converted, (torch.rand(2, 3, 32, 40),), dynamic_shapes=(sizes,), strict=False)
    x = torch.rand(2, 3, 46, 33)
    with torch.no_grad():
        assert relative_error(program.module()(x), converted(x)) < 1e-5


def test_asymmetric_taps_move_the_grid_by_their_centre() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))
    (shift,) = plan(network, filter=[1, 1, 2]).outputs
    assert shift.pixels == pytest.approx((0.25, 0.25))


def test_a_max_pool_of_its_own_has_them_too() -> None:
    x = torch.rand(1, 2, 20, 20)
    given = MaxBlurPool2d(3, 2, 1, filter="lanczos")(x)
    assert relative_error(given, BlurPool2d(filter="lanczos")(F.max_pool2d(x, 3, 1, 1))) < 1e-6
    assert blurify.layers.BlurPool2d(filter="lanczos", strength=0.0).filt.numel() == 1
