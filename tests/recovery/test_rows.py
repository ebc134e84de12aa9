"""A fitted layer's rows are what the layer itself multiplies, for every kind of conv."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from blurify.recovery.calls import LayerCall, Skip, recognise
from blurify.recovery.fitting import as_rows
from blurify.recovery.patches import sample_rows
from blurify.tracing import trace

CONVS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (4, 11)),
    "conv2d stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 9, 10)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, padding=(2, 1)), (4, 9, 10)),
    "groups": (nn.Conv2d(4, 6, (3, 5), groups=2, padding="same"), (4, 9, 10)),
    "depthwise": (nn.Conv2d(4, 8, 4, groups=4, padding=1, bias=False), (4, 9, 10)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 9, 10)),
    "circular": (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (4, 9, 10)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (4, 9, 10)),
    "conv3d": (nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1)), (4, 3, 5, 6)),
    "tensorflow's same": (Conv2dSame(4, 6, 3, stride=2), (4, 9, 10)),
    "linear": (nn.Linear(7, 3), (7,)),
    "linear on tokens": (nn.Linear(7, 3), (5, 7)),
}


@pytest.mark.parametrize(("layer", "size"), CONVS.values(), ids=CONVS)
@pytest.mark.parametrize("count", [3, 10_000], ids=["sampled", "all"])
def test_rows_times_weight_are_the_outputs(layer: nn.Module, size: tuple[int, ...], count: int) -> None:
    x = torch.randn(2, *size)
    call = only_call(layer)
    y = layer(x).detach()
    rows, wanted = sample_rows(x, y, call.geometry, count, torch.Generator().manual_seed(0))
    bias = torch.zeros(as_rows(call).shape[:2]) if layer.bias is None else layer.bias.reshape(as_rows(call).shape[:2])
    given = rows.double() @ as_rows(call).mT + bias[:, None].double()
    torch.testing.assert_close(given, wanted.double(), atol=1e-5, rtol=1e-5)


def only_call(layer: nn.Module) -> LayerCall:
    traced = trace(nn.Sequential(layer))
    node = next(n for n in traced.eval_graph.nodes if n.op == "call_module")
    call = recognise(node, traced)
    assert isinstance(call, LayerCall)
    return call


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 2, 3, 3))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, 2, padding=1, groups=2)


def test_a_functional_conv_is_a_call() -> None:
    model = Functional()
    traced = trace(model)
    (call,) = [c for c in (recognise(n, traced) for n in traced.eval_graph.nodes) if isinstance(c, LayerCall)]
    assert call.weight is model.weight
    assert call.bias is model.bias
    assert (call.geometry.stride, call.geometry.padding, call.geometry.groups) == ((2, 2), (1, 1), 2)


def skip_of(layer: nn.Module) -> object:
    traced = trace(nn.Sequential(layer))
    found = (recognise(node, traced) for node in traced.eval_graph.nodes)
    return next((each for each in found if each is not None), None)


def test_what_cannot_be_fitted_says_why() -> None:
    assert skip_of(nn.ConvTranspose2d(3, 3, 2)) is Skip.TRANSPOSED
    assert skip_of(nn.ReLU()) is None
