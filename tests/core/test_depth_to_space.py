"""Channels moved between positions raise the resolution; maxima that are put back by their indices are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.sites import Kind, Reason
from tests.core.test_forms import Calls

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SHUFFLE = nn.PixelShuffle(2)


def by_hand(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, h * 2, w * 2)


def by_flattening(x: Tensor) -> Tensor:
    return x.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)


UPSAMPLINGS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "module": lambda x, c: SHUFFLE(x),
    "function": lambda x, c: F.pixel_shuffle(x, 2),
    "by keyword": lambda x, c: torch.pixel_shuffle(x, upscale_factor=2),
    "aten": lambda x, c: torch.ops.aten.pixel_shuffle.default(x, 2),
    "by hand": lambda x, c: by_hand(x),
}


def with_layer(function: Callable[[Tensor, Any], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), SHUFFLE) if function is UPSAMPLINGS["module"] else Calls(function)


@pytest.mark.parametrize("name", UPSAMPLINGS)
@pytest.mark.parametrize("exported", [False, True])
def test_every_form_is_blurred_on_request(name: str, exported: bool) -> None:
    model: nn.Module = with_layer(UPSAMPLINGS[name]).eval()
    model = torch.export.export(model, (EXAMPLE,)).module() if exported else model
    assert [d.reason for d in plan(model, example_inputs=EXAMPLE).decisions] == [Reason.UPSAMPLING]
    converted = antialias(model, 3, upsample=True, form="graph", example_inputs=EXAMPLE)
    (decision,) = converted.meta["blurify"].rewritten
    assert (decision.kind, decision.stride) == (Kind.UPSAMPLE, (2, 2))
    from blurify.layers import BlurPool2d

    torch.testing.assert_close(converted(EXAMPLE), BlurPool2d(filt_size=3, stride=1)(model(EXAMPLE)))
    assert verify(model, converted, example_inputs=EXAMPLE).ok
    again = plan(converted, upsample=True, example_inputs=EXAMPLE)
    assert {d.reason for d in again.decisions} <= {Reason.ALREADY_ANTIALIASED}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convs_that_are_functions(axes: int) -> None:
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
    model = Calls(lambda x, c: function(x, c.weight, stride=2), axes)
    (decision,) = plan(model, upsample=True, example_inputs=torch.zeros((1, 3) + (8,) * axes)).decisions
    assert (decision.kind, decision.stride, decision.reason) == (Kind.UPSAMPLE, (2,) * axes, None)


def test_a_blurred_shuffle_is_left_alone() -> None:
    """As fastai has it: a pad, and an average of two at stride 1."""
    blurred = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, 1)
    )
    made = plan(blurred, upsample=True, example_inputs=EXAMPLE)
    assert [d.reason for d in made.decisions] == [Reason.ALREADY_ANTIALIASED]


INNOCENT: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "tokens": lambda x, c: x.flatten(2).transpose(1, 2),
    "groups": lambda x, c: x.view(2, 2, 2, 8, 8).transpose(1, 2).reshape(2, 4, 8, 8),
    "windows and back": lambda x, c: x.view(2, 4, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(8, 4, 4, 4),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_other_reshapes_are_none(name: str) -> None:
    assert not plan(Calls(INNOCENT[name]), upsample=True, example_inputs=EXAMPLE).decisions
