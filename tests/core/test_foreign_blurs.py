"""What others blurred is not blurred twice: a fixed low-pass at stride 1 before an op that strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import Module

from blurify import plan
from blurify.sites import Action, Reason

TRIANGLE = torch.tensor([1.0, 2, 1]) / 4
FOUR = torch.tensor([1.0, 3, 3, 1]) / 8
NEGATIVE = torch.tensor([-1.0, 2, 6, 2, -1]) / 8


def square(line: Tensor, channels: int = 4) -> Tensor:
    return (line[:, None] * line[None, :]).repeat(channels, 1, 1, 1)


class Blurs(nn.Module):
    """A stem, then a function of its output, with a conv and a stored filter beside it."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor], taps: Tensor) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 8, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.register_buffer("blur_filter", taps)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.stem(x), self)


def blurred(x: Tensor, m: Any, padding: int = 1) -> Tensor:
    return F.conv2d(x, m.blur_filter, stride=1, padding=padding, groups=4)


def upfirdn(x: Tensor, m: Any) -> Tensor:
    """The reference way of StyleGAN2: pad, crop, filter by an outer product, slice."""
    x = F.pad(x, [1, 2, 1, 2])[:, :, 0:, 0:]
    taps = (m.blur_filter[:, None] * m.blur_filter[None, :]).flip([0, 1])
    return F.conv2d(x, taps[None, None].repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])[:, :, ::2, ::2]


def of_one_channel(x: Tensor, m: Any) -> Tensor:
    n, c, h, w = x.shape
    y = F.conv2d(F.pad(x.reshape(n * c, 1, h, w), (1, 2, 1, 2), mode="reflect"), m.blur_filter[:1])
    return m.conv(y.reshape(n, c, h, w))


def by_axes(x: Tensor, m: Any) -> Tensor:
    down = m.blur_filter.view(1, 1, -1, 1).expand(4, 1, -1, 1)
    across = m.blur_filter.view(1, 1, 1, -1).expand(4, 1, 1, -1)
    return m.conv(F.conv2d(F.conv2d(x, down, padding=(1, 0), groups=4), across, padding=(0, 1), groups=4))


KEPT: dict[str, tuple[Callable[[Tensor, Any], Tensor], Tensor]] = {
    "before a conv": (lambda x, m: m.conv(blurred(x, m)), square(TRIANGLE)),
    "before a conv that is a function": (
        lambda x, m: F.conv2d(blurred(x, m), m.conv.weight, None, 2, 1),
        square(TRIANGLE),
    ),
    "before a pool": (lambda x, m: m.pool(blurred(x, m)), square(TRIANGLE)),
    "before an average": (lambda x, m: F.avg_pool2d(blurred(x, m), 2), square(TRIANGLE)),
    "before a slice": (lambda x, m: blurred(x, m)[:, :, ::2, ::2], square(TRIANGLE)),
    "before a resize": (lambda x, m: F.interpolate(blurred(x, m), scale_factor=0.5), square(TRIANGLE)),
    "negative taps": (lambda x, m: m.conv(blurred(x, m, 2)), square(NEGATIVE)),
    "repeated at every call": (
        lambda x, m: m.conv(F.conv2d(x, m.blur_filter.repeat(4, 1, 1, 1), padding=1, groups=4)),
        square(TRIANGLE, 1),
    ),
    "an outer product": (upfirdn, FOUR),
    "channels in the batch": (of_one_channel, square(FOUR)),
    "one axis, then the other": (by_axes, TRIANGLE),
}
EXAMPLE = torch.zeros(2, 3, 16, 16)


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("exported", [False, True])
def test_a_blur_before_the_stride_is_seen(name: str, exported: bool) -> None:
    model: Module = Blurs(*KEPT[name])
    if exported:
        model = torch.export.export(model, (EXAMPLE,)).module()
    made = plan(model, example_inputs=EXAMPLE)
    assert [d.reason for d in made.decisions] == [Reason.ALREADY_ANTIALIASED], made


REWRITTEN: dict[str, tuple[Callable[[Tensor, Any], Tensor], Tensor]] = {
    "almost no blur": (lambda x, m: m.conv(blurred(x, m)), square(torch.tensor([0.1, 0.8, 0.1]))),
    "another sum": (lambda x, m: m.conv(blurred(x, m)), 2 * square(TRIANGLE)),
    "a derivative": (lambda x, m: m.conv(blurred(x, m)), square(torch.tensor([-1.0, 0, 1]))),
    "channels of their own": (
        lambda x, m: m.conv(blurred(x, m)),
        torch.cat([square(TRIANGLE, 3), square(torch.tensor([0.0, 1, 0]), 1)]),
    ),
    "one axis alone": (lambda x, m: m.conv(blurred(x, m)), torch.diag(torch.tensor([0.0, 1, 0])).repeat(4, 1, 1, 1)),
    "an activation between": (lambda x, m: m.conv(blurred(x, m).relu()), square(TRIANGLE)),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_is_no_blur_is_blurred(name: str) -> None:
    made = plan(Blurs(*REWRITTEN[name]), example_inputs=EXAMPLE)
    assert [d.action for d in made.decisions] == [Action.REWRITE], made


def test_a_frozen_layer_is_one() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, padding_mode="reflect")
    layer.weight.data = square(TRIANGLE)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3, 2))
    assert [d.action for d in plan(model).decisions] == [Action.REWRITE]
    layer.requires_grad_(False)
    assert [d.reason for d in plan(model).decisions] == [Reason.ALREADY_ANTIALIASED]


def test_a_blur_after_upsampling_is_seen() -> None:
    grows = Blurs(lambda x, m: blurred(F.interpolate(x, scale_factor=2), m), square(TRIANGLE))
    assert [d.reason for d in plan(grows, upsample=True).decisions] == [Reason.ALREADY_ANTIALIASED]
