"""Every image: what it shows is what it was given, and no text lies over another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blurify.drawing.bars import folded_chart
from blurify.drawing.canvas import AFTER, BEFORE
from blurify.drawing.curves import probability_curves
from blurify.drawing.filters import filter_gallery
from blurify.drawing.heat import heat_maps
from blurify.drawing.toy import toy_pools, toy_signal
from blurify.drawing.trade_off import trade_off
from blurify.errors import ArgumentError
from blurify.filters import Filter, binomial_taps
from blurify.measure.equivariance import Deviation
from blurify.measure.estimate import Estimate
from tests.drawing.conftest import check_layout, colored, texts


def deviation(stride: int, before: float, after: float) -> Deviation:
    shifts = tuple(range(0, stride + 1, max(1, stride // 8)))
    values = torch.tensor([before, after], dtype=torch.float64)[None, :, None, None]
    return Deviation((stride, stride), (shifts, shifts), values.expand(1, 2, len(shifts), len(shifts)))


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_heat_maps(count: int, names: list[str]) -> None:
    figure = heat_maps({name: deviation(2 ** (i % 5 + 1), 0.25, 0.03125) for i, name in enumerate(names[:count])})
    check_layout(figure)
    shown = [text for text, _ in texts(figure)]
    assert shown.count("mean 0.25") == shown.count("mean 0.031") == count
    assert sum("stride 4" in text for text in shown) == sum(i % 5 == 1 for i in range(count))
    images = [axes.get_images()[0] for axes in figure.axes]
    assert len(images) == 2 * count
    # Before and after have one scale.
    assert {image.get_clim() for image in images} == {(0, 0.25)}


def test_heat_maps_of_what_never_deviates() -> None:
    check_layout(heat_maps({"a": deviation(2, 0, 0)}))
    with pytest.raises(ArgumentError, match="no deviations"):
        heat_maps({})


@pytest.mark.parametrize("count", [1, 3, 9])
def test_folded_chart(count: int, names: list[str]) -> None:
    shares = {name: torch.rand(5, 2).double() * torch.tensor([0.5, 0.1]) for name in names[:count]}
    figure = folded_chart(shares, caption="Five images.")
    check_layout(figure)
    bars = figure.axes[0].patches
    means = [100 * float(values[:, column].mean()) for column in (0, 1) for values in shares.values()]
    assert [bar.get_width() for bar in bars] == pytest.approx(means)
    assert colored(figure, BEFORE) > 100
    assert colored(figure, AFTER) > 20


def test_a_chart_of_nothing() -> None:
    check_layout(folded_chart({"a": torch.zeros(1, 2)}))
    with pytest.raises(ArgumentError, match="no shares"):
        folded_chart({})


def test_the_toy_of_the_paper() -> None:
    signal = torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1])
    for shift, plain, smooth in ((0, [0, 1, 0, 1], [0.5, 1, 0.5, 1]), (1, [1, 1, 1, 1], [0.75] * 4)):
        _, pooled, _, blurred = toy_pools(signal.roll(shift), 3)
        assert (pooled.tolist(), blurred.tolist()) == (plain, smooth)
    figure = toy_signal()
    check_layout(figure)
    assert [text for text, _ in texts(figure)].count("0.75") == 4


@pytest.mark.parametrize("filt_size", [1, 2, 3, 4, 5])
def test_the_toy_blurs_as_the_layer_does(filt_size: int) -> None:
    from blurify.layers import BlurPool1d

    signal = torch.rand(10)
    dense, _, _, smooth = toy_pools(signal, filt_size)
    layer = BlurPool1d(None, filt_size=filt_size, stride=2, pad_type="circular")
    torch.testing.assert_close(smooth, layer(dense[None, None])[0, 0])
    check_layout(toy_signal(signal.tolist(), filt_size))


def test_a_toy_that_is_none() -> None:
    for signal, size in (([0.0, 1, 2], 3), ([0.0, 1], 3), ([], 1)):
        with pytest.raises(ArgumentError, match="signal must have an even number of values, at least as many as"):
            toy_signal(signal, size)


@pytest.mark.parametrize(("sizes", "stride"), [((1, 2, 3, 4, 5, 6, 7), 2), ((4,), 2), ((1, 5), 3)])
def test_filter_gallery(sizes: tuple[int, ...], stride: int) -> None:
    figure = filter_gallery([Filter("binomial", size) for size in sizes], stride)
    check_layout(figure)
    heights = [bar.get_height() for axes in figure.axes[: len(sizes)] for bar in axes.patches]
    assert heights == [tap for size in sizes for tap in binomial_taps(size)]


def test_a_gallery_of_families_has_the_taps_of_each() -> None:
    shown = [Filter("binomial", 3), Filter("halfband"), Filter.of_taps(1, 3, 1)]
    figure = filter_gallery(shown)
    check_layout(figure)
    heights = [bar.get_height() for axes in figure.axes[:3] for bar in axes.patches]
    assert heights == [tap for each in shown for tap in each.taps(2)]


def test_a_gallery_of_nothing() -> None:
    for filters, stride in (((), 2), ((Filter(),), 1)):
        with pytest.raises(ArgumentError, match="filters must not be empty and stride must be 2 or more"):
            filter_gallery(filters, stride)


@pytest.mark.parametrize(("count", "shifts"), [(1, 9), (4, 33), (9, 33)])
def test_probability_curves(count: int, shifts: int, names: list[str]) -> None:
    before, after = torch.rand(count, shifts), torch.rand(count, shifts)
    figure = probability_curves(before, after, names[:count], caption="Of the digits")
    check_layout(figure)
    drawn = [list(line.get_ydata()) for axes in figure.axes for line in axes.lines]
    torch.testing.assert_close(Tensor(drawn), torch.stack([before, after], dim=1).reshape(-1, shifts))


def test_curves_that_do_not_go_together() -> None:
    with pytest.raises(ArgumentError, match=r"of one shape \[N, shifts\], with N names; got \[2, 9\], \[2, 8\] and 2"):
        probability_curves(torch.rand(2, 9), torch.rand(2, 8), ["a", "b"])
    with pytest.raises(ArgumentError, match=r"with N names; got .* and 0"):
        probability_curves(torch.rand(0, 9), torch.rand(0, 9), [])


def test_trade_off() -> None:
    agreed = [Estimate(100, 100, 100, 64), Estimate(96, 93, 98, 64), Estimate(70, 65, 76, 64)]
    steady = [Estimate(66, 60, 72, 64), Estimate(68, 62, 74, 64), Estimate(73, 68, 78, 64)]
    figure = trade_off([0, 0.25, 1], {"agreement": agreed, "consistency": steady}, 0.25, 95)
    check_layout(figure)
    (axes,) = figure.axes
    curves = [container.lines[0] for container in axes.containers]
    assert [list(curve.get_ydata()) for curve in curves] == [[100, 96, 70], [66, 68, 73]]
    assert all(list(curve.get_xdata()) == [0, 0.25, 1] for curve in curves)
    across, upright = axes.get_lines()[-2:]
    assert set(across.get_ydata()) == {95}
    assert set(upright.get_xdata()) == {0.25}
    assert min(colored(figure, BEFORE), colored(figure, AFTER)) > 100


def test_a_trade_off_of_nothing() -> None:
    with pytest.raises(ArgumentError, match="one estimate a strength"):
        trade_off([], {}, 0, 95)
    with pytest.raises(ArgumentError, match="one estimate a strength"):
        trade_off([0, 1], {"agreement": [Estimate(1, 1, 1, 1)]}, 0, 95)
