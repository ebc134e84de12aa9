"""The share of energy that a site folds back, against what the arithmetic of cosines and filters says."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch
import torchvision
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.layers import AvgBlurPool2d, BlurPool2d
from blurify.measure.aliasing import folded_energy, folded_share, response
from tests.conftest import randomize_statistics


def waves(*parts: tuple[float, int], size: int = 32) -> Tensor:
    """A row map that is a sum of cosines: amplitude, and cycles in the whole width; and a mean."""
    x = torch.arange(size, dtype=torch.float64)
    row = 3 + sum(a * torch.cos(2 * pi * cycles * x / size) for a, cycles in parts)
    return row.expand(1, 2, size, size).contiguous()


@pytest.mark.parametrize("filt_size", [1, 2, 3, 4, 5])
def test_two_cosines(filt_size: int) -> None:
    # At stride 2 the limit is a quarter of a cycle a position: 8 of 32.
    high = 0.25 * cos(pi * 12 / 32) ** (2 * (filt_size - 1))
    low = 1.0 * cos(pi * 3 / 32) ** (2 * (filt_size - 1))
    share = folded_share(waves((1.0, 3), (0.5, 12)), BlurPool2d(None, filt_size=filt_size))
    assert share.tolist() == pytest.approx([high / (high + low)], rel=1e-12)


def test_what_lies_at_the_limit_is_kept_and_what_lies_above_is_not() -> None:
    blur = BlurPool2d(None, filt_size=1)
    assert folded_share(waves((1.0, 8)), blur).tolist() == pytest.approx([0.0], abs=1e-20)
    assert folded_share(waves((1.0, 9)), blur).tolist() == pytest.approx([1.0])
    # Of an axis that is not subsampled nothing is folded.
    assert folded_share(waves((1.0, 9)), BlurPool2d(None, filt_size=1, stride=(2, 1))).tolist() == pytest.approx([0])
    assert folded_share(waves((1.0, 9)), BlurPool2d(None, filt_size=1, stride=(1, 2))).tolist() == pytest.approx([1])


def test_a_flat_map_folds_nothing() -> None:
    assert folded_share(torch.ones(2, 3, 8, 8), BlurPool2d(None)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("filt_size", [1, 2, 3, 4, 7])
def test_responses_are_those_of_the_filters(filt_size: int) -> None:
    size = 24
    for layer, box in ((BlurPool2d(None, filt_size=filt_size), 1), (AvgBlurPool2d(3, 2, filt_size=filt_size), 3)):
        taps = layer.filt[0, 0].double().sum(0)
        kernel = torch.zeros(size, dtype=torch.float64)
        kernel[: len(taps)] = taps
        expected = torch.fft.fft(kernel).abs()
        if box > filt_size:
            window = torch.zeros(size, dtype=torch.float64)
            window[:box] = 1 / box
            expected = expected * torch.fft.fft(window).abs()
        found = response(layer, torch.Size([size, size]))
        torch.testing.assert_close(found, expected[:, None] * expected, rtol=1e-6, atol=1e-7)


def test_white_noise_loses_three_quarters() -> None:
    share = folded_share(torch.randn(1, 4, 128, 128), BlurPool2d(None, filt_size=1))
    assert share.tolist() == pytest.approx([0.75], abs=0.02)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_every_site_of_a_network_folds_less_than_before(name: str) -> None:
    model = randomize_statistics(getattr(torchvision.models, name)()).eval()
    smooth = antialias(model)
    pictures = torch.randn(3, 3, 65, 64)
    found = folded_energy(smooth, pictures, batch_size=2)
    assert set(found) == {decision.site for decision in smooth.meta["blurify"].rewritten}
    for site, shares in found.items():
        assert shares.shape == (3, 2), site
        assert bool((shares[:, 1] < shares[:, 0] / 2).all()), site
    one = folded_energy(smooth, pictures[2:])
    for site, shares in found.items():
        torch.testing.assert_close(one[site], shares[2:], rtol=1e-4, atol=1e-6)


def test_before_is_what_the_original_computes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        dense = nn.functional.max_pool2d(model[1](model[0](pictures)), 2, 1)
    found = folded_energy(antialias(model), pictures)["2"]
    torch.testing.assert_close(found[:, 0], folded_share(dense, BlurPool2d(None, filt_size=1)), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[:, 1], folded_share(dense, BlurPool2d(None)), rtol=1e-6, atol=1e-9)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be what blurify\.antialias returned, .*; got a Conv2d"):
        folded_energy(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8))
    smooth = antialias(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)))
    with pytest.raises(ArgumentError, match="there are no pictures"):
        folded_energy(smooth, torch.zeros(0, 3, 8, 8))
