"""The first conv is the stem, whatever prepares the model's input for it; what has learnt before makes it a map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import plan
from blurify.planning.plan import Plan
from blurify.sites import Reason
from blurify.tracing.export import export_once
from blurify.tracing.inputs import Inputs

Prepare = Callable[[Tensor, Any], Tensor]
IMAGE = (2, 3, 32, 32)


class Prepared(nn.Module):
    """A function of the input, then two strided convs."""

    def __init__(self, prepare: Prepare, channels: int = 3) -> None:
        super().__init__()
        self.prepare = prepare
        self.first, self.second = nn.Conv2d(channels, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.pad, self.norm, self.one = nn.ZeroPad2d((0, 1, 0, 1)), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("sobel", torch.randn(3, 1, 3, 3))
        self.register_buffer("grid", torch.rand(1, 2, 32, 32))
        self.place = nn.Parameter(torch.rand(1, 3, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(self.prepare(x, self))))


def frames(x: Tensor) -> Tensor:
    b, t, c, h, w = x.shape
    return x.reshape(b * t, c, h, w)


def with_coordinates(x: Tensor) -> Tensor:
    rows = torch.linspace(-1, 1, 32).view(1, 1, 32, 1).expand(2, 1, 32, 32)
    return torch.cat([x, rows, rows.transpose(2, 3)], 1)


def picked_apart(x: Tensor) -> Tensor:
    red, green, blue = x.unbind(1)
    return torch.stack([blue / 255, green / 255, red / 255], 1)


STEMS: dict[str, tuple[Prepare, tuple[int, ...], int]] = {
    "nothing": (lambda x, m: x, IMAGE, 3),
    "channels last": (lambda x, m: x.permute(0, 3, 1, 2), (2, 32, 32, 3), 3),
    "channels last, moved": (lambda x, m: x.movedim(-1, 1).contiguous(), (2, 32, 32, 3), 3),
    "channels last, transposed": (lambda x, m: x.transpose(1, 3).transpose(2, 3), (2, 32, 32, 3), 3),
    "padded": (lambda x, m: F.pad(x, (0, 1, 0, 1)), IMAGE, 3),
    "padded by a module": (lambda x, m: m.pad(x), IMAGE, 3),
    "padded by reflection": (lambda x, m: F.pad(x, (1, 1, 1, 1), mode="reflect"), IMAGE, 3),
    "resized": (lambda x, m: F.interpolate(x, size=(48, 48)), IMAGE, 3),
    "resized smoothly": (lambda x, m: F.interpolate(x, scale_factor=1.5, mode="bilinear"), IMAGE, 3),
    "cropped": (lambda x, m: x[:, :, 2:-2, 2:-2], IMAGE, 3),
    "frames": (lambda x, m: x.flatten(0, 1), (2, 4, 3, 32, 32), 3),
    "frames, reshaped": (lambda x, m: frames(x), (2, 4, 3, 32, 32), 3),
    "frames, viewed": (lambda x, m: x.view(-1, *x.shape[2:]), (2, 4, 3, 32, 32), 3),
    "frames as channels": (lambda x, m: x.transpose(1, 2).flatten(1, 2), (2, 3, 4, 32, 32), 12),
    "one channel": (lambda x, m: x.unsqueeze(1), (2, 32, 32), 1),
    "repeated channel": (lambda x, m: x.repeat(1, 3, 1, 1), (2, 1, 32, 32), 3),
    "other channels": (lambda x, m: x[:, [2, 1, 0]], IMAGE, 3),
    "flipped channels": (lambda x, m: x.flip(1), IMAGE, 3),
    "some channels": (lambda x, m: x[:, :3], (2, 4, 32, 32), 3),
    "picked apart": (lambda x, m: picked_apart(x), IMAGE, 3),
    "scaled": (lambda x, m: x.float() / 255, IMAGE, 3),
    "normalised": (lambda x, m: (x - m.mean) / m.mean, IMAGE, 3),
    "standardised": (lambda x, m: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True), IMAGE, 3),
    "batch-norm": (lambda x, m: m.norm(x), IMAGE, 3),
    "grey": (lambda x, m: (x * m.mean).sum(1, keepdim=True), IMAGE, 1),
    "coordinates": (lambda x, m: with_coordinates(x), IMAGE, 5),
    "coordinates, stored": (lambda x, m: torch.cat([x, m.grid.expand(2, -1, -1, -1)], 1), IMAGE, 5),
    "edges": (lambda x, m: F.conv2d(x, m.sobel, padding=1, groups=3), IMAGE, 3),
    "space to depth": (lambda x, m: F.pixel_unshuffle(x, 2), IMAGE, 12),
    "as large as a map": (lambda x, m: F.interpolate(x, m.one(x).shape[2:]), IMAGE, 3),
}
NO_STEMS: dict[str, tuple[Prepare, tuple[int, ...], int]] = {
    "conv": (lambda x, m: m.one(x), IMAGE, 3),
    "conv as a function": (lambda x, m: F.conv2d(x, m.one.weight), IMAGE, 3),
    "conv by standardised weights": (lambda x, m: F.conv2d(x, m.one.weight - m.one.weight.mean()), IMAGE, 3),
    "conv by scaled weights": (lambda x, m: F.conv2d(x, weight=F.normalize(m.one.weight, dim=1) * 2), IMAGE, 3),
    "conv beside": (lambda x, m: torch.cat([x, m.one(x)], 1), IMAGE, 6),
    "gate": (lambda x, m: x * m.one(x).mean((2, 3), keepdim=True), IMAGE, 3),
    "positions": (lambda x, m: x + m.place, IMAGE, 3),
}


def reasons(made: Plan) -> dict[str, Reason | None]:
    """Return what is said of the two convs."""
    return {d.site: d.reason for d in made.decisions if d.site in ("first", "second")}


@pytest.mark.parametrize("front_end", ["as it is", "exported"])
@pytest.mark.parametrize("name", [*STEMS, *NO_STEMS])
def test_the_first_conv_is_the_stem(name: str, front_end: str) -> None:
    prepare, shape, channels = (STEMS | NO_STEMS)[name]
    model, x = Prepared(prepare, channels).eval(), torch.rand(shape)
    model.one.requires_grad_(False)
    given = model if front_end == "as it is" else export_once(model, Inputs((x,), {}), strict=False)
    expected = Reason.STEM if name in STEMS else None
    assert reasons(plan(given, example_inputs=x)) == {"first": expected, "second": None}
    assert reasons(plan(given, example_inputs=x, stem=True)) == {"first": None, "second": None}


def test_a_stem_without_parameters_is_one() -> None:
    """Frozen programs hold their weights as buffers: a conv's kernel has learnt all the same."""
    model, x = Prepared(lambda x, m: x).eval(), torch.rand(IMAGE)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach())
    assert reasons(plan(model, example_inputs=x)) == {"first": Reason.STEM, "second": None}


