"""A fitted weight of a layer that computes its own is expressed exactly, or the layer says why it is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.models import nfnet
from torch import Tensor, nn
from torch.nn.utils import prune

import blurify
from blurify.graph.module import TracedModule
from blurify.recovery import fitting
from blurify.recovery.calls import LayerCall, Skip, find_calls
from blurify.recovery.fits import FitSettings, LayerFit
from blurify.recovery.normal import Fit
from blurify.recovery.recover import twins
from blurify.recovery.weights import making
from blurify.tracing.modes import evaluating
from tests.conftest import relative_error, run

Fits = list[tuple[LayerCall, Fit]]


@pytest.fixture
def fields() -> Tensor:
    """Smooth random fields."""
    coarse = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=48, mode="bicubic", align_corners=False)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    """Every fit that is written, as the solver has it."""
    kept: Fits = []
    write = fitting.write
    monkeypatch.setattr(fitting, "write", lambda call, fit: (kept.append((call, fit)), write(call, fit)))
    return kept


def old_weight_norm(layer: nn.Module, name: str = "weight") -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer, name)


def spread(layer: nn.Module) -> nn.Module:
    """The layer with gains that differ, as after training."""
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if name in ("gain", "weight_g"):
                value.mul_(torch.linspace(0.5, -2, len(value)).view_as(value))
    return layer


LAYERS = {
    "ScaledStdConv2d": lambda: ScaledStdConv2d(3, 5, 3),
    "ScaledStdConv2d in groups": lambda: ScaledStdConv2d(3, 6, 3, groups=3),
    "ScaledStdConv2dSame": lambda: ScaledStdConv2dSame(3, 5, 3, stride=2),
    "ScaledStdConv2dSame at stride 1": lambda: ScaledStdConv2dSame(3, 5, 3),
    "ScaledStdConv2dSame without padding": lambda: ScaledStdConv2dSame(3, 5, 3, padding=0),
    "weight_norm": lambda: old_weight_norm(nn.Conv2d(3, 5, 3)),
    "parametrized weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3)),
    "one norm for all": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3), dim=None),
    "a norm for each input": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3), dim=1),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_computes_what_was_fitted(make: Callable[[], nn.Module], fields: Tensor, fits: Fits) -> None:
    torch.manual_seed(0)
    layer = spread(make())
    original = nn.Sequential(nn.MaxPool2d(2), layer).eval()
    converted = blurify.antialias(original, 5)
    found = blurify.recover(original, converted, fields)
    ((_, fit),) = fits
    given = found.model.state_dict()
    plain = like(layer)
    with torch.no_grad():
        # As it was carried, and as it is now.
        plain.weight.copy_(carried(layer))
        plain.bias.copy_(layer.bias)
        alike = blurify.antialias(nn.Sequential(nn.MaxPool2d(2), plain).eval(), 5)
        assert relative_error(run(alike, fields), run(converted, fields)) < 1e-5
        alike.state_dict()["1.weight"].copy_(fit.weight.reshape(plain.weight.shape))
        alike.state_dict()["1.bias"].copy_(given["1.bias"])
    # timm takes mean and deviation off in float32.
    assert relative_error(run(alike, fields), run(found.model, fields)) < 1e-4
    assert relative_error(run(converted, fields), run(found.model, fields)) > 1e-2
    kept = {name: (value.dtype, value.shape) for name, value in original.state_dict().items()}
    assert {name: (value.dtype, value.shape) for name, value in given.items()} == kept


def like(layer: nn.Conv2d) -> nn.Conv2d:
    """A conv that slides as the layer does, with a weight of its own."""
    same = getattr(layer, "same_pad", False)
    settings = {"stride": layer.stride, "padding": 0 if same else layer.padding, "groups": layer.groups}
    return (Conv2dSame if same else nn.Conv2d)(layer.in_channels, layer.out_channels, layer.kernel_size, **settings)


def carried(layer: nn.Conv2d) -> Tensor:
    """What a layer multiplies with, by its answers to single pixels; it is of no use afterwards."""
    layer.stride, layer.padding, layer.same_pad = (1, 1), (0, 0), False
    _, width, *kernel = layer.weight.shape
    pixels = torch.eye(width * kernel[0] * kernel[1]).view(-1, width, *kernel).repeat(1, layer.groups, 1, 1)
    answers = run(layer, pixels) - layer.bias.detach().view(1, -1, 1, 1)
    return answers.flatten(1).T.reshape(layer.out_channels, width, *kernel)


@pytest.mark.parametrize("same", [False, True], ids=["traced into", "leaves"])
def test_every_layer_of_a_norm_free_network_is_fitted(same: bool, fields: Tensor) -> None:
    torch.manual_seed(0)
    settings = replace(nfnet.model_cfgs["test_nfnet"], same_padding=same)
    original = nfnet.NormFreeNet(settings, num_classes=10).eval()
    with torch.no_grad():
        for name, value in original.named_parameters():
            # What the residual branches start with leaves nothing to fit.
            if name.endswith("gain"):
                value.add_(0.5)
    teacher, student = twins(original, blurify.antialias(original, 4), fields)
    with evaluating(teacher), evaluating(student):
        fits, again = (fitted(teacher, student, fields) for _ in range(2))
    scaled = [name for name, module in original.named_modules() if type(module).__name__.startswith("Scaled")]
    found = {fit.layer.removesuffix(".conv2d"): fit for fit in fits}
    assert set(scaled) - set(found) == {f"stem.conv{number}" for number in (1, 2, 3, 4)}
    # Near the end 19 images of random fields need not tell anything.
    assert sum(found[name].after < found[name].before for name in scaled if name in found) >= 18
    # What the solver foresaw of the first layer is what it does, as it was written.
    assert (again[0].layer, again[0].before) == (fits[0].layer, pytest.approx(fits[0].after, rel=1e-4))


def fitted(teacher: TracedModule, student: TracedModule, pictures: Tensor) -> list[LayerFit]:
    """What one walk through both makes of every layer of the student; nothing is skipped."""
    refit = fitting.Refit(teacher, student, pictures, FitSettings())
    assert not refit.skipped
    return refit.run(lambda fit: None)


def skip_of(layer: nn.Module) -> object:
    model = nn.Sequential(nn.MaxPool2d(2), layer).eval()
    calls, skipped = find_calls(blurify.antialias(model, 3, form="graph"))
    return next(iter(skipped.values()), calls)


def test_what_cannot_be_expressed_says_why() -> None:
    twice = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3))
    nn.utils.parametrize.register_parametrization(twice, "weight", nn.Softplus())
    assert skip_of(StdConv2d(3, 3, 3)) is Skip.STANDARDISED
    assert skip_of(StdConv2dSame(3, 3, 3)) is Skip.STANDARDISED
    assert skip_of(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3))) is Skip.SPECTRAL
    assert skip_of(nn.utils.spectral_norm(nn.Conv2d(3, 3, 3))) is Skip.SPECTRAL
    assert skip_of(twice) is Skip.COMPUTED
    assert skip_of(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3), "bias", dim=None)) is Skip.COMPUTED
    assert skip_of(prune.random_unstructured(nn.Linear(3, 3), "weight", 1)) is Skip.COMPUTED


def test_a_weight_of_nothing_keeps_its_direction() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 1))
    normed = making(layer)
    wanted = torch.tensor([[1.0, 2, 3], [0, 0, 0]], dtype=torch.float64).view(2, 3, 1, 1)
    with torch.no_grad():
        normed.express(wanted)
    torch.testing.assert_close(layer.weight.detach().double(), wanted, rtol=1e-6, atol=0)


class CallsLinear(nn.Module):
    """A pool, and a linear layer that is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.body(x), self.weight, self.bias)


@pytest.mark.parametrize("exported", [False, True])
def test_a_linear_layer_that_is_called_as_a_function_is_fitted(exported: bool) -> None:
    model: nn.Module = CallsLinear().eval()
    if exported:
        model = torch.export.export(model, (torch.randn(2, 3, 16, 16),)).module()
    calls, skipped = find_calls(blurify.antialias(model, form="graph"))
    assert [tuple(call.weight.shape) for call in calls] == [(5, 4)]
    assert skipped == {}
