"""The blur goes after non-linearity and norm, however these are written, and before all that mixes positions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.errors import PlanError
from blurify.layers import BlurPool2d
from blurify.planning.plan import Plan
from blurify.tracing.export import export_once
from blurify.tracing.inputs import Inputs
from tests.conftest import randomize_statistics

Form = Callable[..., Tensor]


class Block(nn.Module):
    """A strided conv, a norm and any function of the map and the block's own weights."""

    def __init__(self, form: Form, stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride, 1)
        self.norm = randomize_statistics(nn.BatchNorm2d(8))
        self.w = nn.Parameter(torch.rand(8) + 0.5)
        self.b = nn.Parameter(torch.rand(8))
        self.one = nn.Parameter(torch.rand(1) + 0.5)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.form(x) if isinstance(self.form, nn.Module) else self.form(x, self)

    def by_hand(self, x: Tensor, size: int = 4) -> Tensor:
        """What an expert would write: the dense conv, norm and form, then the blur."""
        dense = copy.deepcopy(self)
        dense.conv.stride = (1, 1)
        return BlurPool2d(None, filt_size=size, stride=2)(dense(x))


class Network(nn.Module):
    """A stem and blocks side by side."""

    def __init__(self, forms: dict[str, Form]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.ModuleDict({name: Block(form) for name, form in forms.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return {name: block(x) for name, block in self.blocks.items()}

    def by_hand(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return {name: block.by_hand(x) for name, block in self.blocks.items()}


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2, 1)
    return a, b


def in_place(x: Tensor, gate: Tensor) -> Tensor:
    x *= gate
    return x


def layer_norm(x: Tensor, m: Any) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * m.w[:, None, None] + m.b[:, None, None]


def shuffled(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def softmax(x: Tensor) -> Tensor:
    e = (x - x.amax(1, keepdim=True)).exp()
    return e / e.sum(dim=1, keepdim=True)


def masked(x: Tensor) -> Tensor:
    mask = x > 0
    return mask * x + ~mask * x * 0.1


class Statement(nn.Module):
    """Calls modules that change the map in place, and drops what they give."""

    def __init__(self, changes: list[nn.Module]) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.changes = nn.ModuleList(changes)
        self.blurs: Any = ()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for change in self.changes:
            change(x)
        for blur in self.blurs:
            x = blur(x)
        return self.after(x) + x.mean()


class Zeroing(nn.Module):
    """Changes its input in place, and gives it back."""

    def forward(self, x: Tensor) -> Tensor:
        x[x < 0] = 0
        return x


@pytest.mark.parametrize("changes", [[nn.ReLU(True)], [nn.Hardtanh(inplace=True), nn.SiLU(True)], [Zeroing()]])
@pytest.mark.parametrize("form", ["class", "graph"])
def test_what_a_module_changes_in_place_is_blurred_after(changes: list[nn.Module], form: Any) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), Statement(changes)).eval(), torch.randn(2, 3, 16, 16)
    dense: Any = copy.deepcopy(model)
    dense[1].conv.stride, dense[1].blurs = (1, 1), (BlurPool2d(None, filt_size=4, stride=2),)
    converted: Any = antialias(model, form=form, partial=form == "class")
    assert verify(model, converted, x).ok
    # No module of this class gives the map to all that read it.
    expected = dense if form == "graph" else model
    with torch.no_grad():
        torch.testing.assert_close(converted(x), expected(x))


def as_tokens(x: Tensor, m: Any) -> Tensor:
    b, c, h, w = x.shape
    return F.layer_norm(x.flatten(2).transpose(1, 2), (8,), m.w).transpose(1, 2).reshape(b, c, h, w)


def as_rows(x: Tensor, m: Any) -> Tensor:
    b, c, h, w = x.shape
    return (x.view(b, c, -1) * m.w.unsqueeze(-1)).softmax(1).unflatten(2, (h, w))


def acon(x: Tensor, m: Any) -> Tensor:
    p = (m.w - m.b).view(1, -1, 1, 1)
    return p * x * torch.sigmoid(m.one * (p * x)) + m.b.view(1, -1, 1, 1) * x


def standardised(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6) ** 0.5


def stated(x: Tensor, change: Callable[[Tensor], object]) -> Tensor:
    """Drop what a change in place gives back, and go on with the tensor."""
    change(x)
    return x


def zeroed(x: Tensor) -> Tensor:
    x[x < 0] = 0
    return x


def zeroed_within(x: Tensor) -> Tensor:
    x[(x < 0) & ~(x < -1)] = 0.5
    return x


STATED: dict[str, Form] = {
    "silu, stated": lambda x, m: stated(x, lambda x: x.mul_(x.sigmoid())),
    "relu, stated method": lambda x, m: stated(x, lambda x: x.relu_()),
    "relu, stated function": lambda x, m: stated(x, torch.relu_),
    "relu, stated flag": lambda x, m: stated(x, lambda x: F.relu(x, inplace=True)),
    "relu, stated position": lambda x, m: stated(x, lambda x: F.relu(x, True)),
    "leaky, stated": lambda x, m: stated(x, lambda x: F.leaky_relu_(x, 0.1)),
    "hard-sigmoid, stated": lambda x, m: stated(x, lambda x: x.add_(3).clamp_(0, 6).div_(6)),
    "relu, copied": lambda x, m: stated(x, lambda x: x.copy_(x.relu())),
    "relu, filled": lambda x, m: stated(x, lambda x: x.masked_fill_(x < 0, 0.0)),
    "relu, by mask": lambda x, m: zeroed(x),
    "filled by mask": lambda x, m: zeroed_within(x),
    "twice": lambda x, m: stated(stated(x, lambda x: x.relu_()), lambda x: x.mul_(m.one)) + 0 * x,
}
FORMS: dict[str, Form] = {
    **STATED,
    "silu": lambda x, m: x * torch.sigmoid(x),
    "silu, methods": lambda x, m: x.sigmoid().mul(x),
    "silu, exp": lambda x, m: x / (1 + (-x).exp()),
    "silu, in place": lambda x, m: in_place(x, x.sigmoid()),
    "silu, in-place methods": lambda x, m: x.mul_(x.sigmoid()),
    "silu, keywords": lambda x, m: torch.mul(input=x, other=torch.sigmoid(input=x)),
    "silu, expit": lambda x, m: torch.special.expit(x) * x,
    "swish with beta": lambda x, m: x * torch.sigmoid(m.one * x),
    "quick gelu": lambda x, m: x * torch.sigmoid(1.702 * x),
    "hard-swish": lambda x, m: x * F.relu6(x + 3) / 6,
    "hard-swish, clamp": lambda x, m: x * (x + 3).clamp_(0, 6).div_(6),
    "hard-swish, clip": lambda x, m: torch.clip(x + 3, min=0, max=6) / 6 * x,
    "gelu, erf": lambda x, m: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu, tanh": lambda x, m: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3))),
    "gelu, pow": lambda x, m: x * 0.5 * ((torch.pow(x, 3) * 0.044715 + x) * 0.8).tanh().add(1),
    "mish": lambda x, m: x * torch.tanh(F.softplus(x)),
    "mish, log": lambda x, m: x * torch.log1p(torch.exp(x)).tanh(),
    "snake": lambda x, m: x + (1 / (m.w + 1e-9))[None, :, None, None] * torch.sin(x * m.w.view(1, -1, 1, 1)) ** 2,
    "snake, log scale": lambda x, m: x + torch.sin(x * m.one.exp()).pow(2) / (m.one.exp() + 1e-9),
    "leaky, where": lambda x, m: torch.where(x > 0, x, 0.1 * x),
    "leaky, method": lambda x, m: x.where(x >= 0, x * 0.1),
    "leaky, maximum": lambda x, m: torch.maximum(x, 0.1 * x),
    "leaky, max": lambda x, m: torch.max(x, 0.1 * x),
    "relu, view by slices of its size": lambda x, m: x.flatten(2).relu().view(*x.shape[:2], *x.shape[2:]),
    "relu, zeros": lambda x, m: torch.maximum(x, torch.zeros(x.shape)),
    "relu, new zeros": lambda x, m: torch.max(x, x.new_zeros(x.size())),
    "relu, full": lambda x, m: torch.where(x > 0, x, torch.full(x.shape, 0.0, dtype=x.dtype)),
    "leaky, two relus": lambda x, m: F.relu(x) - 0.1 * F.relu(-x),
    "leaky, clamps": lambda x, m: x.clamp(min=0) + 0.1 * x.clamp(max=0),
    "leaky, mask": lambda x, m: masked(x),
    "prelu by hand": lambda x, m: F.relu(x) + m.w.reshape(1, 8, 1, 1) * torch.minimum(x, torch.zeros_like(x)),
    "squared relu": lambda x, m: F.relu(x) ** 2,
    "glu, chunk": lambda x, m: halves(x)[0] * halves(x)[1].sigmoid(),
    "glu, split": lambda x, m: torch.mul(*(lambda a: (a[0], a[1].sigmoid()))(torch.split(x, 4, dim=1))),
    "glu, slices": lambda x, m: x[:, :4] * torch.sigmoid(x[:, 4:]),
    "glu, narrow": lambda x, m: x.narrow(1, 0, 4) * x.narrow(1, 4, 4).sigmoid(),
    "glu, unbind": lambda x, m: (lambda a: a[0] * a[1].sigmoid())(x.unflatten(1, (2, 4)).unbind(1)),
    "glu, function": lambda x, m: F.glu(x, 1),
    "wavenet gate": lambda x, m: torch.tanh(halves(x)[0]) * torch.sigmoid(halves(x)[1]),
    "simple gate": lambda x, m: halves(x)[0] * halves(x)[1],
    "maxout, stack": lambda x, m: torch.stack(halves(x)).amax(0),
    "maxout, halves": lambda x, m: torch.max(*halves(x)),
    "maxout, groups": lambda x, m: x.unflatten(1, (4, 2)).max(2).values,
    "maxout, view": lambda x, m: x.view(x.shape[0], 4, 2, x.shape[2], x.shape[3]).max(dim=2)[0],
    "crelu": lambda x, m: F.relu(torch.cat([x, -x], 1)),
    "crelu, after": lambda x, m: torch.cat((F.relu(x), F.relu(-x)), dim=-3),
    "layer norm": layer_norm,
    "layer norm, variance": lambda x, m: (x - x.mean(1, True)) * torch.rsqrt(x.var(1, False, True) + 1e-6),
    "layer norm, permuted": lambda x, m: F.layer_norm(x.permute(0, 2, 3, 1), (8,), m.w, m.b).permute(0, 3, 1, 2),
    "layer norm, moved": lambda x, m: F.layer_norm(x.movedim(1, -1), [8], m.w).movedim(-1, 1),
    "layer norm, transposed": lambda x, m: F.layer_norm(x.transpose(1, 3), (8,)).transpose(3, 1),
    "permuted activation": lambda x, m: (x.permute(0, 2, 3, 1) * m.w + m.b).relu().permute(0, 3, 1, 2),
    "last axis": lambda x, m: x.permute(0, 2, 3, 1).softmax(dim=-1).permute(0, 3, 1, 2),
    "layer norm, tokens in view": as_tokens,
    "rows in view": as_rows,
    "layer norm, both at once": lambda x, m: standardised(x),
    "acon": acon,
    "group sort": lambda x, m: x.unflatten(1, (4, 2)).sort(2)[0].flatten(1, 2),
    "max and min": lambda x, m: torch.cat([torch.maximum(*halves(x)), torch.minimum(*halves(x))], 1),
    "square plus": lambda x, m: (x + torch.sqrt(x * x + 4)) / 2,
    "log of a sum": lambda x, m: torch.logaddexp(x, torch.zeros_like(x)),
    "filled": lambda x, m: x.masked_fill(x < 0, 0.0),
    "filled by type": lambda x, m: x * (x > 0).type_as(x),
    "interpolated": lambda x, m: torch.lerp(x, F.relu(x), 0.9),
    "halved by size": lambda x, m: (lambda a: a[0] * a[1])(torch.split(x, x.shape[1] // 2, dim=1)),
    "rms norm": lambda x, m: x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * m.w.view(-1, 1, 1),
    "normalize": lambda x, m: F.normalize(x, dim=1),
    "normalize, by hand": lambda x, m: x / x.norm(dim=1, keepdim=True).clamp_min(1e-12),
    "normalize, norm": lambda x, m: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).expand_as(x),
    "softmax": lambda x, m: torch.softmax(x, dim=1),
    "softmax, by hand": lambda x, m: softmax(x),
    "channel shuffle": lambda x, m: F.relu(F.channel_shuffle(x, 2)),
    "channel shuffle, view": lambda x, m: F.relu(shuffled(x)),
    "sizes of no axis": lambda x, m: x.relu().view(x.shape) / x.size(1) ** 0.5 + x.dim(),
    "casts": lambda x, m: (x.double().sigmoid() * x).to(x.dtype),
    "residual of itself": lambda x, m: F.relu(x) + x,
}
MODULES: dict[str, nn.Module] = {
    "silu": nn.SiLU(),
    "silu, exp": nn.SiLU(),
    "silu, in place": nn.SiLU(),
    "hard-swish": nn.Hardswish(),
    "hard-swish, clamp": nn.Hardswish(),
    "gelu, erf": nn.GELU(),
    "mish": nn.Mish(),
    "mish, log": nn.Mish(),
    "leaky, where": nn.LeakyReLU(0.1),
    "leaky, mask": nn.LeakyReLU(0.1),
    "glu, chunk": nn.GLU(1),
    "glu, slices": nn.GLU(1),
    "softmax, by hand": nn.Softmax2d(),
    "squared relu": nn.Sequential(nn.ReLU()),
}
FORMS |= {f"module {name}": module for name, module in MODULES.items()}


def check(model: Network, given: nn.Module, x: Tensor) -> None:
    """Compare the conversion of `given`, which computes what `model` does, with the edit by hand."""
    converted = antialias(given, example_inputs=x, optimize=False).eval()
    assert len(converted.meta["blurify"].rewritten) == len(model.blocks)
    with torch.no_grad():
        expected, found = model.by_hand(x), converted(x)
    for name in model.blocks:
        torch.testing.assert_close(found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_every_form_is_blurred_after() -> None:
    check(model := Network(FORMS).eval(), model, torch.randn(2, 3, 16, 20))


# The sizes of a map are numbers of the input's in a program: these forms are no position-wise ones there.
EXPORTED = [
    name for name in FORMS if "view" not in name and name not in ("relu, zeros", "relu, new zeros", "relu, full")
]


@pytest.mark.parametrize("names", [EXPORTED[::6], pytest.param(EXPORTED, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_form_is_blurred_after_in_an_exported_program(names: list[str]) -> None:
    model = Network({name: FORMS[name] for name in names}).eval()
    x = torch.randn(2, 3, 16, 20)
    check(model, export_once(model, Inputs((x,), {}), strict=False), x)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "squared relu"])
def test_a_form_is_its_module(name: str) -> None:
    written, module = Network({"a": FORMS[name]}).eval(), Network({"a": FORMS[f"module {name}"]}).eval()
    module.load_state_dict(written.state_dict())
    x = torch.randn(2, 3, 16, 20)
    with torch.no_grad():
        torch.testing.assert_close(antialias(written)(x)["a"], antialias(module)(x)["a"])


def test_rearranging_is_followed() -> None:
    rearrange = pytest.importorskip("einops").rearrange

    def norm(x: Tensor, m: Any) -> Tensor:
        tokens = F.layer_norm(rearrange(x, "b c h w -> b (h w) c"), (8,))
        return rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])

    forms: dict[str, Form] = {
        "norm": norm,
        "last axis": lambda x, m: rearrange(rearrange(x, "b c h w -> b h w c") * m.w, "b h w c -> b c h w"),
        "glu": lambda x, m: rearrange(x, "b (g c) h w -> g b c h w", g=2).prod(0),
    }
    check(model := Network(forms).eval(), model, torch.randn(2, 3, 16, 20))


def excited(x: Tensor, m: Any) -> Tensor:
    return x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1) * m.w[:, None, None])


def written(x: Tensor, y: Tensor) -> Tensor:
    y[:, :4] = x[:, 4:]
    return y + 0 * x


OTHERS: dict[str, Form] = {
    "squeeze-excite": excited,
    "squeeze-excite, mean": lambda x, m: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "spatial attention": lambda x, m: x * F.avg_pool2d(x.mean(1, keepdim=True), 3, 1, 1),
    "global response norm": lambda x, m: x * torch.norm(x, p=2, dim=(2, 3), keepdim=True),
    "norm of all": lambda x, m: x / x.norm(),
    "largest of all": lambda x, m: x / x.max(),
    "mean of all": lambda x, m: x - x.mean(),
    "softmax along rows": lambda x, m: x.softmax(-1),
    "softmax, permuted": lambda x, m: x.permute(0, 2, 3, 1).softmax(1).permute(0, 3, 1, 2),
    "rows summed up": lambda x, m: x.cumsum(2),
    "rows normalised": lambda x, m: F.normalize(x, dim=-1),
    "rows gated": lambda x, m: F.glu(x),
    "rows turned": lambda x, m: x.flip(-1),
    "columns moved": lambda x, m: x.roll(1, 2),
    "rows beside channels": lambda x, m: x.permute(0, 2, 3, 1) + x,
    "transposed": lambda x, m: x.transpose(2, 3) * x,
    "batch-norm of rows": lambda x, m: F.batch_norm(x.permute(0, 2, 1, 3), m.w, m.w).permute(0, 2, 1, 3),
    "layer norm of maps": lambda x, m: F.layer_norm(x, (8, 8, 8)),
    "weights along rows": lambda x, m: x * m.w,
    "prelu along rows": lambda x, m: F.prelu(x.transpose(1, 2), m.w).transpose(1, 2),
    "product of rows": lambda x, m: x @ torch.ones(8, 8),
    "size": lambda x, m: x.relu() * x.shape[-1],
    "sum by size": lambda x, m: x.sum((2, 3), keepdim=True) / x.numel() + x,
    "tokens": lambda x, m: x.flatten(2).softmax(1).unflatten(2, (8, 8)),
    "other groups of rows": lambda x, m: x.reshape(x.shape[0], -1, 4, x.shape[3], 2).amax(-1),
    "rows and columns as channels": lambda x, m: x.permute(0, 2, 1, 3).reshape(x.shape[0], -1, x.shape[2], x.shape[3]),
    "columns before rows": lambda x, m: x.permute(0, 1, 3, 2).flatten(2).unflatten(2, (x.shape[2], x.shape[3])),
    "rows of rows": lambda x, m: (
        x.flatten(2).unflatten(2, (4, 16)).amax(3, keepdim=True).flatten(2).unflatten(2, (2, 2))
    ),
    "items written elsewhere": lambda x, m: written(x, F.max_pool2d(x, 3, 1, 1)),
    "another map": lambda x, m: x.sigmoid() * F.max_pool2d(x, 3, 1, 1),
    "written into another": lambda x, m: F.max_pool2d(x, 3, 1, 1).copy_(x),
    "written into another, stated": lambda x, m: stated(F.max_pool2d(x, 3, 1, 1), lambda y: y.add_(x)),
    "random": lambda x, m: x + torch.rand_like(x) * 0,
    "picked by position": lambda x, m: x[:, :, torch.arange(8)],
    "matches of rows": lambda x, m: torch.where(x == x.amax(-1, keepdim=True), x, 0.0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_mixes_positions_is_blurred_before(name: str) -> None:
    """Some of these have their first operations behind the blur, as far as these act on positions alone."""
    model = Network({"a": OTHERS[name]}).eval()
    x = torch.randn(2, 3, 16, 16)
    (decision,) = (d for d in plan(model, example_inputs=x).rewritten if d.site == "blocks.a.conv")
    assert decision.landing == "blocks.a.norm"
    verdict = verify(model, antialias(model, example_inputs=x, include="blocks.a.conv"), x)
    assert verdict.ok, str(verdict)


EXCITED: dict[str, Form] = {
    "adaptive pool": excited,
    "mean": OTHERS["squeeze-excite, mean"],
    "in place": lambda x, m: x.mul_(F.hardsigmoid(x.mean((2, 3), keepdim=True))),
}


@pytest.mark.parametrize("name", EXCITED)
def test_the_plan_names_the_squeeze_excite_that_it_stops_before(name: str) -> None:
    made = plan(Network({"a": EXCITED[name]}).eval())
    (product,) = (d.before for d in made.rewritten)
    assert product.startswith("blocks.a.mul")
    assert f"after blocks.a.norm (before the squeeze-excite {product}, which reads all positions)" in str(made)
    assert Plan.from_json(made.to_json()) == made


def test_other_products_are_no_squeeze_excite() -> None:
    for form in (OTHERS["another map"], OTHERS["size"], FORMS["silu"], lambda x, m: x * F.avg_pool2d(x, 3, 1, 1)):
        assert [d.before for d in plan(Network({"a": form}).eval()).rewritten] == [""]


def test_a_plan_may_blur_at_any_exit_and_nowhere_inside() -> None:
    model = Network({"a": FORMS["silu"]}).eval()
    (decision,) = plan(model).rewritten
    assert decision.landing == "blocks.a.mul"
    early = Plan((replace(decision, landing="blocks.a.norm"),))
    assert verify(model, early.apply(model), torch.randn(2, 3, 16, 16)).ok
    inside = Plan.from_json(Plan((replace(decision, landing="blocks.a.sigmoid"),)).to_json())
    with pytest.raises(PlanError, match="where a blur would not be of that site alone"):
        inside.apply(model)


@pytest.mark.parametrize("name", ["silu", "layer norm", "glu, chunk"])
def test_a_model_of_its_own_class_is_blurred_at_the_same_place(name: str) -> None:
    model, x = Network({"a": FORMS[name]}).eval(), torch.randn(2, 3, 16, 16)
    kept = antialias(model, form="class")
    with torch.no_grad():
        torch.testing.assert_close(kept(x)["a"], model.by_hand(x)["a"])


def test_a_second_conversion_has_nothing_to_do() -> None:
    for form in ("silu", "maxout, stack", "layer norm, permuted"):
        model = Network({"a": FORMS[form]})
        model.blocks["a"].conv.stride = (4, 4)
        assert not plan(antialias(model)).rewritten


def test_numbers_that_are_no_floats_are_not_blurred() -> None:
    for form in (lambda x, m: x > 0, lambda x, m: x.argmax(1, keepdim=True), lambda x, m: x.to(torch.int32)):
        model = Network({"a": form}).eval()
        assert [d.landing for d in plan(model).rewritten] == ["blocks.a.norm"]
        assert antialias(model)(torch.randn(2, 3, 16, 16))["a"].shape[2:] == (8, 8)


def test_without_samples_the_first_axes_are_others() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Softmax(1))
    x = torch.randn(3, 16, 16)
    assert [d.landing for d in plan(model, example_inputs=x).rewritten] == ["1"]
    assert [d.landing for d in plan(model, example_inputs=x[None]).rewritten] == ["2"]
    assert verify(model, antialias(model, example_inputs=x), x).ok


@pytest.mark.parametrize("axes", [1, 3])
def test_forms_of_other_ranks(axes: int) -> None:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[axes]

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = conv(3, 4, 1), conv(4, 8, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.conv(self.stem(x)).chunk(2, dim=1)
            return F.normalize(torch.tanh(a) * torch.sigmoid(b), dim=1) + 0

    model, x = Gated(), torch.randn(2, 3, *(16, 12, 8)[:axes])
    assert [d.landing for d in plan(model).rewritten] == ["add"]
    assert verify(model, antialias(model), x).ok


def test_the_statistics_of_a_norm_inside_a_region_are_named() -> None:
    model = Network({"a": lambda x, m: x * F.group_norm(x, 2).sigmoid()})
    (decision,) = plan(model).rewritten
    assert (decision.landing, decision.statistics) == ("blocks.a.mul", ("blocks.a.group_norm",))
    assert verify(model, antialias(model), torch.randn(2, 3, 16, 16)).ok


ONE: list[Callable[[Tensor], Tensor]] = [
    torch.sigmoid,
    lambda x: x.clamp(-1, 1),
    lambda x: x * 0.5 + 1,
    lambda x: F.normalize(x, dim=1),
    lambda x: x.mean(1, keepdim=True).expand_as(x),
    lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2),
    lambda x: torch.cat(halves(x)[::-1], 1),
    lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
    lambda x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]],
    lambda x: F.layer_norm(x.movedim(1, 3), (8,)).movedim(3, 1),
]
TWO: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    lambda x, y: x * y.tanh(),
    torch.maximum,
    lambda x, y: torch.where(x > y, x, 0.5 * y),
    lambda x, y: torch.cat([halves(x)[0], halves(y)[1]], 1),
    lambda x, y: torch.stack([x, y], 1).amax(1),
]


