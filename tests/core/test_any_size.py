"""One export takes sizes of every kind: nothing depends for good on whether the first was odd or even."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.export import Dim

from blurify import antialias
from blurify.layers import AvgBlurPool2d, BlurPool2d, DenseMaxPool2d, LpBlurPool2d, MaxBlurPool2d, SameBlurPool2d
from tests.conftest import randomize_statistics

LAYERS: dict[str, nn.Module] = {
    "blur": BlurPool2d(None),
    "dense max": DenseMaxPool2d(3, 2, 1),
    "dense max, ceil": DenseMaxPool2d(3, 2, 0, 1, True),
    "max, ceil": MaxBlurPool2d(2, 2, 0, 1, True, filt_size=3),
    "average": AvgBlurPool2d(2, 2),
    "average, ceil": AvgBlurPool2d(2, 2, ceil_mode=True),
    "average, ceil, stride 3": AvgBlurPool2d(3, 3, 1, ceil_mode=True),
    "wide average, ceil": AvgBlurPool2d(5, 2, 2, ceil_mode=True, count_include_pad=False),
    "powers": LpBlurPool2d(2, 3, 2),
    **{f"same, k={k} f={f}": SameBlurPool2d(k, 2, filt_size=f) for k in (1, 3, 5) for f in (2, 3, 4)},
    "same, dilated, stride 3": SameBlurPool2d(3, 3, 2, filt_size=5),
}


def any_size(least: int) -> tuple[dict[int, Dim], ...]:
    return ({0: Dim("n", min=1, max=64), 2: Dim("h", min=least, max=512), 3: Dim("w", min=least, max=512)},)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    layer = LAYERS[name]
    exported = torch.export.export(layer, (torch.randn(2, 4, 20, 22),), dynamic_shapes=any_size(9)).module()
    for size in ((9, 9), (20, 21), (33, 40), (64, 63), (10, 11), (24, 18)):
        x = torch.randn(3, 4, *size)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_network_with_ceil_mode() -> None:
    # PyTorch's own pools take one parity for good, so that the original cannot be exported so.
    model = antialias(randomize_statistics(torchvision.models.squeezenet1_1()).eval())
    with torch.no_grad():
        exported = torch.export.export(model, (torch.randn(2, 3, 96, 100),), dynamic_shapes=any_size(64)).module()
        for size in ((96, 97), (65, 80), (131, 64)):
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 9), (20, 21), (33, 40)])
def test_what_is_exported_for_one_size_is_the_same(size: tuple[int, int]) -> None:
    for name, layer in LAYERS.items():
        x = torch.randn(2, 4, *size)
        exported = torch.export.export(layer, (x,)).module()
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


class ChannelsBehind(nn.Module):
    """Maps `(N, H, W, C)`, of which every second position is kept, as LeViT does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, ::2, ::2]


def test_maps_whose_channels_come_last_export_for_any_batch_with_a_fixed_number_of_groups() -> None:
    model = antialias(ChannelsBehind(), example_inputs=(torch.rand(2, 8, 8, 6),))
    dynamic = ({0: Dim.DYNAMIC},)
    program = torch.export.export(model, (torch.rand(2, 8, 8, 6),), dynamic_shapes=dynamic)
    groups = [node.args[6] for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert groups == [6]
    x = torch.rand(5, 8, 8, 6)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)
