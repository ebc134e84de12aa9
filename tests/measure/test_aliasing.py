"""The share of energy that a site folds back, against what the arithmetic of cosines and filters says."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.layers import AdaptiveAvgBlurPool2d, AdaptiveMaxBlurPool2d, AvgBlurPool2d, BlurPool2d, LpBlurPool2d
from blurify.measure.aliasing import folded_energy, folded_share, not_run, response, site_share
from tests.conftest import randomize_statistics, tiered


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


@pytest.mark.parametrize("name", tiered(["resnet18", "densenet121", "mobilenet_v2"], "resnet18", "mobilenet_v2"))
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
    with pytest.raises(ArgumentError, match="There are no images"):
        folded_energy(smooth, torch.zeros(0, 3, 8, 8))


class Resized(nn.Module):
    """A resize that shrinks, by half or by a third."""

    def __init__(self, factor: float, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=self.factor, mode=self.mode)


class Sliced(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2]


@pytest.mark.parametrize(
    "last",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, 2),
        Sliced(),
        nn.LPPool2d(2, 2),
        nn.LPPool2d(float("inf"), 3, 2),
        nn.AdaptiveAvgPool2d(8),
        nn.AdaptiveMaxPool2d((8, 16)),
        Resized(0.5, "bilinear"),
        Resized(0.3, "nearest"),
        nn.ConvTranspose2d(8, 4, 4, 2, 1),
        nn.Upsample(scale_factor=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["auto", "graph"])
def test_every_rewritten_site_is_covered_whatever_its_layer(last: nn.Module, form: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), last).eval()
    smooth = antialias(model, 3, form=form, upsample=True, example_inputs=torch.randn(1, 3, 32, 32))
    found = folded_energy(smooth, torch.randn(2, 3, 32, 32))
    sites = [decision.site for decision in smooth.meta["blurify"].rewritten]
    assert list(found) == sites
    assert sites
    assert not_run(smooth, found) == ()
    for shares in found.values():
        assert shares.shape == (2, 2)
        assert bool(((shares >= 0) & (shares < 1)).all())
        assert bool((shares[:, 1] <= shares[:, 0]).all())


def test_an_adaptive_pool_is_covered_where_it_does_not_blur() -> None:
    for pool in (nn.AdaptiveAvgPool2d(8), nn.AdaptiveMaxPool2d(8)):
        smooth = antialias(nn.Sequential(pool), example_inputs=torch.randn(1, 3, 32, 32))
        (shares,) = folded_energy(smooth, torch.randn(2, 3, 36, 36)).values()
        assert bool((shares > 0).all())
        torch.testing.assert_close(shares[:, 0], shares[:, 1])


@pytest.mark.parametrize("filt_size", [1, 3])
def test_other_layers_fold_what_the_pools_in_their_place_do(filt_size: int) -> None:
    x = torch.rand(2, 3, 32, 32) + 1
    plain, average = BlurPool2d(None, filt_size=filt_size), AvgBlurPool2d(2, 2, filt_size=filt_size)
    dense = nn.functional.max_pool2d(x, 2, 1)
    cases: list[tuple[nn.Module, Tensor, Any]] = [
        (LpBlurPool2d(2, 2, filt_size=filt_size), x.square(), average),
        (LpBlurPool2d(float("inf"), 2, filt_size=filt_size), dense, plain),
        (AdaptiveAvgBlurPool2d(16, filt_size=filt_size), x, average),
        (AdaptiveMaxBlurPool2d(16, filt_size=filt_size), dense, plain),
    ]
    for layer, fed, pool in cases:
        torch.testing.assert_close(site_share(x, layer, layer), folded_share(fed, pool))


@pytest.mark.parametrize(("cycles", "filt_size"), [(3, 1), (12, 1), (12, 4), (9, 3)])
def test_a_layer_of_no_known_family_is_tried(cycles: int, filt_size: int) -> None:
    blur, x = BlurPool2d(None, "circular", filt_size), waves((1.0, 5), (0.7, cycles))
    unknown = nn.Sequential(blur)
    torch.testing.assert_close(site_share(x, unknown, unknown), folded_share(x, blur), rtol=1e-6, atol=1e-9)


def test_sites_that_evaluation_does_not_run_are_named() -> None:
    model = randomize_statistics(torchvision.models.googlenet(init_weights=False)).train()
    smooth = antialias(model, include=["aux1.*", "maxpool1"], stem=False, example_inputs=torch.randn(2, 3, 224, 224))
    rewritten = {decision.site for decision in smooth.meta["blurify"].rewritten}
    found = folded_energy(smooth, torch.randn(1, 3, 64, 64))
    assert set(found) | set(not_run(smooth, found)) == rewritten