@st.composite
def recipes(draw: st.DrawFn) -> list[tuple[int, tuple[int, ...]]]:
    """Operations, each with the numbers of the values that it reads: the map is number 0."""
    recipe = []
    for made in range(draw(st.integers(1, 7))):
        read = st.integers(max(0, made - 3), made)
        if draw(st.booleans()):
            recipe.append((draw(st.integers(0, len(ONE) - 1)), (draw(read),)))
        else:
            recipe.append((draw(st.integers(0, len(TWO) - 1)), (draw(read), draw(read))))
    return recipe


def cooked(recipe: list[tuple[int, tuple[int, ...]]], x: Tensor) -> Tensor:
    """Follow a recipe, and add up what nothing has read."""
    values, unread = [x], {0}
    for operation, read in recipe:
        function: Any = ONE[operation] if len(read) == 1 else TWO[operation]
        values.append(function(*(values[i] for i in read)))
        unread = (unread - set(read)) | {len(values) - 1}
    first, *others = (values[i] for i in sorted(unread))
    return sum(others, first)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(recipes())
def test_random_regions_are_blurred_at_their_exit(recipe: list[tuple[int, tuple[int, ...]]]) -> None:
    torch.manual_seed(0)
    model = Network({"a": lambda x, m: cooked(recipe, x)}).double().eval()
    x = torch.randn(1, 3, 8, 8, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(antialias(model, optimize=False)(x)["a"], model.by_hand(x)["a"])
        torch.testing.assert_close(antialias(model, 1, optimize=False)(x)["a"], model(x)["a"])
