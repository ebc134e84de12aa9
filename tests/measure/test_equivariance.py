"""How far maps are from moving with the image, against networks of which that is known."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.measure.equivariance import OUTPUT, cosine_distance, shift_deviation, shifted
from blurify.measure.strides import cumulative_strides
from blurify.tracing import trace
from blurify.tracing.inputs import Inputs
from blurify.tracing.shapes import output_shapes
from tests.conftest import randomize_statistics


def small(*layers: nn.Module) -> nn.Module:
    return randomize_statistics(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *layers)).eval()


def test_a_plain_max_pool_moves_with_even_shifts_alone() -> None:
    found = shift_deviation(antialias(nn.Sequential(nn.MaxPool2d(2))), torch.rand(2, 3, 16, 16))
    maps = found["0"]
    assert (maps.stride, maps.shifts) == ((2, 2), ((0, 1, 2), (0, 1, 2)))
    assert maps.distance.shape == (2, 2, 3, 3)
    before, after = maps.distance[:, 0], maps.distance[:, 1]
    even = torch.tensor([True, False, True])
    assert bool((before[:, even][:, :, even] == 0).all())
    odd = ~(even[:, None] & even)
    assert bool((before[:, odd] > 1e-4).all())
    assert bool((after[:, odd] < before[:, odd] / 2).all())


def test_what_is_band_limited_moves_with_every_shift() -> None:
    # Waves of less than a quarter of a cycle a pixel pass an average and a stride of 2 with nothing folded.
    x = torch.arange(16) * 2 * torch.pi / 16
    picture = torch.stack([(x[:, None] * 2).cos() + x.cos(), (x[:, None] + x * 3).sin(), x.sin() + 0 * x[:, None]])
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2)).eval()
    distance = shift_deviation(antialias(model), picture[None])["1"].distance
    assert float(distance.max()) < 1e-10
    noise = shift_deviation(antialias(model), torch.randn(1, 3, 16, 16))["1"].distance
    assert float(noise.max()) > 1e-4


@pytest.mark.parametrize("shift", [(0, 0), (4, 8), (1, 0), (3, 5)])
@pytest.mark.parametrize("size", [7, 8])
def test_a_shifted_map_is_that_of_the_shifted_wave(shift: tuple[int, int], size: int) -> None:
    def wave(down: float, right: float) -> Tensor:
        y = (torch.arange(size)[:, None] - down) * 2 * torch.pi / size
        x = (torch.arange(size) - right) * 2 * torch.pi / size
        return ((2 * y).cos() * x.sin() + 0.5)[None]

    torch.testing.assert_close(shifted(wave(0, 0), shift, (4, 4)), wave(shift[0] / 4, shift[1] / 4))


def test_whole_positions_are_moved_exactly() -> None:
    features = torch.randn(2, 5, 6)
    assert torch.equal(shifted(features, (4, 6), (2, 3)), features.roll((2, 2), (1, 2)))
    assert torch.equal(shifted(features[:, 0], (1, 1), (2, 2)), features[:, 0])


def test_distances() -> None:
    a = torch.randn(4, 3, 3)
    assert cosine_distance(a, a) == 0
    assert cosine_distance(a, -2 * a) == pytest.approx(2)
    assert cosine_distance(torch.zeros(3), torch.zeros(3)) == 0
    b = torch.randn(4, 3, 3)
    cosine = nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
    assert cosine_distance(a, b) == pytest.approx(1 - float(cosine), rel=1e-9)


def test_every_site_of_a_network_deviates_less_than_before() -> None:
    model = randomize_statistics(torchvision.models.resnet18()).eval()
    smooth = antialias(model)
    modes = [module.training for module in smooth.modules()]
    found = shift_deviation(smooth, torch.randn(1, 3, 64, 64), shifts=2)
    assert list(found) == [*(decision.site for decision in smooth.meta["blurify"].rewritten), OUTPUT]
    assert [found[site].stride[0] for site in found] == [4, 8, 8, 16, 16, 32, 32, 32]
    for site, maps in found.items():
        before, after = maps.distance[0]
        assert before.shape == (3, 3), site
        assert float(before[0, 0]) == pytest.approx(0, abs=1e-10)
        assert float(after.mean()) < float(before.mean()) / 2, site
    # One period in the middle of two: what the first maps see there no border reaches, and the period's end is exact.
    assert float(found["maxpool"].distance[..., -1, -1].max()) == pytest.approx(0, abs=1e-10)
    assert [module.training for module in smooth.modules()] == modes


def test_a_long_period_is_spread_over_odd_and_even_shifts() -> None:
    smooth = antialias(small(nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(4)))
    found = shift_deviation(smooth, torch.rand(1, 3, 16, 16), shifts=4)
    spread = (0, 5, 8, 13, 16)
    assert [maps.shifts[0] for maps in found.values()] == [(0, 1, 2), (0, 1, 2, 3, 4), spread, spread]


def test_convs_without_padding_are_no_subsampling() -> None:
    model = torchvision.models.inception_v3(init_weights=False).eval()
    traced = trace(model)
    shapes = output_shapes(traced, Inputs((torch.zeros(1, 3, 299, 299),)))
    strides = cumulative_strides(traced.eval_graph, shapes)
    assert shapes["Mixed_6a.branch3x3.conv"][2:] == (17, 17)
    assert strides["Mixed_6a.branch3x3.conv"] == (16, 16)
    assert strides["Mixed_7a.max_pool2d"] == (32, 32)


def test_upsampling_takes_back_what_subsampling_did() -> None:
    model = small(nn.MaxPool2d(2), nn.MaxPool2d((1, 2)), nn.Upsample(scale_factor=2))
    shapes = output_shapes(trace(model), Inputs((torch.zeros(1, 3, 16, 16),)))
    strides = cumulative_strides(trace(model).eval_graph, shapes)
    assert [strides[path] for path in ("1", "2", "3", "4")] == [(1, 1), (2, 2), (2, 4), (1, 2)]


def test_what_cannot_be_measured_is_refused() -> None:
    smooth = antialias(small(nn.MaxPool2d(2), nn.MaxPool2d(2)))
    with pytest.raises(ArgumentTypeError, match=r"must be what blurify\.antialias returned, .*; got a Conv2d"):
        shift_deviation(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ArgumentError, match=r"of shape \[N, C, H, W\], one at least; got \(0, 3, 8, 8\)"):
        shift_deviation(smooth, torch.zeros(0, 3, 8, 8))
    with pytest.raises(ArgumentError, match="shifts must be at least 1, got 0"):
        shift_deviation(smooth, torch.zeros(1, 3, 8, 8), shifts=0)
    with pytest.raises(ArgumentError, match="10 x 8 are no whole number of the network's strides, which are 4 x 4"):
        shift_deviation(smooth, torch.zeros(1, 3, 10, 8))
    with pytest.raises(ArgumentError, match="map of 2 positions does not hold a period of 4; give a larger size"):
        shift_deviation(smooth, torch.zeros(1, 3, 8, 8), size=(4, 4))
