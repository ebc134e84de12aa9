"""What loses resolution in a form that no blur can mend is in the plan all the same, with its reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import DeformConv2d, deform_conv2d

from blurify import antialias, plan
from blurify.sites import Kind, Reason
from blurify.tracing.export import export_once
from blurify.tracing.inputs import Inputs
from tests.core.test_forms import Calls

Function = Callable[[Tensor, Any], Tensor]
aten = torch.ops.aten
KEPT: dict[str, tuple[Function, Kind, Reason]] = {
    "fractional": (lambda x, c: F.fractional_max_pool2d(x, 2, (4, 4)), Kind.MAX, Reason.RANDOM_WINDOWS),
    "fractional pair": (
        lambda x, c: F.fractional_max_pool2d(x, 2, (4, 4), return_indices=True)[0],
        Kind.MAX,
        Reason.RANDOM_WINDOWS,
    ),
    "fractional module": (lambda x, c: c.fractional(x), Kind.MAX, Reason.RANDOM_WINDOWS),
    "unshuffle": (lambda x, c: F.pixel_unshuffle(x, 2), Kind.UNFOLD, Reason.ALL_PHASES),
    "aten unshuffle": (lambda x, c: aten.pixel_unshuffle.default(x, 2), Kind.UNFOLD, Reason.ALL_PHASES),
    "unshuffle module": (lambda x, c: c.unshuffle(x), Kind.UNFOLD, Reason.ALL_PHASES),
    "unfold": (lambda x, c: F.unfold(x, 3, padding=1, stride=2), Kind.UNFOLD, Reason.ALL_PHASES),
    "unfold with gaps": (lambda x, c: F.unfold(x, (3, 2), stride=3), Kind.UNFOLD, Reason.GAPS),
    "unfold of one phase": (lambda x, c: F.unfold(x, 2, 2, stride=2), Kind.UNFOLD, Reason.GAPS),
    "unfold of dilated phases": (lambda x, c: F.unfold(x, 3, 2, stride=3), Kind.UNFOLD, Reason.ALL_PHASES),
    "unfold module": (lambda x, c: c.unfold(x), Kind.UNFOLD, Reason.ALL_PHASES),
    "aten unfold": (lambda x, c: aten.im2col.default(x, [1], [1], [0], [2]), Kind.UNFOLD, Reason.GAPS),
    "unfold along one": (lambda x, c: x.unfold(2, 2, 2), Kind.UNFOLD, Reason.ALL_PHASES),
    "unfold along one with gaps": (lambda x, c: x.unfold(-1, 2, step=3), Kind.UNFOLD, Reason.GAPS),
    "aten unfold along one": (lambda x, c: aten.unfold.default(x, 2, 1, 2), Kind.UNFOLD, Reason.GAPS),
    "unfold by a size": (lambda x, c: F.unfold(x, x.shape[1], stride=x.shape[1]), Kind.UNFOLD, Reason.DYNAMIC),
    "deformable": (lambda x, c: c.deformable(x, c.offset), Kind.CONV, Reason.OFFSETS),
}


def with_layers(function: Function) -> Calls:
    model = Calls(function)
    model.inner.add_module("fractional", nn.FractionalMaxPool2d(2, output_ratio=0.5))
    model.inner.add_module("unshuffle", nn.PixelUnshuffle(2))
    model.inner.add_module("unfold", nn.Unfold(2, stride=2))
    model.inner.add_module("deformable", DeformConv2d(4, 4, 3, stride=2))
    model.inner.register_buffer("offset", torch.zeros(2, 18, 8, 8))
    return model


@pytest.mark.parametrize("name", KEPT)
def test_kept_with_a_reason(name: str) -> None:
    function, kind, reason = KEPT[name]
    assert [(d.kind, d.reason) for d in plan(with_layers(function)).decisions] == [(kind, reason)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c: F.unfold(x, 3, padding=1),
        lambda x, c: x.unfold(2, 3, 1),
        lambda x, c: F.fold(F.unfold(x, 2), (17, 17), 2),
    ],
)
def test_what_keeps_every_position_is_no_site(function: Function) -> None:
    assert not plan(Calls(function)).decisions


class Deforms(nn.Module):
    """The function, called by its name, which is how the tracer learns not to look into it."""

    def __init__(self, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.stride = stride

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return deform_conv2d(self.stem(x), offset, self.weight, None, self.stride)


@pytest.mark.parametrize(("stride", "size"), [(2, (8, 8)), ((1, 2), (16, 8)), (1, (16, 16))])
def test_deformable_function_and_operator(stride: int | tuple[int, int], size: tuple[int, int]) -> None:
    model = Deforms(stride)
    inputs = (torch.randn(2, 3, 18, 18), torch.zeros(2, 18, *size))
    exported = export_once(model, Inputs(inputs, {}), strict=False)
    expected = [] if stride == 1 else [((stride, stride) if stride == 2 else stride, Reason.OFFSETS)]
    for form in (model, exported):
        assert [(d.stride, d.reason) for d in plan(form).decisions] == expected


def test_neither_timm_nor_torchvision_is_imported_to_look_at_a_model() -> None:
    program = (
        "import sys, blurify; from torch import nn\n"
        "model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2), nn.Unfold(2, stride=2))\n"
        "assert len(blurify.plan(model).decisions) == 2\n"
        "print([name for name in ('timm', 'torchvision') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


class Skips(nn.Module):
    """A pooling that somebody's own tracer keeps whole."""

    def __init__(self, stride: int | tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride] if isinstance(self.stride, int) else F.max_pool2d(x, self.stride)


class KeepsWhole(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (Skips, nn.MultiheadAttention)) or super().is_leaf_module(m, module_qualified_name)


def traced_whole(*layers: nn.Module) -> fx.GraphModule:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers)
    return fx.GraphModule(model, KeepsWhole().trace(model))


@pytest.mark.parametrize(("stride", "axes"), [(2, (2,)), ((1, 2), (1, 2))])
def test_a_leaf_with_a_stride_of_its_own_is_opaque(stride: int | tuple[int, ...], axes: tuple[int, ...]) -> None:
    (decision,) = plan(traced_whole(Skips(stride), nn.ReLU(), nn.Conv2d(4, 4, 1))).decisions
    assert (decision.site, decision.kind, decision.reason) == ("1", Kind.OPAQUE, Reason.OPAQUE)
    assert decision.stride == axes
    assert decision.detail == "Skips has a stride of its own"


def test_leaves_that_do_not_shrink_are_not_opaque() -> None:
    leaves = (Skips(1), nn.Unfold(2), nn.Fold((36, 36), 2, stride=1), nn.MaxPool2d(3, 1))
    model = traced_whole(*leaves)
    assert not plan(model).decisions
    assert not plan(traced_whole(nn.Fold(8, 2, stride=2))).decisions
    converted = antialias(traced_whole(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2), nn.AvgPool2d(2)))
    assert {d.kind for d in plan(converted).decisions} == {Kind.BLUR}