class Tokens(nn.Module):
    """Patches of the image, and patches of what is made of their tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.cut_again = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.cut(x).flatten(2).transpose(1, 2))
        return self.cut_again(x.permute(0, 2, 1).reshape(x.shape[0], 8, 8, 8))


@pytest.mark.parametrize(
    "make", [Tokens, pytest.param(lambda: timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1)), marks=pytest.mark.slow)]
)
def test_patches_of_tokens_are_kept_whatever_the_front_end(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), torch.rand(2, 3, 32, 32)
    program = export_once(model, Inputs((x,), {}), strict=False)
    made = [plan(each, example_inputs=x).decisions for each in (model, program)]
    said = [[(d.site, d.kind, d.action, d.reason) for d in decisions] for decisions in made]
    assert said[0] == said[1]
    assert Reason.PATCH_EMBED in {reason for *_, reason in said[0]}


class Named(nn.Module):
    """Two convs that cut their input into patches, each behind a module with the name of an operator."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Identity())
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        own = self.get_submodule(self.name)
        return self.second(own(F.relu(self.first(own(x)))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["size", "view", "linear", "conv2d", "permute", "unflatten"])
def test_a_module_may_have_the_name_of_an_operator(name: str) -> None:
    """What a module is called says nothing of what it does."""
    assert [decision.reason for decision in plan(Named(name)).decisions] == [Reason.STEM, None]
